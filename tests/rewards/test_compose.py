"""Rewards from weighted parts: what each is paid for, what masks, and what is refused."""

import math
import statistics
import sys

import pytest

from r1jax.errors import UserError
from r1jax.rewards.compose import Reward
from r1jax.rewards.grader import Grader, grade
from r1jax.rewards.samples import Sample

ITEM = {"question": "31415926", "answer": "1", "task": "running_sum"}
WEIGHTS = {"accuracy": 1.0, "format": 0.1}

CASES = [
    ("34589406</think><answer>1</answer>", 1.1, True, True),
    ("</think><answer>1</answer>", 1.1, True, False),
    ("</think><answer>2</answer>", 0.1, False, False),
    ("12</think><answer>11</answer>", 0.1, False, True),
    ("</think><answer></answer>", 0.0, False, False),
    ("</think><answer>1", 0.0, False, False),
    ("1", 0.0, False, False),
]
RIGHT, WRONG = CASES[0][0], CASES[2][0]


def sample(text=RIGHT, item=ITEM, **fields):
    return Sample(text, item, **{"opened_by_prompt": True, **fields})


def one(text, weights, item=ITEM, *, settings=None, when_correct=(), verifiers=None, **fields):
    reward = Reward(weights, settings or {}, when_correct, verifiers or {})
    return grade([sample(text, item, **fields)], reward)[0]


@pytest.mark.parametrize(("text", "reward", "correct", "reasoned"), CASES)
def test_grades(text, reward, correct, reasoned):
    got = one(text, WEIGHTS)
    assert got.reward == pytest.approx(reward)
    assert (got.correct, got.reasoned) == (correct, reasoned)
    assert set(got.parts) == set(WEIGHTS)


def test_the_control_is_a_fair_coin_that_knows_nothing_of_the_text():
    reward = Reward({"random": 1.0})

    def flips(text: str, seed: int) -> list[float | None]:
        samples = [sample(text, key=(seed, 0, i, 0)) for i in range(4000)]
        return [got.reward for got in grade(samples, reward)]

    tosses = flips("x", 0)
    assert set(tosses) == {0.0, 1.0}
    assert statistics.mean(tosses) == pytest.approx(0.5, abs=0.04)  # five standard errors
    assert tosses == flips(CASES[0][0], 0)
    assert tosses != flips("x", 1)


def test_soft_overlong_punishes_by_tokens():
    settings = {"soft_overlong": {"max_len": 20, "cache": 10}}
    weights = {"accuracy": 1.0, "soft_overlong": 0.5}
    for count, punishment in ((10, 0.0), (15, -0.5), (20, -1.0), (30, -1.0)):
        got = one(RIGHT, weights, settings=settings, tokens=[3] * count)
        assert got.parts == {"accuracy": 1.0, "soft_overlong": punishment}
        assert got.reward == pytest.approx(1.0 + 0.5 * punishment)


def test_the_overlong_filter_masks_what_was_cut():
    weights = {"accuracy": 1.0, "overlong_filter": 1.0}
    assert one(RIGHT, weights).reward == 1.0
    cut = one(RIGHT, weights, finished=False)
    assert cut.reward is None
    assert math.isnan(cut.parts["overlong_filter"])
    punished = {"overlong_filter": {"punishment": -1.0}}
    assert one(RIGHT, weights, settings=punished, finished=False).reward == 0.0


CHINESE = "我们先把所有的数字加起来然后再检查一遍结果是不是正确所以答案应该就是一" * 2


def test_language_counts_only_where_the_answer_is_correct_if_asked():
    weights = {"accuracy": 1.0, "language": 0.1}
    settings = {"language": {"target": "zh"}}
    right, wrong = (f"{CHINESE}</think><answer>{n}</answer>" for n in (1, 2))
    assert one(right, weights, settings=settings).reward == pytest.approx(1.1)
    assert one(wrong, weights, settings=settings).reward == pytest.approx(0.1)
    gated = {"settings": settings, "when_correct": ("language",)}
    assert one(right, weights, **gated).reward == pytest.approx(1.1)
    assert one(wrong, weights, **gated).reward == 0.0
    # Too few words to judge: masked, unless a value is given or the part does not count.
    assert one(RIGHT, weights, **gated).reward is None
    assert one(WRONG, weights, **gated).reward == 0.0
    neutral = {"language": {"target": "zh", "neutral": 0.5}}
    assert one(RIGHT, weights, settings=neutral).reward == pytest.approx(1.05)


