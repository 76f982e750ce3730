"""From verdicts to rewards; building tests; remote services against a local server."""

import base64
import http.server
import json
import subprocess
import sys
import threading
from typing import ClassVar

import pytest

from r1jax.rewards import code
from r1jax.rewards.code import building, remote


def verdict(status, cases=(), total=None):
    total = len(cases) if total is None else total
    return code.CodeVerdict(status, sum(cases), total, "", 0.0, tuple(cases))


def test_binary_and_fraction():
    assert code.binary(verdict("pass", [True, True])) == 1.0
    assert code.binary(verdict("timeout", [True, False])) == 0.0
    assert code.binary(verdict("infra")) is None
    assert code.fraction(verdict("fail", [True, False, True, True])) == 0.75
    assert code.fraction(verdict("error", [True], total=4)) == 0.25
    assert code.fraction(verdict("fail")) == 0.0
    assert code.fraction(verdict("infra")) is None


@pytest.mark.parametrize(
    ("cases", "strict", "soft"),
    [
        ([True] * 6, 1.0, 1.0),
        ([False] * 6, 0.0, 0.0),
        ([True, True, True, False, False, False], 0.2, 0.2 + 0.3 / 2),
        ([True, False, True, True, True, True], 0.0, 0.1 + 0.3 + 0.5),
        ([True, True, True, True, True, False], 0.5, 0.5 + 0.25),
    ],
)
def test_tiers_give_the_formulas_of_mimo(cases, strict, soft):
    tiers, scores = [0, 0, 1, 1, 2, 2], [0.2, 0.3, 0.5]
    for kind, expected in (("strict", strict), ("soft", soft)):
        found = code.tiered(verdict("fail", cases), tiers, scores=scores, kind=kind)
        assert found == pytest.approx(expected)


def test_tiers_without_results_or_scores():
    assert code.tiered(verdict("timeout", [True], total=3), [0, 1, 2]) == pytest.approx(1 / 3)
    assert code.tiered(verdict("infra"), [0]) is None
    assert code.tiers_by_pass_rate([0.9, 0.1, 0.5, 1.0], 2) == [0, 1, 1, 0]
    assert code.tiers_by_pass_rate([0.5, 0.5, 0.5, 0.5], 2) == [0, 0, 0, 0]


def test_grade_reads_the_response():
    tests = {"type": "stdin", "cases": [{"input": "3", "output": "6"}]}
    response = "<think>easy</think>\n```python\nprint(2 * int(input()))\n```\n"
    assert code.grade(response, tests).status == "pass"
    none = code.grade("I cannot", tests)
    assert (none.status, code.binary(none)) == ("fail", 0.0)


GENERATORS = [
    "n = int(input())\nprint(n - 3)",
    "import random\nrandom.seed(int(input()))\nprint(random.randint(100, 10**6))",
    "print('not a number')",
    "raise SystemExit(1)",
]
CORRECT = ["n = int(input())\nprint(abs(n))", "n = int(input())\nprint(n if n > 0 else -n)"]
WRONG = [
    "print(input())",
    "print(abs(int(input())) if 1 else 0)",  # right after all
    "n = int(input())\nprint(abs(n) % 1000)",
    "n = int(input())\nprint(100 // n * 0 + abs(n))",
]


def test_building_tests():
    built = building.build_tests(GENERATORS, CORRECT, WRONG, seeds=6, max_tests=3)
    assert built.candidates == 6 + 6 + 1
    assert built.valid == 12  # neither submission takes the text
    assert built.survivors == (1,)
    assert built == building.build_tests(GENERATORS, CORRECT, WRONG, seeds=6, max_tests=3)
    statuses = [code.run_tests(program, built.tests).status for program in CORRECT + WRONG]
    assert statuses == ["pass", "pass", "fail", "pass", "fail", "error"]


def test_choice_covers_first_and_is_deterministic():
    kills = [{0, 1}, {1}, {2}, set()]
    inputs = ["aaa", "bbbb", "cc", "d"]
    assert building.choose(inputs, kills, 1) == [1]
    assert building.choose(inputs, kills, 2) == [1, 2]
    assert building.choose(inputs, kills, 3) == [0, 1, 2]
    assert building.choose(inputs, kills, 9) == [0, 1, 2, 3]
    assert building.choose(inputs, [], 2) == [2, 3]


def fusion_answer(request, run):
    done = run(request["code"], request["stdin"])
    finished = {"status": "Finished" if done.returncode == 0 else "Error"}
    result = {
        **finished,
        "execution_time": 0.02,
        "return_code": done.returncode,
        "stdout": done.stdout,
        "stderr": done.stderr,
    }
    status = "Success" if done.returncode == 0 else "Failed"
    return {"status": status, "message": "", "compile_result": None, "run_result": result}


