"""Rewards of steps: from a function of one's own to the advantage of every token."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from r1jax.config import from_config_dict
from r1jax.data.tokenizers import SymbolTokenizer
from r1jax.errors import UserError
from r1jax.training.batches import BatchShape
from r1jax.training.grading import collect, make_grader, submit_rows
from r1jax.training.learning import last_tokens, make_minibatches, process_advantages
from r1jax.types import PromptBatch, Rollouts

OWN = """
def sums(sample, *, right=1.0):
    # Each x ends a step; its reward is the number of digits in it.
    if sample.text.startswith("?"):
        return {"?n": lambda: None, "?r": lambda: 1 / 0, "?b": lambda: [(9, 1.0)]}[sample.text]()
    pieces, end, steps = sample.text.split("x"), 0, []
    for piece in pieces[:-1]:
        end += len(piece) + 1
        steps.append((end, len(piece) * right))
    if pieces[-1]:
        steps.append((len(sample.text), -1.0))
    return steps

def pairs(samples):
    return [[] for _ in samples]
"""
TOKENIZER = SymbolTokenizer("0123456789x?nrb")
STEPS = "own_steps:sums"
CONFIG = {
    "rl": {"prompts_per_step": 3, "samples_per_prompt": 3, "advantage": "process"},
    "sampling": {"max_tokens": 8},
    "data": {"max_prompt_tokens": 2},
    "grading": {"steps": STEPS, "settings": {STEPS: {"right": 2.0}}, "workers": 1},
}
TEXTS = ["12x3x4", "x", "", "?n", "5x", "67x8x"]
# (token, reward) of each step, by hand; a response ends with its EOS, of the last step's.
BY_HAND = [[(2, 4.0), (4, 2.0), (6, -1.0)], [(1, 0.0)], [], None, [(2, 2.0)], [(2, 4.0), (5, 2.0)]]


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    (tmp_path / "own_steps.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_steps", None)


def graded_by(config, texts, **options):
    rows = [[*TOKENIZER.encode(text), TOKENIZER.eos_token_id] for text in texts]
    tokens = np.zeros((len(rows), config.sampling.max_tokens), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    prompts = len(texts) // 3
    items = ({"question": "?", "answer": "1", "task": "running_sum"},) * prompts
    rollouts = Rollouts(
        prompts=PromptBatch(np.arange(prompts), (np.array([1], np.int32),) * prompts, items),
        tokens=tokens,
        logp=np.zeros(tokens.shape, np.float32),
        lengths=np.array([len(ids) for ids in rows], np.int32),
        finished=np.ones(len(rows), bool),
    )
    how = {"tokenizer": TOKENIZER, "opened_by_prompt": False, "run_key": (0, 0)}
    with make_grader(config) as grader:
        everyone = range(len(rows))
        pending = submit_rows(rollouts, everyone, grader=grader, **how)
        return collect(rollouts, grader, [(everyone, pending)], **options)


def decode(tokens):
    return TOKENIZER.decode(tokens, skip_special_tokens=True)


def reference(steps_R, width):
    """DeepSeekMath 4.1.3 as it is printed, in float64."""
    found = np.zeros((len(steps_R), width))
    for first in range(0, len(steps_R), 3):
        group = [steps or [] for steps in steps_R[first : first + 3]]
        rewards = np.array([reward for steps in group for _, reward in steps], np.float64)
        for row, steps in enumerate(group):
            for place in range(width):
                found[first + row, place] = sum(
                    (reward - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
                    for end, reward in steps
                    if end >= place
                )
    return found


def test_an_evaluation_asks_nobody_what_steps_are_worth():
    graded = graded_by(from_config_dict(CONFIG), TEXTS, with_steps=False)
    assert graded.valid.all()
    assert not any(graded.steps)


def test_every_token_gets_the_steps_that_end_at_it_or_later():
    config = from_config_dict(CONFIG)
    graded = graded_by(config, TEXTS)  # one prompt fewer than a step wants
    assert graded.valid.tolist() == [steps is not None for steps in BY_HAND]
    found = process_advantages(config, graded, decode)
    expected = reference(BY_HAND, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 1
    shape = BatchShape(row_length=40, rows=3, rows_per_micro=3)
    ((batch, _, rows),) = make_minibatches(config, shape, graded, 0, decode)
    assert len(rows) == 6
    packed = np.sort(batch.advantages[batch.mask])
    lengths = graded.rollouts.lengths
    flat = np.concatenate([expected[row, : lengths[row]] for row in range(6) if row != 3])
    np.testing.assert_allclose(packed, np.sort(flat), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_steps_masks_its_sample():
    graded = graded_by(from_config_dict(CONFIG), ["?n", "?r", "?b", "1x", "2x", "x"])
    assert graded.valid.tolist() == [False] * 3 + [True] * 3
    assert graded.counts["error"] == 2
    assert graded.steps[3:] == (((2, 2.0),), ((2, 2.0),), ((1, 0.0),))


def test_ends_are_found_among_tokens_of_several_letters():
    words = ["ab", "c", "", "def", "\n"]

    def written(tokens):
        return "".join(words[token] for token in tokens)

    steps = [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0), (6, 0.0), (7, 0.0)]
    tokens = np.array([0, 1, 2, 3, 4, 2])  # what is written by nothing follows the text
    assert last_tokens(tokens, steps, written) == [0, 0, 1, 3, 3, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grading": {}}, r"rl\.advantage='process': nobody rewards steps; name a function"),
        ({"rl": {}}, r"grading\.steps='own_steps:sums': rl\.advantage='group' has no use"),
        ({"grading": {"steps": "accuracy"}}, r"grading\.steps='accuracy': must be package\.module"),
        (
            {"grading": {"steps": "own_steps:pairs"}},
            r"must be package\.module:function",
        ),
        ({"grading": {"steps": "own_steps:no"}}, r"own_steps has no function 'no'"),
        ({"reward": "random"}, "a coin for each response has no steps"),
        ({"rl": {"advantage": "process", "advantage_scale": "none"}}, "use 'std'"),
    ],
)
def test_what_does_not_go_together_is_one_line(change, message):
    with pytest.raises(UserError, match=message) as error:
        from_config_dict({**CONFIG, **change})
    assert "\n" not in str(error.value)


PARTIAL_SUMS = """
def right_sums(sample):
    # 1 for each partial sum that is right, -1 for one that is not; the answer counts as a step.
    thoughts, _, rest = sample.text.partition("</think>")
    total, steps = 0, []
    for place, (said, digit) in enumerate(zip(thoughts, sample.item["question"])):
        total = (total + int(digit)) % 10
        steps.append((place + 1, 1.0 if said == str(total) else -1.0))
    return [*steps, (len(sample.text), 1.0 if sample.correct else -1.0)]
"""


@pytest.mark.slow
@pytest.mark.long
def test_rewards_of_steps_teach_the_tiny_task(tmp_path):
    (tmp_path / "partial.py").write_text(PARTIAL_SUMS)
    config = pathlib.Path(__file__).parents[2] / "configs" / "r1_zero_tiny.py"
    command = [sys.executable, "-m", "r1jax", "train", f"--config={config}"]
    flags = [f"--workdir={tmp_path / 'run'}", "--config.rl.advantage=process"]
    flags += ["--config.grading.steps=partial:right_sums", "--config.seed=1"]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["before"]["greedy_accuracy"] < 0.2
    assert summary["after"]["greedy_accuracy"] >= 0.97
    assert summary["after"]["mean_length"] >= 2 * summary["before"]["mean_length"]
