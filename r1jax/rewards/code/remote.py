"""Run cases on a SandboxFusion or piston server; the judgement stays here, so rewards are the same.

A `backend` for `run_tests`. What the server calls its own failure, or does not answer in time, is
tried again after a random pause and ends as `infra`, which masks the sample.
"""

import base64
import dataclasses
import functools
import json
import marshal
import pathlib
import random
import signal
import time
import urllib.error
import urllib.request
from typing import Any

from r1jax.rewards.code.sandbox import Case, Limits, Outcome, SandboxError

_COMPILE_S = 30.0
_SLACK_S = 10.0  # for the request to travel and to wait its turn
_PAUSE_S = 0.5
_OVERLOADED = "Resource temporarily unavailable"
_DRIVER_MODULES = ("values", "prelude", "answering")

# The far side of function and assert tests, where there is no private channel: the request comes
# on stdin, the answer is the end of stdout.
_DRIVER = """
import base64, marshal, os, sys, types
package = sys.modules["r1jax.rewards.code.inside"] = types.ModuleType("inside")
for name, source in marshal.loads(base64.b64decode({modules!r})):
    module = types.ModuleType(name)
    sys.modules["r1jax.rewards.code.inside." + name] = module
    setattr(package, name, module)
    exec(source, module.__dict__)
namespace = package.answering.load(base64.b64decode({program!r}).decode(), "solution")
request = marshal.loads(base64.b64decode(sys.stdin.readline()))
answer = package.answering.answer(request, namespace)
sys.stdout.flush()
os.write(1, b"\\n" + answer)
os._exit(0)
"""


class _Unavailable(Exception):
    """The server failed in a way that another try may mend."""


@dataclasses.dataclass(frozen=True)
class SandboxFusion:
    """bytedance/SandboxFusion, `POST /run_code`."""

    url: str  # http://host:8080
    tries: int = 4

    def run(self, case: Case, limits: Limits) -> Outcome:
        language, source, stdin = _as_program(case)
        request = {
            "language": language,
            "code": source,
            "stdin": stdin,
            "compile_timeout": _COMPILE_S,
            "run_timeout": limits.time_s,
            "memory_limit_MB": limits.memory_mb,
            "files": {},
            "fetch_files": [],
        }
        read = functools.partial(_read_fusion, case=case)
        return _ask(f"{self.url}/run_code", request, read, limits, self.tries)


@dataclasses.dataclass(frozen=True)
class Piston:
    """engineer-man/piston, `POST /api/v2/execute`."""

    url: str  # http://host:2000
    tries: int = 5
    version: str = "*"

    def run(self, case: Case, limits: Limits) -> Outcome:
        language, source, stdin = _as_program(case)
        name = "main.py" if language == "python" else "main.cpp"
        request = {
            "language": "python" if language == "python" else "c++",
            "version": self.version,
            "files": [{"name": name, "content": source, "encoding": "utf8"}],
            "stdin": stdin,
            "args": [],
            "compile_timeout": round(1000 * _COMPILE_S),
            "run_timeout": round(1000 * limits.time_s),
            "run_memory_limit": limits.memory_mb << 20,
        }
        read = functools.partial(_read_piston, case=case, memory_mb=limits.memory_mb)
        return _ask(f"{self.url}/api/v2/execute", request, read, limits, self.tries)


def _as_program(case: Case) -> tuple[str, str, str]:
    """Language, source and standard input of a case."""
    source = case.program.decode("utf-8", "replace")
    if case.kind == "answer":
        driver = _DRIVER.format(modules=_driver_modules(), program=base64.b64encode(case.program))
        return "python", driver, base64.b64encode(case.request).decode() + "\n"
    if case.kind in ("script", "cpp"):
        language = "python" if case.kind == "script" else "cpp"
        return language, source, case.stdin.decode("utf-8", "replace")
    raise SandboxError(f"a remote server cannot run a case of kind {case.kind}")


