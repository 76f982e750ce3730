"""One verdict for one response: extract, parse, compare, and say which side failed when something
does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from r1jax.rewards.math import words
from r1jax.rewards.math.answers import Answer, integer_text, parse
from r1jax.rewards.math.clean import to_ascii, unwrap
from r1jax.rewards.math.compare import answers_equal
from r1jax.rewards.math.extract import Extraction, extract_answer
from r1jax.rewards.math.guard import Budget
from r1jax.rewards.math.nodes import (
    Node,
    Quantity,
    Seq,
    Text,
    TooCostly,
    Undefined,
    Unparsable,
    children,
)
from r1jax.rewards.math.tokens import tokenize

MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """`correct` is None where nothing can be said because the gold or the grader failed: mask the
    sample.
    """

    correct: bool | None
    reason: str
    parsed: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class GoldReport:
    """What is wrong or doubtful about a reference answer; a clean one has `ok` and no flags."""

    ok: bool
    flags: tuple[str, ...]
    parsed: str


def verify(response: str, gold: str, *, timeout_s: float = 2.0) -> Verdict:
    """Whether the response's final answer equals the gold.

    Every stage has a bound that is known before it runs (see `guard`), so this needs no signal,
    thread or process and may be called anywhere; `timeout_s` of the calling thread's processor time
    is a backstop.
    """
    start = time.perf_counter()
    try:
        found = extract_answer(response)
        verdict = quick_verdict(found, gold) or grade(found, gold, timeout_s=timeout_s)
    except Exception as error:  # noqa: BLE001 - a fault of the grader masks the sample and never ends a run
        verdict = Verdict(None, f"grader: {type(error).__name__}: {error}")
    return replace(verdict, seconds=time.perf_counter() - start)


def quick_verdict(found: Extraction, gold: str) -> Verdict | None:
    """Decide what needs no parser: nothing to compare, plain integers, or the very same text."""
    reference = gold_text(gold).strip()
    given = found.text.strip()
    if not reference:
        return Verdict(None, "gold: empty")
    if not given:
        return Verdict(False, "answer: none found")
    numbers = integer_text(reference), integer_text(given)
    if numbers[0] is not None and numbers[1] is not None:
        return Verdict(numbers[0] == numbers[1], "integer", given[:MAX_SHOWN])
    return None


def grade(found: Extraction, gold: str, *, timeout_s: float = 2.0) -> Verdict:
    """The verdict on an extracted answer."""
    start = time.perf_counter()
    try:
        wanted = parse(gold_text(gold))
        given = choose_reading(found, wanted)
        correct, reason = judge(wanted, given, Budget(seconds=timeout_s))
        parsed = given.text[:MAX_SHOWN]
    except Exception as error:  # noqa: BLE001 - as in `verify`
        correct, reason, parsed = None, f"grader: {type(error).__name__}: {error}", None
    return Verdict(correct, reason, parsed, time.perf_counter() - start)


def gold_text(gold: str) -> str:
    """References may come boxed, or as GSM8K's "#### 5"."""
    if "\\boxed" in gold or "####" in gold:
        return extract_answer(gold).text
    return gold


def choose_reading(found: Extraction, wanted: Answer) -> Answer:
    """The first reading of the stated place that is mathematics, or that says the gold's words."""
    readings = [parse(text) for text in found.candidates]
    worded = (
        any(isinstance(node, Text) for node in wanted.nodes)
        or words.choice_letters(wanted.text) is not None
    )
    for reading in readings:
        if worded and (
            words.same_words(wanted.plain, reading.plain)
            or words.leading_choice(reading.text)
            or words.choice_letters(reading.text)
        ):
            return reading
        if reading.nodes and not any(_is_sentence(node) for node in reading.nodes):
            return reading
    return readings[0]


def _is_sentence(node: Node) -> bool:
    if isinstance(node, Text):
        return len(node.words.split()) > 1 or not node.words.isascii()
    if isinstance(node, Seq) and node.kind == "list":
        return any(_is_sentence(item) for item in node.items)
    label = children(node)[0] if children(node) else None
    return isinstance(label, Text) and len(label.words.split()) > 4