def piston_answer(request, run):
    done = run(request["files"][0]["content"], request["stdin"])
    result = {
        "stdout": done.stdout,
        "stderr": done.stderr,
        "output": done.stdout + done.stderr,
        "code": done.returncode,
        "signal": None,
        "message": None,
        "status": "RE" if done.returncode else None,
        "cpu_time": 18.0,
        "wall_time": 60.0,
        "memory": 8900000,
    }
    return {"language": "python", "version": "3.10.0", "run": result}


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks both shapes; answers from `script` first, then really runs the Python."""

    script: ClassVar[list] = []
    requests: ClassVar[list] = []

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, request, self.headers["Content-Type"]))
        status, answer = self.script.pop(0) if self.script else (200, self.answer(request))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, request):
        make = fusion_answer if self.path == "/run_code" else piston_answer
        return make(request, run_python)

    def log_message(self, *_):
        return


def run_python(program, stdin):
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE_S", 0.01)
    Handler.script, Handler.requests = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


SERVICES = [code.SandboxFusion, code.Piston]
DOUBLE = {"type": "stdin", "cases": [{"input": "3\n", "output": "6\n"}]}
DOUBLE_F = {"type": "function", "fn_name": "f", "cases": [{"args": [3], "expected": 6}]}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("program", "tests", "status"),
    [
        ("print(2 * int(input()))", DOUBLE, "pass"),
        ("print(3 * int(input()))", DOUBLE, "fail"),
        ("print(6); raise SystemExit(3)", DOUBLE, "error"),
        ("def f(n):\n    print('noise')\n    return 2 * n", DOUBLE_F, "pass"),
        ("def f(n): return 2.5 * n", DOUBLE_F, "fail"),
        ("import os; print(6); os._exit(0)", DOUBLE_F, "error"),
        ("def f(n): return 2 * n", {"type": "assert", "code": "assert f(3) == 6"}, "pass"),
        ("def f(n): return 2 * n", {"type": "assert", "code": "assert f(3) == 7"}, "fail"),
    ],
)
def test_remote_services_give_the_local_verdicts(server, service, program, tests, status):
    assert code.run_tests(program, tests, backend=service(server)).status == status
    assert code.run_tests(program, tests).status == status
    assert all(kind == "application/json" for _, _, kind in Handler.requests)


def fusion(status, run=None, compiled=None):
    return 200, {"status": status, "message": "", "compile_result": compiled, "run_result": run}


def piston(**changes):
    run = {"stdout": "", "stderr": "", "code": None, "signal": None, "status": None, "memory": 0}
    return 200, {"run": {**run, **changes}}


@pytest.mark.parametrize(
    ("service", "answer", "status"),
    [
        (
            code.SandboxFusion,
            fusion("Failed", {"status": "TimeLimitExceeded", "stdout": "", "stderr": ""}),
            "timeout",
        ),
        (
            code.SandboxFusion,
            fusion("Failed", {"status": "Error", "return_code": 1, "stderr": "MemoryError\n"}),
            "memory",
        ),
        (
            code.SandboxFusion,
            fusion("Failed", compiled={"return_code": 1, "stderr": "expected ;"}),
            "error",
        ),
        (code.SandboxFusion, (400, {}), "infra"),
        (code.SandboxFusion, (200, ["another shape"]), "infra"),
        (code.Piston, piston(status="TO", signal="SIGKILL"), "timeout"),
        (code.Piston, piston(status="OL", signal="SIGKILL"), "error"),
        (code.Piston, piston(status="SG", signal="SIGSEGV"), "error"),
        (code.Piston, piston(status="SG", signal="SIGKILL", memory=1 << 40), "memory"),
        (code.Piston, piston(status="RE", code=1), "error"),
        (code.Piston, (200, {"run": {}, "compile": {"code": 1, "stderr": ""}}), "error"),
        (code.Piston, (400, {"message": "runtime is unknown"}), "infra"),
    ],
)
def test_remote_failures(server, service, answer, status):
    Handler.script = [answer]
    assert code.run_tests("print(6)", DOUBLE, backend=service(server)).status == status
    assert len(Handler.requests) == 1


@pytest.mark.parametrize(
    ("service", "answer"),
    [
        (code.SandboxFusion, fusion("SandboxError")),
        (code.SandboxFusion, (504, {})),
        (code.Piston, piston(status="XX")),
        (code.Piston, piston(status="RE", code=1, stderr="fork: Resource temporarily unavailable")),
        (code.Piston, (429, {})),
    ],
)
def test_infrastructure_failures_are_tried_again_then_masked(server, service, answer):
    backend = service(server, tries=3)
    Handler.script = [answer] * 2
    assert code.run_tests("print(6)", DOUBLE, backend=backend).status == "pass"
    Handler.script = [answer] * 3
    masked = code.run_tests("print(6)", DOUBLE, backend=backend)
    assert masked.status == "infra"
    assert code.binary(masked) is None


def test_no_server_is_infra():
    backend = code.Piston("http://127.0.0.1:9", tries=1)
    assert code.run_tests("print(6)", DOUBLE, backend=backend).status == "infra"


def test_requests_have_the_documented_shapes(server):
    code.run_tests("print(6)", DOUBLE, backend=code.SandboxFusion(server), time_s=3, memory_mb=99)
    code.run_tests("print(6)", DOUBLE, backend=code.Piston(server), time_s=3, memory_mb=99)
    (path, fusion_request, _), (piston_path, piston_request, _) = Handler.requests
    assert (path, piston_path) == ("/run_code", "/api/v2/execute")
    assert fusion_request["run_timeout"] == 3.0
    assert fusion_request["memory_limit_MB"] == 99
    assert (fusion_request["code"], fusion_request["stdin"]) == ("print(6)", "3\n")
    assert piston_request["run_timeout"] == 3000
    assert piston_request["run_memory_limit"] == 99 << 20
    assert piston_request["files"] == [
        {"name": "main.py", "content": "print(6)", "encoding": "utf8"}
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_expected_values_do_not_travel(server, service):
    tests = {"type": "function", "fn_name": "f", "cases": [{"args": [3], "expected": 61234}]}
    code.run_tests("def f(n): return n", tests, backend=service(server))
    text = json.dumps(Handler.requests)
    request = Handler.requests[0][1]["stdin"]
    assert "61234" not in text
    assert b"61234" not in base64.b64decode(request)