@functools.cache
def _driver_modules() -> bytes:
    directory = pathlib.Path(__file__).parent / "inside"
    sources = [(name, (directory / f"{name}.py").read_text()) for name in _DRIVER_MODULES]
    return base64.b64encode(marshal.dumps(sources, 4))


def _ask(url: str, request: dict[str, Any], read: Any, limits: Limits, tries: int) -> Outcome:
    timeout_s = limits.time_s + _COMPILE_S + _SLACK_S
    reason = "no try"
    for attempt in range(tries):
        if attempt:
            time.sleep(_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        try:
            return read(_post(url, request, timeout_s))
        except _Unavailable as error:
            reason = str(error)
        except (KeyError, TypeError, ValueError) as error:
            raise SandboxError(f"{url} answered in another shape: {error!r}") from error
    raise SandboxError(f"{url} failed {tries} times, last: {reason}")


def _post(url: str, request: dict[str, Any], timeout_s: float) -> Any:
    data = json.dumps(request).encode()
    head = {"Content-Type": "application/json"}
    try:
        message = urllib.request.Request(url, data, head)
        with urllib.request.urlopen(message, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 429 or error.code >= 500:
                raise _Unavailable(f"HTTP {error.code}") from None
            raise SandboxError(f"{url} refused the request: HTTP {error.code}") from None
    except OSError as error:  # also URLError: refused, reset, timed out
        raise _Unavailable(str(error)) from None


def _read_fusion(answer: dict[str, Any], *, case: Case) -> Outcome:
    if answer["status"] == "SandboxError":
        raise _Unavailable(str(answer.get("message"))[:200])
    compiled, run = answer.get("compile_result"), answer.get("run_result")
    if run is None:
        return _outcome(case, "compile", 1, "", (compiled or {}).get("stderr") or "", 0.0)
    end = "timeout" if run["status"] == "TimeLimitExceeded" else "exit"
    code = run.get("return_code")
    return _outcome(
        case,
        end,
        0 if code is None else int(code),
        run.get("stdout") or "",
        run.get("stderr") or "",
        float(run.get("execution_time") or 0.0),
    )


def _read_piston(answer: dict[str, Any], *, case: Case, memory_mb: int) -> Outcome:
    compiled = answer.get("compile")
    if compiled and compiled.get("code") != 0:
        return _outcome(case, "compile", 1, "", compiled.get("stderr") or "", 0.0)
    run = answer["run"]
    stderr = run.get("stderr") or ""
    status = run.get("status")
    if status == "XX" or (_OVERLOADED in stderr and run.get("code") != 0):
        raise _Unavailable(str(run.get("message") or "overloaded")[:200])
    end = {"TO": "timeout", "OL": "output", "EL": "output"}.get(status, "exit")
    if end == "exit" and run.get("signal") and (run.get("memory") or 0) >= memory_mb << 20:
        end = "memory"
    wall_s = float(run.get("wall_time") or 0.0) / 1000
    return _outcome(case, end, _piston_code(run), run.get("stdout") or "", stderr, wall_s)


def _piston_code(run: dict[str, Any]) -> int:
    """The exit status, or minus the number of the signal that is given by name."""
    if run.get("signal"):
        return -int(getattr(signal, run["signal"], signal.SIGKILL))
    return 1 if run.get("code") is None else int(run["code"])


def _outcome(case: Case, end: str, code: int, stdout: str, stderr: str, wall_s: float) -> Outcome:
    out = stdout.encode("utf-8", "surrogatepass")
    result = b""
    if case.kind == "answer":
        # The nonce is in the request that only this run knows; what was printed before is noise.
        nonce = marshal.loads(case.request)["nonce"].encode()
        _, found, rest = out.rpartition(b"\n" + nonce)
        result = nonce + rest if found else b""
    return Outcome(
        end=end,
        code=code,
        stdout=out,
        stderr=stderr.encode("utf-8", "surrogatepass"),
        result=result,
        wall_s=wall_s,
        cpu_s=wall_s,  # unknown; equal times say that the host was not busy
        peak_mb=0.0,
    )