def judge(gold: Answer, pred: Answer, budget: Budget) -> tuple[bool | None, str]:
    """Compare two parsed answers."""
    if gold.text == pred.text or (
        gold.plain and words.same_words(gold.plain, pred.plain) and _are_words(gold)
    ):
        return True, "same text"
    choice = _judge_choice(gold, pred, budget)
    if choice is not None:
        return choice, "choice"
    return _judge_values(gold, pred, budget)


def _judge_values(gold: Answer, pred: Answer, budget: Budget) -> tuple[bool | None, str]:
    """Compare answers of which neither is a letter."""
    if not (gold.nodes and pred.nodes) and same_tokens(gold.text, pred.text):
        return True, "same tokens"
    if not gold.nodes:
        return None, f"gold: {gold.error}"
    if not pred.nodes:
        return False, f"answer: {pred.error}"
    return _judge_nodes(gold.nodes, pred.nodes, budget)


def same_tokens(left: str, right: str) -> bool:
    """Whether two texts outside the grammar differ in spacing and spelling of commands only."""
    try:
        streams = [[(t.kind, t.text) for t in tokenize(text)] for text in (left, right)]
    except Unparsable:
        return False
    return streams[0] == streams[1]


def _are_words(gold: Answer) -> bool:
    """Words, or names in a list, of which a short one may look like a product of letters."""
    return all(
        isinstance(node, Text)
        or (isinstance(node, Seq) and isinstance(node.items[0], Text) and gold.plain.isascii())
        for node in gold.nodes
    )


def _judge_choice(gold: Answer, pred: Answer, budget: Budget) -> bool | None:
    """Letters of a multiple-choice question; a letter before a value is a label where the gold is a
    value.
    """
    wanted = words.choice_letters(gold.text)
    leading = words.leading_choice(pred.text)
    if wanted is not None:
        given = words.choice_letters(pred.text) or (leading[0] if leading else None)
        return words.same_choices(wanted, given) if given else None
    labelled = words.leading_choice(gold.text)
    if labelled and labelled[1]:
        given = words.choice_letters(pred.text) or (leading[0] if leading else None)
        if given:
            return given == labelled[0]
        return _judge_values(parse(labelled[1]), pred, budget)[0]
    if leading and leading[1]:
        return _judge_values(gold, parse(leading[1]), budget)[0] or None
    return None


def _judge_nodes(
    gold: tuple[Node, ...], pred: tuple[Node, ...], budget: Budget
) -> tuple[bool | None, str]:
    """Any reading of one against any of the other; a failure is the gold's only if the gold fails
    by itself.
    """
    reason = "differs"
    for wanted in gold:
        for given in pred:
            try:
                if answers_equal(wanted, given, budget):
                    return True, "equal"
            except TooCostly as error:
                reason = f"too costly: {error}"
            except Undefined as error:
                reason = f"undecided: {error}"
    if reason.startswith("too costly") and all(_is_too_costly(node) for node in gold):
        return None, f"gold: {reason}"
    return False, reason


def _is_too_costly(node: Node) -> bool:
    """Whether comparing the gold with something harmless already breaks the budget."""
    try:
        answers_equal(node, _PROBE, Budget())
    except TooCostly:
        return True
    except Undefined:
        return False
    return False


_PROBE = parse("0.4142").nodes[0]


def lint_gold(gold: str) -> GoldReport:
    """Check a reference answer against itself, and flag what needs a second look before training on
    it.
    """
    reference = gold_text(gold)
    answer = parse(reference)
    verdict = verify(f"\\boxed{{{reference}}}", gold)
    flags = [name for name, found in _FLAGS.items() if found(answer)]
    if not answer.nodes:
        flags.append(f"unparsable: {answer.error}")
    if verdict.correct is not True:
        flags.append(f"not equal to itself: {verdict.reason}")
    return GoldReport(
        bool(answer.nodes) and verdict.correct is True,
        tuple(flags),
        unwrap(to_ascii(reference))[:MAX_SHOWN],
    )


_FLAGS = {
    "empty": lambda a: not a.text,
    "ambiguous": lambda a: len(a.nodes) > 1,
    "words": lambda a: (
        any(isinstance(n, Text) for n in a.nodes) and words.choice_letters(a.text) is None
    ),
    "list": lambda a: any(isinstance(n, Seq) and n.kind == "list" for n in a.nodes),
    "unit": lambda a: any(isinstance(n, Quantity) for n in a.nodes),
    "choice": lambda a: words.choice_letters(a.text) is not None,
}
