"""The development programs, at every sandbox level of this machine, and what is left behind."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from r1jax.rewards import code
from r1jax.rewards.code import interpreter, levels

ROOT = pathlib.Path(__file__).parents[2]
CASES = [
    json.loads(line)
    for line in (pathlib.Path(__file__).parent / "data/code_dev.jsonl").read_text().splitlines()
]
LEVELS = [level for level in (3, 2, 1) if levels.failure_of(level) is None]

# Runs cases from stdin in a process of its own, because some programs signal their parent or group.
RUNNER = """
import json, sys
from r1jax.rewards import code
level, cases = json.loads(sys.stdin.read())
for case in cases:
    verdict = code.run_tests(
        case["program"], case["tests"], **case["limits"], env=case.get("env"), level=level
    )
    print(verdict.status, flush=True)
"""


def run_elsewhere(cases, level, *, python=sys.executable, user=None):
    done = subprocess.run(
        [python, "-c", RUNNER],
        input=json.dumps([level, cases]),
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        text=True,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        check=True,
    )
    return done.stdout.split()


@contextlib.contextmanager
def listening(port):
    if port is None:
        yield
        return
    with socket.create_server(("127.0.0.1", port)):
        yield


def left_behind():
    """What a run could leave: children, files, names in the socket table."""
    children = pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    files = {
        path
        for directory in ("/tmp", "/dev/shm", "/var/tmp")
        for path in os.listdir(directory)
        if path.startswith("r1jax-")
    }
    sockets = pathlib.Path("/proc/net/unix").read_text().count("@r1jax-")
    return children, files, sockets


def cases_at_levels():
    """Every case at every level; of those that only wait, the repetitions are slow."""
    for case in CASES:
        for level in LEVELS:
            waits = case["expected"] == "timeout" and level != LEVELS[0]
            marks = [pytest.mark.slow] if waits else []
            yield pytest.param(case, level, id=f"{case['id']}-{level}", marks=marks)


@pytest.mark.parametrize(("case", "level"), list(cases_at_levels()))
def test_dev_case(case, level, monkeypatch):
    for name, value in case.get("env", {}).items():
        monkeypatch.setenv(name, value)
    before = left_behind()
    with listening(case.get("listen")):
        if "hazard" in case:
            (status,) = run_elsewhere([case], level)
        else:
            verdict = code.run_tests(
                case["program"],
                case["tests"],
                **case["limits"],
                env=case.get("env"),
                level=level,
            )
            status = verdict.status
            assert case.get("forbidden_output", "\0") not in repr(verdict)
    assert status in case["accept"], case["why"]
    assert not any(os.path.exists(path) for path in case.get("must_not_exist", []))
    assert left_behind() == before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@pytest.mark.parametrize("level", LEVELS)
def test_dev_cases_as_an_ordinary_user(level):
    python = interpreter.find()
    assert python is not None
    cases = [case for case in CASES if "env" not in case and "listen" not in case]
    statuses = run_elsewhere(cases, level, python=python.path, user=65533)
    wrong = {
        case["id"]: status
        for case, status in zip(cases, statuses, strict=True)
        if status not in case["accept"]
    }
    assert not wrong


def test_level_is_described():
    info = code.sandbox_info()
    assert info.level == max(LEVELS, default=0)
    assert info.walls
    assert os.path.exists(info.interpreter)
    assert set(info.refused) == {3, 2, 1} - {n for n in (3, 2, 1) if n <= info.level}


def test_no_sandbox_is_refused_unless_unsafe_is_allowed():
    tests = {"type": "stdin", "cases": [{"input": "", "output": "1"}]}
    refused = code.run_tests("print(1)", tests, level=0)
    assert refused.status == "infra"
    assert "allow_unsafe" in refused.reason
    assert code.run_tests("print(1)", tests, level=0, allow_unsafe=True).status == "pass"


@pytest.mark.parametrize(
    "tests",
    [
        {},
        {"type": "stdin"},
        {"type": "stdin", "cases": []},
        {"type": "stdin", "cases": [{"input": "1"}]},
        {"type": "stdin", "cases": [{"input": "1", "output": 1}]},
        {"type": "stdin", "cases": [{"input": "1", "output": "1"}], "float_tol": "small"},
        {"type": "riddle", "cases": []},
        {"type": "function", "cases": [{"args": [1], "expected": 1}]},
        {"type": "assert", "code": "assert f(1 == 2"},
        {"type": "assert", "code": "f(1)"},
    ],
)
def test_broken_tests_mask_the_sample(tests):
    assert code.run_tests("print(1)", tests).status == "infra"


def test_an_unknown_language_masks_the_sample():
    assert code.run_tests("print(1)", make_tests(), language="cobol").status == "infra"


def test_a_program_that_is_not_text_is_wrong_not_masked():
    assert code.run_tests("print('\ud800')", make_tests()).status in ("error", "fail")
    assert code.run_tests("print(1)\0", make_tests()).status == "error"


def test_batch_keeps_the_order_and_gives_every_result():
    jobs = [
        code.Job(f"print({n} + int(input()))", make_tests("1\n", str(n + 1 + (n == 5))))
        for n in range(12)
    ]
    verdicts = code.run_batch(jobs)
    assert [v.status for v in verdicts] == ["pass"] * 5 + ["fail"] + ["pass"] * 6


def test_batch_survives_programs_that_attack_the_sandbox():
    attack = "import os, signal\nos.mkdir('d'); os.chmod('d', 0)\nos.kill(os.getppid(), 9)\n"
    jobs = [code.Job(attack + "print(1)", make_tests("", "1")), code.Job("print(1)", make_tests())]
    before = left_behind()
    verdicts = code.run_batch(jobs * 3, workers=1)
    assert {v.status for v in verdicts[1::2]} == {"pass"}
    assert left_behind() == before


def test_early_stop_and_all_cases():
    tests = {
        "type": "stdin",
        "cases": [{"input": str(n), "output": str(2 * n)} for n in (2, 0, 1, 2)],
    }
    program = "n = int(input())\nprint(n * n)"
    early = code.run_tests(program, tests)
    assert (early.status, early.cases, early.total) == ("fail", (True, True, False), 4)
    complete = code.run_tests(program, tests, stop_early=False)
    assert complete.cases == (True, True, False, True)
    assert complete.passed == 3
    assert complete.reason == "case 3: line 1 differs"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("level", LEVELS)
def test_cpp(level):
    program = "#include <iostream>\nint main() { long n; std::cin >> n; std::cout << 2 * n; }"
    assert (
        code.run_tests(program, make_tests("21", "42"), language="cpp", level=level).status
        == "pass"
    )
    assert (
        code.run_tests(program, make_tests("21", "43"), language="cpp", level=level).status
        == "fail"
    )
    broken = code.run_tests("int main() {", make_tests(), language="cpp", level=level)
    assert (broken.status, broken.reason) == ("error", "case 1: does not compile")
    secret = '#include "/etc/passwd"\nint main() {}'
    assert code.run_tests(secret, make_tests(), language="cpp", level=level).status == "error"


DIVISOR = """
import json, sys
facts = json.load(sys.stdin)
n, d = int(facts["input"]), int(facts["output"])
sys.exit(0 if 1 < d < n and n % d == 0 else 1)
"""


def test_checker_program_for_several_right_answers():
    cases = [{"input": "91\n", "output": "7\n"}, {"input": "77\n", "output": "7\n"}]
    tests = {"type": "stdin", "cases": cases, "checker": DIVISOR}
    largest = "n = int(input())\nprint(max(d for d in range(1, n) if n % d == 0))"
    assert code.run_tests(largest, tests).status == "pass"
    assert code.run_tests("print(1)", tests).status == "fail"
    assert code.run_tests("print(1); 1 / 0", tests).status == "error"
    broken = {**tests, "checker": "raise SystemExit(3)"}
    assert code.run_tests(largest, broken).status == "infra"


def make_tests(given="", output="1"):
    return {"type": "stdin", "cases": [{"input": given, "output": output}]}


def test_threads_share_nothing():
    results = {}

    def work(n):
        tests = make_tests(str(n), str(2 * n))
        results[n] = code.run_tests("print(2 * int(input()))", tests).status

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), "pass")


def test_importing_the_rewards_does_not_import_jax():
    script = "import sys, r1jax.rewards.code; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_cases_run_side_by_side_and_the_verdict_is_that_of_their_order():
    program = """
