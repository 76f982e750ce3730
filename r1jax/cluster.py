"""Several processes at one run: they join over `jax.distributed`, and tell each other small things.

All run the same program on the same global arrays. What a host alone knows, a verdict or a signal,
goes over jax's own coordination service and not over the devices, which are busy: nobody waits for
a chunk of decoding to learn what another process thinks. Alone, every function here is free.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax

from r1jax import last_words
from r1jax.errors import UserError, in_one_line

T = TypeVar("T")

HEARTBEAT_S = 60  # a process that was silent for so long is gone; jax's own default is 100
_ASK_MS = 2000  # between two looks whether the process that is waited for has failed
_GOODBYE_S = 5.0  # the first process, with which the service ends, waits for the others so long
_FAILED = "r1jax/failed/"
_COLLECTIVES = ("Gloo", "NCCL")
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # what devices say of themselves
_PART = 1 << 20  # bytes of one value of the service
_SETTINGS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_numbers: dict[str, int] = {}  # exchanges so far, by what they are about
_waiting = ""  # what this process waits for, for a watchdog to read
_teller: subprocess.Popen[bytes] | None = None  # `last_words`


def join(
    address: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    detect: bool = False,
    heartbeat_s: int = HEARTBEAT_S,
) -> None:
    """Meet the other processes, before anything else uses jax. What is not given here is taken from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or with `detect` from the cluster
    (TPU pods, Slurm, Open MPI, Kubernetes). Nothing of all that = this process is alone."""
    address, count, index = _settings(address, processes, process)
    if not detect and (address, count, index) == (None, None, None):
        return
    if not detect and None in (address, count, index):
        raise UserError(
            "of --coordinator_address, --num_processes and --process_id some are given and some "
            "not: give all three, or --distributed where the cluster itself says them"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler would take SIGTERM from `training.interrupts`, which knows when a step is over.
    jax.config.update("jax_enable_preemption_service", False)
    _start_teller(index)
    try:
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=heartbeat_s)
    except (ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"the processes did not find each other ({address}): {first}") from error
    if jax.default_backend() == "cpu":
        # XLA keeps a program's collectives in one order, but not those of a program that comes from
        # the cache of compiled ones (jaxlib 0.10.2 and 0.12.0): processes then wait for each other
        # in different places for ever.
        jax.config.update("jax_enable_compilation_cache", False)


def _settings(*given: Any) -> tuple[str | None, int | None, int | None]:
    address, *numbers = (
        os.environ.get(name) if value is None else value
        for name, value in zip(_SETTINGS, given, strict=True)
    )
    try:
        count, index = (None if number is None else int(number) for number in numbers)
    except ValueError as error:
        raise UserError(f"{_SETTINGS[1]} and {_SETTINGS[2]} must be numbers: {error}") from error
    return address, count, index


def _state() -> Any:
    # jax has no public name for the service's client; orbax takes it from here too.
    from jax._src import distributed

    return distributed.global_state


def count() -> int:
    return _state().num_processes if jax.distributed.is_initialized() else 1


def index() -> int:
    return _state().process_id if count() > 1 else 0


def is_first() -> bool:
    """Whether this process writes what only one may write."""
    return index() == 0


def owns(number: int) -> bool:
    """Whether this process does the work of this number."""
    return number % count() == index()


def waiting() -> str:
    return _waiting


def gather(value: T, what: str) -> list[T]:
    """What all processes have to say, in their order; JSON values. All call it, at the same places
    in the order of each `what`: one thread for each of these."""
    if count() == 1:
        return [value]
    client, here, number = _state().client, index(), _numbers.get(what, 0)
    _numbers[what] = number + 1
    _put(client, f"r1jax/{what}/{number}/{here}", value)
    processes = range(count())
    said = [_take(client, f"r1jax/{what}/{number}", process, what) for process in processes]
    # Whoever is at this number has read all of the one before, so nobody reads the one before that.
    client.key_value_delete(f"r1jax/{what}/{number - 2}/{here}/")
    return said


def from_first(make: Callable[[], T], what: str) -> T:
    """What `make` returns in the first process, the only one that calls it; a JSON value. When it
    fails there, all stop."""
    if count() == 1:
        return make()
    result, failure = None, None
    if is_first():
        try:
            result = make()
        except Exception as error:  # noqa: BLE001 - raised below, once the others are told
            failure = error
    said: list[Any] = gather([result, None if failure is None else str(failure)], what)
    if failure is not None:
        raise failure
    value, problem = said[0]
    if problem is not None:
        raise UserError(f"process 0 stopped: {problem}")
    return value


def first_only(work: Callable[[], Any], what: str) -> None:
    """Work that one process does for all; they wait for it, and stop where it fails."""

    def without_result() -> None:
        work()

    from_first(without_result, what)


def require_none(problem: str | None, what: str) -> None:
    """A `UserError` in all processes where one of them has a problem."""
    for process, found in enumerate(gather(problem, what)):
        if found is not None:
            raise UserError(found if count() == 1 else f"process {process}: {found}")


def require_alike(settings: Mapping[str, Any], what: str) -> None:
    """A `UserError` in all processes where one of them was started with other JSON values."""
    first, *others = gather(dict(settings), what)
    for process, other in enumerate(others, 1):
        differing = [
            f"{key} ({first.get(key, 'unset')!r} in process 0, {other.get(key, 'unset')!r} in "
            f"process {process})"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key)
        ]
        if differing:
            raise UserError(
                f"the processes of a run have the same {what}; they differ in "
                f"{', '.join(differing)}. Start all of them with the same command and files"
            )


def place(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Host arrays that all processes have, on the devices: each puts down its own shards."""
    if count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__), tree
    )


