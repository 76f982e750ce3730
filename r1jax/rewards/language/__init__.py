"""Language consistency of a chain of thought: R1's ratio, and a form that resists being gamed.

DeepSeek-R1 (2501.12948, eq. 7): words in the target language / words, over the chain of thought.
Languages with a script of their own are told by it; those in Latin letters by a sentence's small
words (`latin`), or by any other detector.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from r1jax.rewards.language import han, latin, prose

SCRIPT_TARGETS = ("zh", "zh-Hans", "zh-Hant", "ja", "ko", "ru", "ar", "th", "hi")
TARGETS = (*SCRIPT_TARGETS, *latin.LANGUAGES)
MINIMUM_WORDS = 20
UNSURE = "?"  # Latin words of a sentence that could be in several languages

# Words per character in scripts without blanks, so that no language outweighs another.
_WORDS_PER_CHARACTER = {"han": 1 / 1.6, "kana": 1 / 2, "th": 1 / 4}
_KANA_SHARE = 0.05
_SHORT_SENTENCE = 10  # characters: Japanese headings and labels often have no kana
_WINDOW = 100
_MIN_DISTINCT = 0.1


class Unit(NamedTuple):
    """A word, or a run of characters of a script without blanks."""

    language: str
    kind: str
    run: str

    @property
    def weight(self) -> float:
        """How many words it counts as."""
        return _WORDS_PER_CHARACTER[self.kind] * len(self.run) if self.is_run else 1.0

    @property
    def is_run(self) -> bool:
        return self.kind in _WORDS_PER_CHARACTER


@dataclasses.dataclass(frozen=True)
class Report:
    """`ratio` is R1's; `hardened` is None (neutral) where there is too little to judge."""

    ratio: float | None
    hardened: float | None
    words: float
    shares: Mapping[str, float]
    switches: int


def consistency(text: str, target: str) -> float | None:
    """R1's ratio over the thoughts in `text`; None where there are no words at all.

    Code, formulas, links and numbers are no words. Sentences whose language is unsure count as the
    target's where they use its letters.
    """
    return report(text, target).ratio


def hardened(
    text: str, target: str, *, prompt: str = "", detector: latin.Detector = latin.detect
) -> float | None:
    """The ratio in [0, 1] that pays neither silence nor repetition, nor borrowed letters.

    None (mask it, or take the batch's mean) below `MINIMUM_WORDS` countable words: otherwise no
    thoughts, or formulas only, would be the best policy. Use it with a small weight, or only where
    the answer is correct.
    """
    return report(text, target, prompt=prompt, detector=detector).hardened


def report(
    text: str, target: str, *, prompt: str = "", detector: latin.Detector = latin.detect
) -> Report:
    """Both ratios, the share of each language and how often it changes."""
    if target not in TARGETS and detector is latin.detect:
        raise ValueError(f"no such target language: {target!r}; there are {', '.join(TARGETS)}")
    known = _Prompt(prompt)
    thoughts = prose.of(prose.clean(prose.thoughts(text)))
    found = _units(thoughts, detector, varieties=target.startswith("zh-"))
    units = [unit for unit in found if not known.exempts(unit, target)]
    totals: dict[str, float] = {}
    for unit in units:
        totals[unit.language] = totals.get(unit.language, 0.0) + unit.weight
    words = sum(totals.values(), 0.0)
    sure = [unit.language for unit in units if unit.language != UNSURE]
    return Report(
        ratio=_ratio(totals, target),
        hardened=_hardened(units, totals, target),
        words=words,
        shares={language: weight / words for language, weight in totals.items()} if words else {},
        switches=sum(a != b for a, b in itertools.pairwise(sure)),
    )


def _ratio(totals: Mapping[str, float], target: str) -> float | None:
    words = sum(totals.values(), 0.0)
    if not words:
        return None
    unsure_is_target = target not in SCRIPT_TARGETS
    hits = sum(
        weight
        for language, weight in totals.items()
        if _is(language, target) or (language == UNSURE and unsure_is_target)
    )
    return min(1.0, hits / words)


