"""An answer's text to what it can mean: one parse, sometimes a second where the notation is
ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from r1jax.rewards.math import han, words
from r1jax.rewards.math.clean import join_numbers, to_ascii, unwrap
from r1jax.rewards.math.nodes import (
    Based,
    Clock,
    Node,
    Quantity,
    Sym,
    Text,
    Unparsable,
    is_deeper_than,
    number,
)
from r1jax.rewards.math.parser import MAX_DEPTH, Parser, parse_expression
from r1jax.rewards.math.tokens import Scanner

MAX_ANSWER = 4_000  # characters; longer ones are compared as strings only

_CLOCK = re.compile(
    r"^(\d{1,2})\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?\s*(?:([ap])\s*\.?\s*m\.?)$|^(\d{1,2})\s*([ap])\s*\.?\s*m\.?$",
    re.IGNORECASE,
)
_BASE = re.compile(r"^([0-9A-F]{1,200})\s*\(?\s*(?:in\s+)?base[\s-]*(\d{1,2})\)?$")
_PREFIXED = re.compile(r"^0([xbo])([0-9A-Fa-f]{1,100})$")
_AMBIGUOUS_GROUPS = re.compile(r"^[1-9]\d{0,2}(?:,[1-9]\d{2})+$")
_SPACED_UNIT = re.compile(r"^[-+$]?[\d.,/]*\d\s+[A-Za-z][A-Za-z/^\d\s.*{}()-]*$")
_CAPITALS = re.compile(r"^[A-Z]{4,}$")  # a word, a figure or an arrangement: letters do not commute
_HYPHENATED = re.compile(r"^[A-Za-z]{3,}(?:-[A-Za-z]{3,})+$")
_CLAUSE = re.compile(
    r"(?:\\text\{|\s)\s*(?:for (?:all|any|every|each|some|real)|where|such that)\b.*$", re.DOTALL
)
_DOMAIN = re.compile(r"\s*\(\s*([A-Za-z]\s*\\in\s*\\mathbb\s*\{?[A-Z]\}?[^()]*)\)\s*$")
_ARROW = re.compile(r"\\(?:Rightarrow|implies|Longrightarrow|therefore)(?![A-Za-z])")

_SETS = {"all real numbers": Sym("set:R"), "no solution": Sym("emptyset")}


@dataclass(frozen=True, slots=True)
class Answer:
    """`nodes` are the readings, likeliest first; none means that the text is not in the grammar."""

    text: str
    plain: str
    nodes: tuple[Node, ...]
    error: str = ""


def parse(text: str) -> Answer:
    """Read one answer; never raises."""
    if len(text) > MAX_ANSWER:
        return Answer(text.strip(), "", (), "answer too long")
    try:
        return _parse(text)
    except RecursionError:  # the caller's own stack is nearly full; says nothing about the text
        return Answer(text.strip(), "", (), "nested too deeply")


@lru_cache(maxsize=4096)
def _parse(text: str) -> Answer:
    cleaned = unwrap(to_ascii(text))
    if _ARROW.search(cleaned):
        cleaned = unwrap(_ARROW.split(cleaned)[-1])
    plain = words.plain(cleaned)
    try:
        nodes = _readings(cleaned, plain)
    except Unparsable as error:
        if plain and (words.is_wordy(plain) or (plain.isascii() and _is_prose(plain))):
            return Answer(cleaned, plain, (Text(plain),))
        return Answer(cleaned, plain, (), str(error))
    return Answer(cleaned, plain, nodes)


def _is_prose(plain: str) -> bool:
    """Words with at most a few numerals among them, and nothing that looks like mathematics."""
    tokens = plain.split()
    return (
        len(tokens) > 1
        and not re.search(r"[\\^_={}<>+*|]", plain)
        and sum(t.strip(",.;:").isalpha() for t in tokens) * 2 >= len(tokens)
    )


def _readings(cleaned: str, plain: str) -> tuple[Node, ...]:
    if not cleaned:
        raise Unparsable("empty")
    if special := _special(plain):
        return (special,)
    if han.has_han(cleaned):
        rewritten = han.to_grammar(cleaned)
        if han.has_han(rewritten) and not re.search(r"[\dA-Za-z\\]", rewritten):
            return (Text(plain),)
        cleaned = unwrap(rewritten)
    cleaned = _DOMAIN.sub(r", \1", cleaned)
    joined = join_numbers(unwrap(_CLAUSE.sub("", cleaned)) or cleaned)
    several = " " in plain and not re.search(r"\b(?:and|or|pi|sqrt|to)\b", plain)
    if _CAPITALS.match(plain) or _HYPHENATED.match(plain) or (several and words.is_wordy(plain)):
        return (Text(plain),)
    attempts: list[Callable[[], Node]] = [lambda: parse_expression(joined)]
    if _AMBIGUOUS_GROUPS.match(joined):
        attempts.append(lambda: parse_expression(joined, split_commas=True))
    if _SPACED_UNIT.match(plain):
        attempts.append(lambda: _with_unit(plain))
    return _first_readings(attempts)


def _first_readings(attempts: list[Callable[[], Node]]) -> tuple[Node, ...]:
    nodes: list[Node] = []
    failure: Unparsable | None = None
    for attempt in attempts:
        try:
            nodes.append(attempt())
        except Unparsable as error:
            failure = failure or error
    if not nodes:
        raise failure or Unparsable("no reading")
    return tuple(dict.fromkeys(nodes))


def _with_unit(plain: str) -> Node:
    """5 m/s written without any mark-up: the letters are upright."""
    node = Parser(Scanner(plain, words=True).scan()).answer()
    if not isinstance(node, Quantity) or is_deeper_than(node, MAX_DEPTH):
        raise Unparsable("no unit")
    return node


def _special(plain: str) -> Node | None:
    """Forms that the expression grammar does not have: times of day, named bases, number words."""
    if clock := _CLOCK.match(plain):
        hour, minute, second, half, bare_hour, bare_half = clock.groups()
        return Clock(
            int(hour or bare_hour),
            int(minute or 0),
            int(second or 0),
            (half or bare_half).lower() + "m",
        )
    if parts := han.clock_parts(plain):
        return Clock(parts[0], parts[1], 0, parts[2])
    if based := _BASE.match(plain):
        base = int(based.group(2))
        if 2 <= base <= 36:
            return Based(based.group(1), base)
    if prefixed := _PREFIXED.match(plain):
        base = {"x": 16, "b": 2, "o": 8}[prefixed.group(1)]
        return Based(prefixed.group(2).upper(), base)
    spoken = words.spoken_number(plain)
    if spoken is not None:
        return number(spoken)
    return _SETS.get(words.normal_words(plain)) or (
        Text(plain) if words.is_stock_phrase(plain) else None
    )


def integer_text(text: str) -> str | None:
    """A plain integer literal in its one shortest form; most graded answers are no more."""
    sign, digits = ("-", text[1:]) if text[:1] == "-" else ("", text)
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0")
    return sign + digits if digits else "0"