def test_parts_of_a_group_see_the_whole_group():
    samples = [sample(RIGHT, tokens=[3] * n) for n in (10, 20)] + [
        sample(WRONG, tokens=[3] * n) for n in (10, 20)
    ]
    got = grade(samples, Reward({"kimi_length": 1.0}), group=4)
    assert [g.reward for g in got] == [0.5, -0.5, 0.0, -0.5]
    alone = grade(samples, Reward({"kimi_length": 1.0}), group=1)
    assert [g.reward for g in alone] == [0.0] * 4


def test_cosine_and_repetition_are_at_hand():
    settings = {"cosine": {"max_len": 100}, "repetition": {"n": 2}}
    weights = {"cosine": 1.0, "repetition": 1.0}
    got = one(RIGHT, weights, settings=settings, tokens=[3, 4] * 50)
    assert got.parts["cosine"] == pytest.approx(0.5)
    assert got.parts["repetition"] == -1.0


def test_a_gold_that_cannot_be_read_masks():
    got = one("\\boxed{5}", WEIGHTS, {"question": "?", "answer": "\\frac{1}{"})
    assert got.reward is None
    # … but not where accuracy is not paid for.
    assert one("\\boxed{5}", {"format": 1.0}, {"question": "?", "answer": ""}).reward == 0.0


ROUTED = [
    ({"answer": "1/2"}, "\\boxed{0.5}", {}),
    ({"answer": "1/2", "task": "math"}, "so \\frac{1}{2}", {}),
    ({"answer": "72", "task": "gsm8k"}, "#### 72", {"gsm8k": "math"}),
    ({"answer": "72", "task": "gsm8k", "domain": "math"}, "#### 72", {}),
    ({"answer": "B", "task": "choice"}, "The answer is (B).", {}),
    (
        {"answer": "C", "task": "mmlu", "options": ["1", "2", "3"]},
        "Answer: 3",
        {"mmlu": "choice"},
    ),
    ({"answer": "8*(7-4)*1", "task": "24", "numbers": [8, 7, 4, 1], "target": 24}, "8*(7-4)*1", {}),
    ({"answer": "12", "task": "logic", "puzzle": "integer"}, "<answer>12</answer>", {}),
    ({"numbers": [2, 3, 4], "target": 20, "task": "countdown"}, "( 2 + 3 ) * 4", {}),
]


@pytest.mark.parametrize(("item", "text", "verifiers"), ROUTED)
def test_the_items_task_or_domain_says_who_judges(item, text, verifiers):
    if item.get("task") == "countdown":  # the tiny task wants R1's format
        text = f"<think>t</think><answer>{text}</answer>"
    fields = {"verifiers": verifiers, "opened_by_prompt": False}
    assert one(text, {"accuracy": 1.0}, {"question": "?", **item}, **fields).reward == 1.0
    wrong = one("<answer>0</answer>", {"accuracy": 1.0}, {"question": "?", **item}, **fields)
    assert wrong.reward == 0.0


def test_a_task_that_nobody_judges_is_named():
    with pytest.raises(UserError, match=r"task 'riddles': nobody judges it; known: math, code"):
        one("1", WEIGHTS, {"question": "?", "answer": "1", "task": "riddles"})


