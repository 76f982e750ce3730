"""Programs that cheat, break things or are merely unusual; one batch for each level."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import time

import pytest

from r1jax.rewards import code
from r1jax.rewards.code import interpreter, levels

ATTACKS = [
    json.loads(line)
    for line in (pathlib.Path(__file__).parent / "data/code_attacks.jsonl").read_text().splitlines()
]
LEVELS = [level for level in (3, 2, 1) if levels.failure_of(level) is None]
LIMITS = {"time_s": 1.0, "memory_mb": 256, "output_kb": 1024, "fsize_mb": 16, "nproc": 64}
SECRET = "the-value-of-a-secret"


@functools.cache
def verdicts(level: int) -> dict[str, code.CodeVerdict]:
    """All attacks in one batch, so that each also tries to spoil the sandbox for the next."""
    os.environ["R1JAX_TEST_SECRET"] = SECRET
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            jobs = [
                code.Job(attack["program"].replace("PORT", port), attack["tests"])
                for attack in ATTACKS
            ]
            found = code.run_batch(jobs, level=level, env=dict(os.environ), **LIMITS)
    finally:
        del os.environ["R1JAX_TEST_SECRET"]
    return {attack["id"]: verdict for attack, verdict in zip(ATTACKS, found, strict=True)}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack["id"])
def test_attack(attack, level):
    verdict = verdicts(level)[attack["id"]]
    assert verdict.status in attack["accept"], f"{attack['why']}: {verdict}"
    assert SECRET not in repr(verdict)


# All attacks as one batch, as above, in a process that an ordinary user owns.
RUNNER = """
import json, os, sys
from r1jax.rewards import code
level, port, limits, attacks = json.loads(sys.stdin.read())
jobs = [code.Job(a["program"].replace("PORT", port), a["tests"]) for a in attacks]
for verdict in code.run_batch(jobs, level=level, env=dict(os.environ), **limits):
    print(json.dumps([verdict.status, repr(verdict)]))
"""
USER = 62000 + os.getpid() % 3000  # nobody else's, and not of another run of these tests


def owned_by_user():
    """Its processes, and its files where programs may write."""
    processes = [
        path
        for path in pathlib.Path("/proc").glob("[0-9]*")
        if owner(path) == USER and not has_ended(path)
    ]
    places = (pathlib.Path(place) for place in ("/tmp", "/dev/shm", "/var/tmp"))
    return processes + [path for place in places for path in place.iterdir() if owner(path) == USER]


def has_ended(process):
    """A process that ended with its parent stays listed until the machine's init looks."""
    try:
        return "State:\tZ" in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def owner(path):
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@pytest.mark.parametrize("level", LEVELS)
def test_attacks_as_an_ordinary_user(level):
    python = interpreter.find()
    assert python is not None
    assert not owned_by_user()
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [python.path, "-c", RUNNER],
            input=json.dumps([level, str(server.getsockname()[1]), LIMITS, ATTACKS]),
            stdout=subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "R1JAX_TEST_SECRET": SECRET,
            },
            cwd="/",
            text=True,
            start_new_session=True,
            user=USER,
            group=USER,
            extra_groups=[],
            check=True,
        )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        (attack["id"], shown)
        for attack, (status, shown) in zip(ATTACKS, found, strict=True)
        if status not in attack["accept"] or SECRET in shown
    ]
    assert not wrong
    assert not owned_by_user()


def run(program, tests, **options):
    return code.run_tests(program, tests, **{**LIMITS, **options})


def stdin_tests(given, output):
    return {"type": "stdin", "cases": [{"input": given, "output": output}]}


def function_tests(argument, expected):
    cases = [{"args": [argument], "expected": expected}]
    return {"type": "function", "fn_name": "f", "cases": cases}


@pytest.mark.parametrize("level", LEVELS)
def test_large_input_read_or_not(level):
    large = "x" * 3_000_000
    assert run("print(len(input()))", stdin_tests(large, "3000000"), level=level).status == "pass"
    assert run("print(6)", stdin_tests(large, "6"), level=level).status == "pass"


def test_integers_of_many_digits():
    program = "def f(n): return 10**n"
    assert run(program, function_tests(20_000, 10**20_000)).status == "pass"
    assert run(program, function_tests(20_000, 10**20_000 + 1)).status == "fail"


@pytest.mark.parametrize("level", LEVELS)
def test_no_process_outlives_the_run(level):
    """A grandchild in a session of its own, its output closed, sleeps under a known name."""
    name = f"r1jax-orphan-{level}"
    program = f"""
import ctypes, os, time
print(6, flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)
        os.closerange(0, 100)
        time.sleep(60)
    os._exit(0)
time.sleep(0.2)
"""
    assert run(program, stdin_tests("", "6"), level=level).status == "pass"
    names = subprocess.run(["ps", "-eo", "comm"], capture_output=True, text=True, check=True).stdout
    assert name[:15] not in names


# Tries what Landlock alone would not stop, on a file and the process of the test.
TOUCH_THE_HOST = """
import fcntl, os, resource, signal
path, pid = input(), int(input())
attempts = {
    "open": lambda: open(path),
    "write": lambda: open(path, "w"),
    "list": lambda: os.listdir(os.path.dirname(path)),
    "chmod": lambda: os.chmod(path, 0),
    "truncate": lambda: os.truncate(path, 0),
    "utime": lambda: os.utime(path),
    "xattr": lambda: os.setxattr(path, "user.a", b"1"),
    "unlink": lambda: os.unlink(path),
    "rename": lambda: os.rename(path, "stolen"),
    "link": lambda: os.link(path, "stolen"),
    "signal": lambda: os.kill(pid, 0),
    "pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 0),
    "limit": lambda: resource.prlimit(pid, resource.RLIMIT_CORE),
    "affinity": lambda: os.sched_setaffinity(pid, [0]),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "owner": lambda: fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, pid),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name)
    except OSError:
        pass
print("done")
"""


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_of_the_host_can_be_touched(level, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    tests = stdin_tests(f"{victim}\n{os.getpid()}\n", "done")
    assert run(TOUCH_THE_HOST, tests, level=level).status == "pass"
    unsafe = run(TOUCH_THE_HOST, tests, level=0, allow_unsafe=True)
    assert unsafe.status == "fail", "the attempts must be able to succeed"


@pytest.mark.parametrize("level", LEVELS)
def test_memory_is_what_is_used_not_what_is_mapped(level):
    threads = """
import threading
threads = [threading.Thread(target=len, args=("",)) for _ in range(40)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(6)
"""
    used = "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(6)"
    assert run(threads, stdin_tests("", "6"), level=level).status == "pass"
    assert run(used, stdin_tests("", "6"), level=level, time_s=4).status == "memory"


def test_time_is_wall_clock_and_the_answer_comes_soon_after():
    started = time.monotonic()
    verdict = run("import time\ntime.sleep(30)", stdin_tests("", "6"))
    assert verdict.status == "timeout"
    assert time.monotonic() - started < 10


def test_reason_repeats_nothing_that_the_program_printed():
    marker = "\x1b[2Jprinted"
    program = f"m = {marker!r}\nprint(m)\nraise type(m, (Exception,), {{}})(m)"
    verdict = run(program, stdin_tests("", "6"))
    assert verdict.status == "error"
    assert "printed" not in repr(verdict)


def test_prelude_gives_typing_names_to_function_tests_only():
    assert run("def f(a: List[int]): return a", function_tests([1], [1])).status == "pass"
    assert run("a: List[int] = 1\nprint(6)", stdin_tests("", "6")).status == "error"
