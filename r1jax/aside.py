"""Calls from a thread of their own, to have the device run them beside what others dispatched."""

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

import jax

from r1jax.errors import UserError

# What is set for a thread and changes what is compiled there, by `jax.config`'s name for it.
_SETTINGS: dict[str, Callable[[Any], contextlib.AbstractContextManager[Any]]] = {
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_enable_x64": jax.enable_x64,
}


class Aside:
    """Calls a function in a thread of its own, and waits for it: XLA:CPU runs what one thread
    dispatches one after the other, what two dispatch at the same time."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._mesh = jax.sharding.get_mesh()
        self._settings = {name: getattr(jax.config, name) for name in _SETTINGS}

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._thread.submit(self._call, function, *arguments).result()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As it would be here."""
        with contextlib.ExitStack() as stack:
            if not self._mesh.empty:
                stack.enter_context(jax.set_mesh(self._mesh))
            for name, value in self._settings.items():
                stack.enter_context(_SETTINGS[name](value))
            return function(*arguments)


def require_one_lane(section: str, lanes: int, devices: int) -> None:
    """Where devices work together, they must meet the same programs in the same order."""
    if lanes > 1 and devices > 1:
        raise UserError(f"config.{section}.lanes={lanes}: {devices} devices share one; use 1")
