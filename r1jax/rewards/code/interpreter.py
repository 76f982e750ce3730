"""Which Python runs inside the sandbox, and our far-side modules compiled for it."""

import dataclasses
import functools
import marshal
import os
import pathlib
import shutil
import subprocess
import sys

from r1jax.rewards.code import users

_PACKAGE = "r1jax.rewards.code.inside"
# In the order of their imports.
_MODULES = (
    "linux",
    "landlock",
    "syscalls",
    "seccomp",
    "namespaces",
    "frames",
    "values",
    "confine",
    "prelude",
    "answering",
    "child",
    "supervise",
)

# -I would ignore PYTHONHASHSEED too; without it, sets of strings have another order in every run.
FLAGS = ("-s", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0")
ENVIRON = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}

# The sandbox has its own of these, so an interpreter that lies there cannot be seen.
_HIDDEN = ("/tmp/", "/dev/", "/proc/")

_PREPARE = """
import marshal, sys
open(sys.argv[1], "rb").close()  # setpriv could start what its new user may not read
sources = marshal.loads(sys.stdin.buffer.read())
bundle = marshal.dumps([(n, compile(s, n, "exec", dont_inherit=True)) for n, s in sources])
sys.stdout.buffer.write(marshal.dumps((sys.base_prefix, bundle)))
"""

BOOT = f"""
import marshal, os, sys, types
sys.path[:] = [path for path in sys.path if path]
def take(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit("no bundle")
    return data
package = sys.modules["{_PACKAGE}"] = types.ModuleType("{_PACKAGE}")
for name, code in marshal.loads(take(int.from_bytes(take(4), "big"))):
    module = sys.modules["{_PACKAGE}." + name] = types.ModuleType("{_PACKAGE}." + name)
    setattr(package, name, module)
    exec(code, module.__dict__)
package.supervise.main()
"""


@dataclasses.dataclass(frozen=True)
class Interpreter:
    path: str
    prefix: str  # must be readable inside the sandbox
    bundle: bytes  # marshalled code of the far-side modules; made before any program ran

    @property
    def command(self) -> list[str]:
        return [self.path, *FLAGS, "-c", BOOT]

    @property
    def boot_message(self) -> bytes:
        return len(self.bundle).to_bytes(4, "big") + self.bundle


@functools.cache
def find() -> Interpreter | None:
    """Ours if the sandbox's user can read it (in root's home it cannot), else the system's."""
    own = os.path.realpath(sys.executable)
    system = [shutil.which("python3", path=ENVIRON["PATH"])]
    for path in dict.fromkeys([own, *system]):
        found = path and _prepare(path)
        if found:
            return found
    return None


def _prepare(path: str) -> Interpreter | None:
    directory = pathlib.Path(__file__).parent / "inside"
    sources = [(name, (directory / f"{name}.py").read_text()) for name in _MODULES]
    with users.spare_uid() as uid:
        try:
            done = subprocess.run(
                users.command_as(uid, [path, *FLAGS, "-c", _PREPARE, path]),
                input=marshal.dumps(sources),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRON,
                cwd="/",
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
    # Trusted: it comes from an interpreter of this machine that ran only our own code.
    prefix, bundle = marshal.loads(done.stdout)
    if prefix.startswith(_HIDDEN):
        return None
    return Interpreter(path, prefix, bundle)