OWN = """
import time

def brevity(sample, *, most=10):
    return 1.0 if sample.n_tokens <= most and sample.correct else 0.0

def rank(samples):
    order = sorted(len(s.text) for s in samples)
    return [order.index(len(s.text)) for s in samples]

def difficult(sample):
    if sample.text == "hang":
        time.sleep(60)
    if sample.text == "die":
        import os
        os._exit(1)
    if sample.text == "raise":
        raise ValueError("on purpose")
    return {"none": None, "nan": float("nan"), "word": "high"}.get(sample.text, 1.0)

def text_only(completion):
    return 0.0

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_rewards"
    sys.modules.pop("own_rewards", None)


def test_custom_functions_by_import_path(own):
    name = f"{own}:brevity"
    reward = Reward({"accuracy": 1.0, name: 0.5}, {name: {"most": 5}})
    samples = [sample(RIGHT, tokens=[3] * n) for n in (5, 6)] + [sample(WRONG, tokens=[3])]
    assert [g.reward for g in grade(samples, reward)] == [1.5, 1.0, 0.0]
    ranked = grade([sample(t) for t in ("aaa", "a", "aa")], Reward({f"{own}:rank": 1.0}), group=3)
    assert [g.reward for g in ranked] == [2.0, 0.0, 1.0]


def test_a_custom_function_that_hangs_dies_or_raises_costs_its_own_sample(own):
    texts = ["fine", "die", "raise", "none", "nan", "word", "fine too"]
    reward = Reward({f"{own}:difficult": 1.0})
    with Grader(reward) as grader:
        samples, grades = grader.finish(grader.submit([sample(t) for t in texts]).collect())
    assert [g.reward for g in grades] == [1.0, None, None, None, None, None, 1.0]
    statuses = [s.judged[f"{own}:difficult"].status for s in samples]
    assert statuses == ["ok", "crash", "error", "ok", "ok", "error", "ok"]


REFUSED = {
    "luck": "unknown part luck; known: accuracy, format",
    "no_such_module_here:f": "cannot import no_such_module_here .*PYTHONPATH",
    "own_rewards:missing": "own_rewards has no function 'missing'",
    "own_rewards:number": "own_rewards has no function 'number'",
    "own_rewards:text_only": r"text_only\(completion\): its first parameter must be `sample`",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_part_that_cannot_be_is_one_line(name, own):
    with pytest.raises(UserError, match=REFUSED[name]) as caught:
        Reward({name: 1.0})
    assert "\n" not in str(caught.value)


SETTINGS = {
    "soft_overlong": ({}, "missing a required .*argument: 'max_len'"),
    "cosine": ({"max_len": 10, "shortest": 1}, "shortest"),
    "language": ({"target": "xx"}, "no such target language: 'xx'"),
    "kimi_length": ({"lamda": 1}, "lamda"),
    "repetition": ({"n": 0, "free_share": 2.0}, "free_share must lie"),
    "judge": ({"url": "ftp://x", "model": "m"}, "must begin with http"),
    "helpful": ({"scorer": "no_such_module_here:f"}, "scorer: .*cannot import"),
    "accuracy": ({"kind": "fraction"}, "kind"),
    "own_rewards:brevity": ({"least": 1}, "least"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_a_part_does_not_have_are_one_line(name, own):
    settings, message = SETTINGS[name]
    with pytest.raises(UserError, match=message) as caught:
        Reward({name: 1.0}, {name: settings})
    assert "\n" not in str(caught.value)


def test_settings_gates_and_routes_must_name_what_there_is():
    with pytest.raises(UserError, match=r"grading\.settings.language: language has no weight"):
        Reward(WEIGHTS, {"language": {"target": "zh"}})
    with pytest.raises(UserError, match=r"grading\.when_correct: language has no weight"):
        Reward(WEIGHTS, when_correct=("language",))
    with pytest.raises(UserError, match=r"grading\.verifiers.gsm8k='maths': must be one of math"):
        Reward(WEIGHTS, verifiers={"gsm8k": "maths"})
    with pytest.raises(UserError, match=r"grading.settings.code.times: no such setting; known: al"):
        Reward(WEIGHTS, {"code": {"times": 3}})
    with pytest.raises(UserError, match=r"code.kind='half': must be one of binary"):
        Reward(WEIGHTS, {"code": {"kind": "half"}})
    with pytest.raises(UserError, match=r"code.url: the service needs one"):
        Reward(WEIGHTS, {"code": {"service": "piston"}})
    with pytest.raises(UserError, match="empty"):
        Reward({})


def test_a_task_can_have_its_own_weights():
    weights = {"accuracy": 1.0, "format": 0.5}
    reward = Reward(weights, by_task={"running_sum": {"accuracy": 2.0}})
    assert reward.parts == ("accuracy", "format")
    text = "34589406</think><answer>1</answer>"
    samples = [
        Sample(text, item, opened_by_prompt=True)
        for item in (ITEM, {"question": "1 + 0", "answer": "1"})
    ]
    with Grader(reward) as grader:
        other, plain = grader.grade(samples)
    assert other.parts["accuracy"] == plain.parts["accuracy"] == 1
    assert (other.reward, plain.reward) == (2.0, 1.5)
    assert math.isnan(other.parts["format"])
    with pytest.raises(UserError, match=r"task_rewards.parity=\{\}: it is empty"):
        Reward(weights, by_task={"parity": {}})