def _hardened(units: list[Unit], totals: Mapping[str, float], target: str) -> float | None:
    unsure = totals.get(UNSURE, 0.0)
    if target in SCRIPT_TARGETS:
        decided, excess = sum(totals.values(), 0.0), 0.0
    else:
        decided = sum(totals.values(), 0.0) - unsure
        # Unsure sentences are neutral only as a minority: a language that the detector does not
        # know must not hide behind a few words of the target.
        excess = max(0.0, unsure - decided)
    if decided < MINIMUM_WORDS:
        return None
    hits = _varied(unit for unit in units if _is(unit.language, target))
    return min(1.0, max(0.0, hits / (decided + excess)))


def _varied(units: Iterable[Unit]) -> float:
    """The words in `units`, less where a window of a hundred has hardly ten different ones."""
    items: list[tuple[str, float]] = []
    for unit in units:
        parts = list(unit.run) if unit.is_run else [unit.run.lower()]
        items += [(part, unit.weight / len(parts)) for part in parts]
    total = 0.0
    for start in range(0, len(items), _WINDOW):
        window = items[start : start + _WINDOW]
        distinct = len({part for part, _ in window}) / len(window)
        total += min(1.0, distinct / _MIN_DISTINCT) * sum(weight for _, weight in window)
    return total


def _is(language: str, target: str) -> bool:
    """Whether words of `language` are in the target; Chinese may leave the characters open."""
    if language.startswith("zh") and target.startswith("zh"):
        return language == target or "zh" in (language, target)
    return language == target


def _units(thoughts: str, detector: latin.Detector, *, varieties: bool) -> Iterator[Unit]:
    """The words of the prose in order, each with its language."""
    sentences = [(sentence, prose.words(sentence)) for sentence in prose.sentences(thoughts)]
    totals = {"han": 0, "kana": 0}
    for _, words in sentences:
        for kind, run in words:
            if kind in totals:
                totals[kind] += len(run)
    japanese = totals["kana"] > _KANA_SHARE * sum(totals.values())
    waiting: list[str] = []  # Latin words of sentences too short to be told by themselves
    for sentence, words in sentences:
        characters = _language_of_han(words, japanese)
        if varieties and characters == "zh":
            characters = han.variety(sentence) or "zh"
        for kind, run in words:
            if kind == "latin":
                waiting.append(run)
            else:
                yield Unit({"han": characters, "kana": "ja"}.get(kind, kind), kind, run)
        if len(waiting) >= latin.MIN_WORDS:
            yield from _latin_units(waiting, detector)
            waiting = []
    yield from _latin_units(waiting, detector)


def _latin_units(words: list[str], detector: latin.Detector) -> Iterator[Unit]:
    language = detector(words) or UNSURE
    return (Unit(language, "latin", word) for word in words)


def _language_of_han(words: list[tuple[str, str]], japanese: bool) -> str:
    """Japanese where kana stand beside the characters, by the sentence; else Chinese."""
    han_count = sum(len(run) for kind, run in words if kind == "han")
    kana = sum(len(run) for kind, run in words if kind == "kana")
    if kana > _KANA_SHARE * (han_count + kana):
        return "ja"
    if japanese and han_count <= _SHORT_SENTENCE:
        return "ja"
    return "zh"


class _Prompt:
    """Names and quoted terms of the prompt, and abbreviations, are foreign words to nobody."""

    def __init__(self, prompt: str) -> None:
        words = prose.words(prose.clean(prompt)) if prompt else []
        self._words = {run.lower() for _, run in words}

    def exempts(self, unit: Unit, target: str) -> bool:
        if _is(unit.language, target) or unit.kind == "mixed":
            return False
        # Function words are never names: a prompt must not make a whole language free.
        if unit.kind == "latin" and latin.is_function_word(unit.run):
            return False
        abbreviation = unit.run.isascii() and unit.run.isupper() and len(unit.run) <= 5
        if target in SCRIPT_TARGETS and abbreviation:
            return True
        return unit.run.lower() in self._words
