"""From rollouts to `Graded`: whole or in pieces, with every part and every failure in it."""

import numpy as np
import pytest

from r1jax.config import Config
from r1jax.data.tokenizers import SymbolTokenizer
from r1jax.monitor.metrics import rollout_metrics
from r1jax.training.grading import collect, make_grader, submit_rows
from r1jax.types import PromptBatch, Rollouts

TOKENIZER = SymbolTokenizer("0123456789/+x")
ITEMS = (
    {"question": "1+1", "answer": "2", "task": "math"},
    {"question": "x", "answer": "1/2", "task": "math"},
    {"question": "12", "answer": "3", "task": "running_sum"},
    {"question": "?", "answer": "\\frac{1}{", "task": "math"},
)
TEXTS = [
    ("<think>1+1</think><answer>2</answer>", "<think></think><answer>3</answer>"),
    ("<think></think><answer>2/4</answer>", "<think>x</think><answer>x+1</answer>"),
    ("<think>13</think><answer>3</answer>", "3"),
    ("<think></think><answer>2/4</answer>", "<think></think><answer>1</answer>"),
]


def grade_rollouts(rollouts, *, grader, **how):
    """All rows at once."""
    rows = range(len(rollouts.lengths))
    return collect(rollouts, grader, [(rows, submit_rows(rollouts, rows, grader=grader, **how))])


def make_rollouts():
    rows = [[*TOKENIZER.encode(text), TOKENIZER.eos_token_id] for pair in TEXTS for text in pair]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    prompts = PromptBatch(np.arange(4), (np.array([1], np.int32),) * 4, ITEMS)
    return Rollouts(
        prompts=prompts,
        tokens=tokens,
        logp=np.zeros(tokens.shape, np.float32),
        lengths=np.array([len(ids) for ids in rows], np.int32),
        finished=np.array([True] * 7 + [False]),
    )


CONFIG = Config(reward_weights={"accuracy": 1.0, "format": 0.1, "random": 0.01})
HOW = {"tokenizer": TOKENIZER, "opened_by_prompt": False, "run_key": (0, 7)}


@pytest.fixture(scope="module")
def grader():
    with make_grader(CONFIG) as grader:
        yield grader


def assert_same(left, right):
    for name in ("rewards", "valid", "correct", "reasoned"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert left.texts == right.texts
    assert left.answers == right.answers
    for name, values in left.parts.items():
        np.testing.assert_array_equal(values, right.parts[name])


def test_each_row_has_its_parts_and_bad_golds_are_masked(grader):
    graded = grade_rollouts(make_rollouts(), grader=grader, **HOW)
    assert graded.correct.tolist() == [True, False, True, False, True, False, False, False]
    assert graded.valid.tolist() == [True] * 6 + [False] * 2
    assert graded.parts["format"].tolist() == [1, 0, 0, 1, 1, 0, 0, 0]
    total = sum(CONFIG.reward_weights[name] * values for name, values in graded.parts.items())
    np.testing.assert_allclose(graded.rewards[:6], total[:6], rtol=1e-6)
    assert np.isnan(graded.parts["accuracy"][6:]).all()
    metrics = rollout_metrics(graded)
    assert metrics["reward/masked"] == 0.25
    assert metrics["grading/gold"] == 2.0
    assert metrics["rewards/accuracy/mean"] == pytest.approx(0.5)


def test_pieces_in_any_order_are_the_whole(grader):
    rollouts = make_rollouts()
    whole = grade_rollouts(rollouts, grader=grader, **HOW)
    pieces = [
        (rows, submit_rows(rollouts, rows, grader=grader, **HOW))
        for rows in ([5, 0, 7], [6], [2, 4, 1, 3])
    ]
    assert_same(collect(rollouts, grader, pieces), whole)


def test_another_process_grades_the_same():
    """What a resumed run relies on: nothing depends on caches, workers or their number."""
    rollouts = make_rollouts()
    graded = []
    for workers in (1, 2):
        config = Config(
            reward_weights=CONFIG.reward_weights, grading=type(CONFIG.grading)(workers=workers)
        )
        with make_grader(config) as fresh:
            graded.append(grade_rollouts(rollouts, grader=fresh, **HOW))
    assert_same(*graded)
