"""Mutated responses and generated expressions for as long as one likes: `R1JAX_FUZZ_SECONDS`.

The default is a few seconds, the slow tests half a minute each, always from the same seed, so that
a finding is a change's own; `R1JAX_FUZZ_SEED` searches elsewhere. `atheris` (pip install atheris)
guides the mutations by what they reach, where it is there.
"""

import cmath
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import time

import pytest

from r1jax.rewards import choice, math
from r1jax.rewards.code import last_block

DATA = pathlib.Path(__file__).parent / "data"
SECONDS = float(os.environ.get("R1JAX_FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("R1JAX_FUZZ_SEED", "2"))
LONGEST_S = 2.0  # processor time of one verdict
GROWTH_MB = 64

PIECES = r"""
    \boxed{ } \frac{1}{2} \sqrt $ $$ \( \) ^ _ \{ \} \begin{pmatrix} \end{pmatrix} & \\ , ; : %
    <answer> </answer> <think> </think> #### \text{ \left( \right) \overline{ \pm ° ! | [ ) \cup
    the answer is 答案 是 三 万 ½ √ ∞ π ９ 0 1 -1 1e9 9**9 1,000 0.\dot3 _2 i x= ``` ```python
"""
MARKS = (*PIECES.split(), "\n", "\n\n", " ", "\x00", "\ud800", "\u200b", "**", "Answer:", "(A)")


def load_seeds():
    names = ("math_dev.jsonl", "math_own.jsonl", "math_fresh.jsonl")
    lines = [line for name in names for line in (DATA / name).read_text("utf-8").splitlines()]
    cases = [json.loads(line) for line in lines]
    return [text for case in cases for text in (case["pred"], case["gold"]) if len(text) < 2000]


def mutate(text, seeds, rng):
    """One to six edits: insert, delete, double, move, splice."""
    for _ in range(rng.randint(1, 6)):
        place, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        match rng.randrange(6):
            case 0:
                text = text[:place] + rng.choice(MARKS) + text[place:]
            case 1:
                text = text[:place] + text[min(end, place + 8) :]
            case 2:
                text = text[:end] + text[place:end] * rng.randint(1, 3) + text[end:]
            case 3:
                text = text[place:] + text[:place]
            case 4:
                other = rng.choice(seeds)
                text = text[:place] + other[rng.randint(0, len(other)) :]
            case _:
                text = (
                    text[:place]
                    + chr(rng.choice((rng.randrange(32, 127), 0x4E00, 0x2212)))
                    + text[end:]
                )
    return text[:4000]


def check_total(response, gold):
    """A verdict within its time, and no fault of the grader; the other extractions too."""
    started = time.thread_time()
    verdict = math.verify(response, gold)
    spent = time.thread_time() - started
    assert verdict.correct in (True, False, None)
    assert not verdict.reason.startswith("grader"), (response, gold, verdict)
    assert spent < LONGEST_S * SLACK, (spent, response, gold)
    choice.extract(response)
    last_block(response)


SLACK = 5  # run-time type checks and a busy machine


def fuzz(seconds, seed):
    """How many mutants were judged; stops at the first that breaks a rule."""
    seeds, rng, count = load_seeds(), random.Random(seed), 0
    end = time.monotonic() + seconds
    warm = None
    while time.monotonic() < end:
        response = mutate(rng.choice(seeds), seeds, rng)
        gold = rng.choice(seeds) if rng.random() < 0.5 else mutate(rng.choice(seeds), seeds, rng)
        check_total(response, gold)
        count += 1
        if warm is None and time.monotonic() > end - seconds / 2:
            warm = peak_mb()
    grown = peak_mb() - (warm or peak_mb())
    assert grown < GROWTH_MB, f"{grown} MB in {count} verdicts"
    return count


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_mutants_have_verdicts():
    assert fuzz(3, seed=1) > 50


@pytest.mark.slow
def test_mutants_have_verdicts_for_long():
    assert fuzz(SECONDS, seed=SEED) > 500


ATHERIS = """
import atheris, sys
with atheris.instrument_imports(include=["r1jax.rewards.math", "r1jax.rewards.choice"]):
    from r1jax.rewards import choice, math
import test_math_fuzz as here
def one(data):
    text = data.decode("utf-8", "replace")
    response, _, gold = text.partition("\\x01")
    here.check_total(response, gold or "1/2")
atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


ATHERIS_LIMITS = (
    f"-max_total_time={int(SECONDS)}",
    "-timeout=10",
    "-rss_limit_mb=2048",
    "-max_len=600",
)


@pytest.mark.slow
def test_mutants_guided_by_coverage(tmp_path):
    pytest.importorskip("atheris")
    for number, text in enumerate(load_seeds()[::7]):
        (tmp_path / str(number)).write_bytes(text.encode("utf-8", "replace"))
    paths = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", ATHERIS, str(tmp_path), *ATHERIS_LIMITS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


# Pairs from a grammar, with a second opinion in floating point on whether they are equal.

NAMES = ("x", "y", "a")
FUNCTIONS = {"sqrt": cmath.sqrt, "sin": cmath.sin, "cos": cmath.cos, "ln": cmath.log, "abs": abs}


def draw(rng, depth):
    """A random expression as nested tuples."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(NAMES) if rng.random() < 0.5 else rng.randint(1, 12)
    kind = rng.choice(("+", "-", "*", "/", "^", "call"))
    if kind == "^":
        return (kind, draw(rng, depth - 1), rng.randint(2, 3))
    if kind == "call":
        return (rng.choice(tuple(FUNCTIONS)), draw(rng, depth - 1))
    return (kind, draw(rng, depth - 1), draw(rng, depth - 1))


def latex(e):
    if not isinstance(e, tuple):
        return str(e)
    name, *rest = e
    parts = [latex(arg) for arg in rest]
    if name == "/":
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    if name == "^":
        return f"\\left({parts[0]}\\right)^{{{parts[1]}}}"
    if name == "sqrt":
        return f"\\sqrt{{{parts[0]}}}"
    if name == "abs":
        return f"\\left|{parts[0]}\\right|"
    if name in FUNCTIONS:
        return f"\\{name}\\left({parts[0]}\\right)"
    sign = "\\cdot " if name == "*" else name
    return f"\\left({parts[0]}\\right){sign}\\left({parts[1]}\\right)"


def value(e, point):
    if isinstance(e, str):
        return complex(point[e])
    if isinstance(e, int):
        return complex(e)
    name, *rest = e
    args = [value(arg, point) for arg in rest]
    if name in FUNCTIONS:
        return complex(FUNCTIONS[name](args[0]))
    if name == "^":
        return args[0] ** int(args[1].real)
    a, b = args
    return {"+": a + b, "-": a - b, "*": a * b}[name] if name != "/" else a / b


def perturb(e, rng):
    """The expression with one change: of a number, a letter, a sign, an order, a function."""
    if isinstance(e, int):
        return e + rng.choice((-1, 1, 10))
    if isinstance(e, str):
        return rng.choice([name for name in NAMES if name != e] + [("*", 2, e)])
    name, *rest = e
    here = rng.random()
    if here < 0.25 and name in "+-*/":
        return (rng.choice([op for op in "+-*/" if op != name]), *rest)
    if here < 0.25 and name in FUNCTIONS:
        return (rng.choice([f for f in FUNCTIONS if f != name]), *rest)
    if here < 0.35 and name in "-/":
        return (name, rest[1], rest[0])
    place = rng.randrange(1 if name == "^" else len(rest))
    rest[place] = perturb(rest[place], rng)
    return (name, *rest)


def differ(e, other, rng):
    """Whether floating point is sure that two expressions differ at a common point."""
    for _ in range(4):
        point = {name: rng.uniform(0.3, 3.0) for name in NAMES}
        try:
            a, b = value(e, point), value(other, point)
        except (ZeroDivisionError, OverflowError, ValueError):
            continue
        if (
            cmath.isfinite(a)
            and cmath.isfinite(b)
            and abs(a) < 1e6
            and abs(a - b) > 1e-6 * (1 + abs(a))
        ):
            return True
    return False


SHAPES = {
    "value": "{}",
    "tuple": r"\left({}, 3\right)",
    "list": "{}, 1000",
    "label": "t = {}",
    "matrix": r"\begin{{pmatrix}} 1 & {} \\ 0 & 2 \end{{pmatrix}}",
    "interval": r"\left({}, \infty\right)",
}


def false_positives(seconds, seed):
    """(pairs that differ, those of them that were called equal)"""
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    count, wrong = 0, []
    while time.monotonic() < end:
        e = draw(rng, 3)
        other = perturb(e, rng)
        if not differ(e, other, rng):
            continue
        shape = rng.choice(tuple(SHAPES.values()))
        gold, pred = shape.format(latex(e)), shape.format(latex(other))
        count += 1
        if math.verify(pred, gold).correct is True:
            wrong.append((gold, pred))
    return count, wrong


def test_pairs_that_differ_are_told_apart():
    count, wrong = false_positives(3, seed=2)
    assert count > 20
    assert not wrong


@pytest.mark.slow
def test_pairs_that_differ_are_told_apart_for_long():
    count, wrong = false_positives(SECONDS, seed=SEED)
    assert len(wrong) <= 0.001 * count, wrong[:10]


def test_the_second_opinion_is_worth_asking():
    assert value(("+", "x", ("sqrt", 4)), {"x": 1.0}) == pytest.approx(3)
    assert differ(("*", "x", "x"), ("+", "x", "x"), random.Random(0))
    assert not differ(("*", 2, "x"), ("+", "x", "x"), random.Random(0))
