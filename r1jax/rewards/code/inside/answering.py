"""Function and assert tests: run the steps of a request on a program, write the values down."""

from __future__ import annotations

import sys
import types

from r1jax.rewards.code.inside import prelude, values


def load(source: str, name: str) -> dict:
    """Execute a program as the module `name` and give its namespace."""
    module = types.ModuleType(name)
    module.__file__ = "main.py"
    sys.modules["__main__"] = sys.modules[name] = module
    if name != "__main__":
        module.__dict__.update(prelude.names_for(source))
    exec(_compiled(source, "main.py", "exec"), module.__dict__)
    return module.__dict__


def answer(request: dict, namespace: dict) -> bytes:
    """The nonce, then one line for each step that has a value."""
    lines = [_run_step(step, namespace) for step in request["steps"]]
    return "\n".join([request["nonce"], *(x for x in lines if x is not None)]).encode("ascii")


def _run_step(step: dict, namespace: dict) -> str | None:
    if "execute" in step:
        exec(_compiled(step["execute"], "test.py", "exec"), namespace)
        return None
    if "truth" in step:
        value: object = bool(eval(_compiled(step["truth"], "test.py", "eval"), namespace))
    elif "value" in step:
        value = eval(_compiled(step["value"], "test.py", "eval"), namespace)
    else:
        value = _find(step["function"], namespace)(*step["arguments"])
    try:
        return values.encode(value)
    except values.NotPlain as error:
        return values.refusal(str(error))


def _compiled(source: str, name: str, mode: str) -> types.CodeType:
    return compile(source, name, mode, dont_inherit=True)  # not our own __future__ import


def _find(name: str, namespace: dict) -> types.FunctionType:
    """A global function, or the method of a LeetCode `Solution` class."""
    head, *rest = name.split(".")
    if head not in namespace and "Solution" in namespace:
        return getattr(namespace["Solution"](), head)
    found = namespace[head]
    for part in rest:
        found = getattr(found() if isinstance(found, type) else found, part)
    return found
