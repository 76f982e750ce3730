"""Grading in the background: workers, sandboxes and judges that fail, and what it then says."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from r1jax.errors import UserError
from r1jax.rewards.compose import Reward
from r1jax.rewards.grader import Grader, Limits, count
from r1jax.rewards.samples import Sample

ACCURACY = Reward({"accuracy": 1.0})
PROGRAM = "```python\nprint(2 * int(input()))\n```"
TESTS = {"type": "stdin", "cases": [{"input": "1", "output": "2"}, {"input": "4", "output": "8"}]}


def maths(text, answer="1/2"):
    return Sample(text, {"question": "?", "answer": answer, "task": "math"})


def codes(text, tests=TESTS):
    return Sample(text, {"question": "?", "tests": tests, "task": "code"})


MIXED = [
    (maths("\\boxed{0.5}"), 1.0, "ok"),
    (codes(PROGRAM), 1.0, "ok"),
    (maths("\\boxed{x+1}", "1+x"), 1.0, "ok"),
    (maths("\\boxed{x+2}", "1+x"), 0.0, "ok"),
    (maths("\\boxed{\\frac{1}{}"), 0.0, "unparsed"),
    (maths("\\boxed{5}", "\\frac{1}{"), None, "gold"),
    (codes(PROGRAM.replace("2 *", "3 *")), 0.0, "ok"),
    (codes("no program"), 0.0, "unparsed"),
    (codes(PROGRAM, {"type": "riddle"}), None, "infra"),
    (codes(PROGRAM, None), None, "gold"),
    (maths("\\boxed{7}", "7"), 1.0, "ok"),
    (maths("\\boxed{0}", 0), 1.0, "ok"),
]


def test_verdicts_come_back_in_order_whoever_gave_them():
    with Grader(ACCURACY) as grader:
        samples, grades = grader.finish(grader.submit([case[0] for case in MIXED]).collect())
    assert [grade.reward for grade in grades] == [case[1] for case in MIXED]
    assert [sample.accuracy.status for sample in samples] == [case[2] for case in MIXED]
    counts = count(samples)
    assert (counts["unparsed"], counts["gold"], counts["infra"]) == (2.0, 2.0, 1.0)
    assert counts["timeout"] == counts["crash"] == 0.0


def test_pieces_may_be_submitted_early_and_collected_late():
    """While the device decodes: rows in any order and any pieces give the same grades."""
    everything = [case[0] for case in MIXED]
    with Grader(ACCURACY) as grader:
        whole = grader.grade(everything)
        pieces = [grader.submit(everything[start::3]) for start in range(3)]
        by_piece = [piece.collect() for piece in reversed(pieces)][::-1]
        ordered = [by_piece[place % 3][place // 3] for place in range(len(everything))]
        assert grader.finish(ordered)[1] == whole


@pytest.mark.parametrize("task", ["math", "choice", "code", "running_sum", "24", "logic", "zebra"])
def test_an_item_without_its_reference_is_masked(task):
    puzzle = {"puzzle": "countdown"} if task == "logic" else {}
    text = "<think>a</think><answer>1</answer>\n```python\nprint(1)\n```"
    for answer in ({}, {"answer": None}, {"answer": ""}):
        item = {"question": "?", "task": task, **puzzle, **answer}
        texts = [Sample(text, item), Sample("<think>a</think><answer>1</answer>", item)]
        with Grader(Reward({"accuracy": 1.0, "format": 1.0})) as grader:
            samples, grades = grader.finish(grader.submit(texts).collect())
        if task == "running_sum" and answer:  # judged by what there is
            continue
        assert grades[1].reward is None, samples[1].accuracy
        assert samples[1].accuracy.status == "gold"


def test_submit_does_not_wait():
    slow = "```python\nimport time\ntime.sleep(1.5)\nprint(2 * int(input()))\n```"
    with Grader(ACCURACY) as grader:
        grader.submit([codes(PROGRAM)]).collect()  # the sandbox is up
        start = time.monotonic()
        pending = grader.submit([codes(slow)])
        assert time.monotonic() - start < 1.0
        assert pending.collect()[0].accuracy.score == 1.0
        assert time.monotonic() - start > 1.5


def test_equal_answers_are_judged_once():
    samples = [maths("\\boxed{x+1}", "1+x")] * 8
    with Grader(ACCURACY) as grader:
        first = grader.submit(samples).collect()
        again = grader.submit(samples).collect()
    assert count(first)["cache_hits"] == 0
    assert count(again)["cache_hits"] == 8
    assert [s.accuracy.score for s in first] == [s.accuracy.score for s in again] == [1.0] * 8


@pytest.fixture
def slow_part(tmp_path, monkeypatch):
    (tmp_path / "slow_part.py").write_text(
        "import time\n\ndef part(sample):\n"
        "    while sample.text == 'hang': pass\n"
        "    time.sleep(0.7 if sample.text == 'slow' else 0)\n"
        "    return 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "slow_part:part"
    sys.modules.pop("slow_part", None)


def text_samples(texts):
    item = {"question": "?", "answer": "1", "task": "running_sum"}
    return [Sample(text, item, key=(place,)) for place, text in enumerate(texts)]


def test_a_worker_that_hangs_costs_its_own_sample(slow_part):
    with Grader(Reward({slow_part: 1.0}), Limits(workers=2, timeout_s=0.4)) as grader:
        texts = ["a", "hang", "b", "c"]
        samples, grades = grader.finish(grader.submit(text_samples(texts)).collect())
    assert [grade.reward for grade in grades] == [1.0, None, 1.0, 1.0]
    assert count(samples)["timeout"] == 1.0


def test_what_is_not_judged_by_the_deadline_is_masked(slow_part):
    limits = Limits(workers=1, deadline_s=2.0)
    with Grader(Reward({slow_part: 1.0}), limits) as grader:
        while grader.grade(text_samples(["fast"]))[0].reward is None:
            pass  # the worker is still starting
        samples, grades = grader.finish(grader.submit(text_samples(["slow"] * 8)).collect())
    rewards = [grade.reward for grade in grades]
    assert rewards[0] == 1.0
    assert rewards[-1] is None
    assert count(samples)["deadline"] >= 1


def test_programs_past_the_deadline_are_masked():
    sleeps = "```python\nimport time\ntime.sleep(0.6)\nprint(2)\n```"
    tests = {"type": "stdin", "cases": [{"input": "", "output": "2"}]}
    with Grader(ACCURACY, Limits(workers=1, deadline_s=3.0)) as grader:
        start = time.monotonic()
        samples = grader.submit([codes(sleeps, tests)] * 20).collect()
        assert time.monotonic() - start < 9
    scores = [sample.accuracy.score for sample in samples]
    assert scores[-1] is None
    assert set(scores) <= {1.0, None}
    assert samples[-1].accuracy.status == "deadline"


def test_a_share_of_tests_where_code_is_set_to_give_one():
    tests = {**TESTS, "cases": [*TESTS["cases"], {"input": "1", "output": "3"}], "tiers": [0, 0, 1]}
    expected = {"binary": 0.0, "fraction": 2 / 3, "tiers_strict": 0.5, "tiers_soft": 0.5}
    for kind, score in expected.items():
        with Grader(Reward({"accuracy": 1.0}, {"code": {"kind": kind}})) as grader:
            (grade,) = grader.grade([codes(PROGRAM, tests)])
        assert grade.reward == pytest.approx(score)
        assert not grade.correct


class Judge(http.server.BaseHTTPRequestHandler):
    """Finds an answer correct that holds the word "good"; says nothing of "odd" ones."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        tag = prompt.rpartition('"tag": "')[2].partition('"')[0]
        verdict = "correct" if "good" in prompt else "incorrect"
        said = "no idea" if "odd" in prompt else json.dumps({"tag": tag, "verdict": verdict})
        reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def judge_url(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def judged(url, **settings):
    endpoint = {"url": url, "model": "m", "attempts": 2, "backoff_s": 0.01, **settings}
    return Reward({"judge": 1.0}, {"judge": endpoint})


def test_a_judge_is_asked_in_the_background(judge_url):
    with Grader(judged(judge_url)) as grader:
        samples, grades = grader.finish(
            grader.submit(text_samples(["good one", "bad one", "odd one"])).collect()
        )
    assert [grade.reward for grade in grades] == [1.0, 0.0, None]
    assert count(samples)["infra"] == 1.0


def test_a_judge_that_is_down_masks_and_then_stops_the_run():
    reward = judged("http://127.0.0.1:9")
    with Grader(reward) as grader:
        assert [g.reward for g in grader.grade(text_samples(["a", "b"]))] == [None, None]
        with pytest.raises(UserError, match=r"judge: none of 200 samples .*http://127.0.0.1:9"):
            grader.grade(text_samples(["a"] * 200))


def test_no_step_is_learned_from_without_a_sandbox():
    reward = Reward({"accuracy": 1.0}, {"code": {"level": 0}})
    with Grader(reward) as grader, pytest.raises(UserError, match="allow_unsafe"):
        grader.grade([codes(PROGRAM)])


def test_nothing_is_left_when_it_is_closed():
    def children():
        """Of every thread; other tests may keep some."""
        threads = pathlib.Path("/proc/self/task").glob("*/children")
        return {child for thread in threads for child in thread.read_text().split()}

    before = sorted(p for p in os.listdir("/tmp") if p.startswith("r1jax-"))
    others = children()
    with Grader(ACCURACY, Limits(workers=2)) as grader:
        grader.grade([case[0] for case in MIXED])
        assert children() > others
    names = [thread.name for thread in threading.enumerate() if "r1jax-code" in thread.name]
    assert not names
    assert children() == others
    assert sorted(p for p in os.listdir("/tmp") if p.startswith("r1jax-")) == before


def test_a_grader_that_nobody_closed_leaves_nothing():
    """The lowest level keeps a directory of the host while its sandbox lives."""
    code = (
        "from r1jax.rewards.compose import Reward\n"
        "from r1jax.rewards.grader import Grader\n"
        "from r1jax.rewards.samples import Sample\n"
        "grader = Grader(Reward({'accuracy': 1.0}, {'code': {'level': 1}}))\n"
        f"item = {{'question': '?', 'tests': {TESTS!r}, 'task': 'code'}}\n"
        f"(grade,) = grader.grade([Sample({PROGRAM!r}, item)])\n"
        "import os; print(grade.reward, [p for p in os.listdir('.') if p.startswith('r1jax-')])\n"
    )
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to the spare user
        os.chmod(place, 0o755)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "TMPDIR": place},
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stdout.startswith("1.0 ['r1jax-code-"), done.stdout + done.stderr
        assert not os.listdir(place)


def test_a_process_that_ends_in_the_middle_ends_at_once():
    """Neither a judge that hangs nor a program that runs keeps the process alive."""
    code = (
        "import socket, time\n"
        "from r1jax.rewards.compose import Reward\n"
        "from r1jax.rewards.grader import Grader\n"
        "from r1jax.rewards.samples import Sample\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "url = f'http://127.0.0.1:{server.getsockname()[1]}'\n"
        "reward = Reward({'judge': 1.0}, {'judge': {'url': url, 'model': 'm'}})\n"
        "grader = Grader(reward)\n"
        "item = {'question': '?', 'answer': '1', 'task': 'running_sum'}\n"
        "grader.submit([Sample('1', item)])\n"
        "time.sleep(0.2)\n"
        "grader.close()\n"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - start < 20  # the judge would be waited for two minutes