import time
n = int(input())
time.sleep(0.2 if n < 90 else 0)
print(n * n if n != 3 else "wrong")
"""
    cases = [{"input": str(n), "output": str(n * n)} for n in (1, 2, 4, 5, 6, 3, 7, 99, 98)]
    tests = {"type": "stdin", "cases": cases}
    for stop_early, expected in (
        (True, (True,) * 5 + (False,)),
        (False, (True,) * 5 + (False,) + (True,) * 3),
    ):
        verdict = code.run_tests(program, tests, stop_early=stop_early)
        assert (verdict.status, verdict.cases, verdict.total) == ("fail", expected, 9)
        assert verdict.reason == "case 6: line 1 differs"


def test_many_cases_take_less_time_than_their_sum():
    tests = {"type": "stdin", "cases": [{"input": "", "output": "1"}] * 8}
    verdict = code.run_tests("import time\ntime.sleep(0.5)\nprint(1)", tests)
    assert verdict.status == "pass"
    assert verdict.seconds < 3.5  # four seconds of sleep


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_cpp_program_of_many_cases_is_compiled_once():
    program = "#include <iostream>\nint main() { long n; std::cin >> n; std::cout << 2 * n; }"
    cases = [{"input": str(n), "output": str(2 * n)} for n in range(12)]
    verdict = code.run_tests(program, {"type": "stdin", "cases": cases}, language="cpp")
    assert (verdict.status, verdict.passed) == ("pass", 12)


BURN = "while True: pass"
WORK = """
import time
while time.process_time() < 0.6: pass
print(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_a_busy_host_fails_no_right_program(level):
    """With six others for each core, 0.6 seconds of work take several on the clock."""
    count = 6 * (os.cpu_count() or 2)
    # In sessions of their own: Linux can share a processor by session, whoever has how many in one.
    burn = [sys.executable, "-c", BURN]
    others = [subprocess.Popen(burn, start_new_session=True) for _ in range(count)]
    try:
        verdict = code.run_tests(WORK, make_tests(), time_s=1.5, level=level)
        sleeper = code.run_tests(
            "import time\ntime.sleep(9)", make_tests(), time_s=1.5, level=level
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert verdict.status == "pass", verdict
    assert verdict.seconds > 1.5, "the host was not busy: the test proves nothing"
    assert sleeper.status == "timeout"