def _put(client: Any, key: str, value: Any) -> None:
    data = zlib.compress(json.dumps(value).encode(), 1)
    parts = [data[start : start + _PART] for start in range(0, len(data), _PART)]
    for number, part in enumerate(parts):
        client.key_value_set_bytes(f"{key}/{number}", part)
    client.key_value_set(f"{key}/parts", str(len(parts)))


def _take(client: Any, key: str, process: int, what: str) -> Any:
    global _waiting
    key, start = f"{key}/{process}", time.monotonic()
    while True:
        try:
            parts = int(client.blocking_key_value_get(f"{key}/parts", _ASK_MS))
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            _waiting = f"process {process} has not come to {what!r}"
            _waiting += f" for {time.monotonic() - start:.0f} s"
            _raise_if_failed(client)
    _waiting = ""
    values = [client.blocking_key_value_get_bytes(f"{key}/{n}", 60_000) for n in range(parts)]
    return json.loads(zlib.decompress(b"".join(values)))


def _raise_if_failed(client: Any) -> None:
    found: Mapping[str, str] = dict(client.key_value_dir_get(_FAILED))
    for key, message in found.items():
        raise UserError(f"process {key.removeprefix(_FAILED)} stopped: {message}")


# The end of a process


@contextlib.contextmanager
def joined(
    address: str | None,
    processes: int | None,
    process: int | None,
    *,
    detect: bool,
    heartbeat_s: int,
) -> Iterator[None]:
    """`join`, and at the end: wait for all, or where this one fails say so to the others and end it
    at once, as the usual way waits for processes that wait for this one."""
    join(address, processes, process, detect=detect, heartbeat_s=heartbeat_s)
    if count() == 1:
        yield
        return
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
        said = in_one_line(error)
        if said is None:
            if is_of_peers(error):
                # jax ends this process once it knows who is gone, and `last_words` says so.
                wait_s, first = heartbeat_s + 10, str(error).partition("\n")[0][:200]
                print(f"r1jax train: {first}; waiting {wait_s} s to hear who is gone", flush=True)
                time.sleep(wait_s)
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}", 1
        end_at_once(f"r1jax train: {said[0]}", said[1])
    else:
        jax.distributed.shutdown()
        _end_teller()


def is_of_peers(error: BaseException) -> bool:
    """Whether devices say so that another process does not answer: not an error of this one."""
    text = str(error)
    if count() == 1 or _OUT_OF_MEMORY in text:
        return False
    of_devices = isinstance(error, jax.errors.JaxRuntimeError)
    return of_devices or any(name in text for name in _COLLECTIVES)


def end_at_once(message: str, code: int) -> NoReturn:
    """From any thread. The usual way would wait for processes that wait for this one."""
    if count() > 1 and not _told(message.removeprefix("r1jax train: ")):
        time.sleep(_GOODBYE_S)  # the first process is gone: jax ends this one, `last_words` says so
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if count() > 1 and is_first():
        _wait_for_others()
    _end_teller()
    os._exit(code)


def _told(message: str) -> bool:
    try:
        _state().client.key_value_set(f"{_FAILED}{index()}", message)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _wait_for_others() -> None:
    """The service ends with the first process: the others hear what is wrong before."""
    deadline = time.monotonic() + _GOODBYE_S
    while len(_state().client.key_value_dir_get(_FAILED)) < count():
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _start_teller(process: int | None) -> None:
    """From here on a process of its own passes stderr on; see `last_words`."""
    global _teller
    who = "this process" if process is None else f"process {process}"
    command = [sys.executable, "-S", "-E", "-P", str(pathlib.Path(last_words.__file__)), who]
    sys.stderr.flush()
    _teller = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert _teller.stdin is not None
    os.dup2(_teller.stdin.fileno(), 2)
    _teller.stdin.close()


def _end_teller() -> None:
    global _teller
    if _teller is None:
        return
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    # Not over in time: a child of this process still has the pipe, and its words are passed on.
    with contextlib.suppress(subprocess.TimeoutExpired):
        _teller.wait(_GOODBYE_S)
    _teller = None
