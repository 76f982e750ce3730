"""Language consistency: what the paper's ratio says, and hacks that the hardened form resists."""

import json
import pathlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards.language import TARGETS, consistency, hardened, latin, prose, report

# The same few sentences about apples in each language.
THOUGHTS = json.loads(
    (pathlib.Path(__file__).parent / "data" / "languages.json").read_text("utf-8")
)
PINYIN, ROMAJI = THOUGHTS.pop("pinyin"), THOUGHTS.pop("romaji")


@pytest.mark.parametrize("language", THOUGHTS)
def test_each_language_is_itself_and_no_other(language):
    text = THOUGHTS[language]
    assert hardened(text, language) == pytest.approx(1.0)
    assert consistency(text, language) >= 0.95
    for other in TARGETS:
        if other != language and not (language.startswith("zh") and other in ("zh", "zh-Hans")):
            assert hardened(text, other) <= 0.1, other


def test_chinese_in_either_characters_is_chinese():
    assert hardened(THOUGHTS["zh-Hant"], "zh") == hardened(THOUGHTS["zh"], "zh") == 1.0
    assert hardened(THOUGHTS["zh-Hant"], "zh-Hans") == 0.0
    assert hardened(THOUGHTS["zh"], "zh-Hant") == 0.0


@pytest.mark.parametrize("pair", [("zh", "en"), ("ru", "en"), ("de", "en"), ("ja", "zh")])
def test_a_mixture_lies_between_and_adds_up(pair):
    text = "\n".join(THOUGHTS[language] for language in pair)
    first, second = (hardened(text, language) for language in pair)
    assert 0.3 < first < 0.7
    assert first + second == pytest.approx(1.0)


def test_the_report_counts_shares_and_switches():
    told = report("\n".join(THOUGHTS[language] for language in ("en", "ru", "en")), "en")
    assert told.switches == 2
    assert sum(told.shares.values()) == pytest.approx(1.0)
    assert told.shares["en"] == pytest.approx(told.ratio)


def test_formulas_code_links_and_numbers_are_no_words():
    noise = (
        "\\[\\begin{aligned} x &= \\frac{\\sin y}{2} \\end{aligned}\\] then $a_1 + \\alpha$ and\n"
        "```python\ndef find_number(values):\n    return max(values)\n```\n"
        "`some_name`, https://example.org/some/path/of/words and 3.14 × 10 km2 \\(\\cos t\\)\n"
    )
    told = report(THOUGHTS["zh"] + noise * 3, "zh")
    assert told.shares["zh"] > 0.8
    assert report(noise, "zh").hardened is None


def test_prices_are_no_formulas():
    text = "I paid $5 for the apples and the other shop wanted $7 for them, which is too much."
    assert "wanted" in prose.of(text)
    assert "maybe" in prose.of("It costs $5 or maybe $7 today.")
    assert "maybe" not in prose.of("Here $x maybe y$ stands.")


@pytest.mark.parametrize(
    "thoughts",
    ["", "   ", "So the answer is 4.", "$x = 2$ " * 100, "1 2 3 4 " * 50, "🙂" * 100],
    ids=range(6),
)
def test_too_little_to_judge_is_neutral(thoughts):
    assert hardened(thoughts, "en") is None
    assert hardened(f"<think>{thoughts}</think>{THOUGHTS['en']}", "en") is None


def test_words_after_the_thoughts_do_not_count():
    response = f"<think>{THOUGHTS['en']}</think><answer>{THOUGHTS['zh'] * 5}</answer>"
    assert hardened(response, "zh") <= 0.05
    assert hardened(response, "en") == pytest.approx(1.0)


@pytest.mark.parametrize("language", ["en", "zh", "th"])
def test_one_word_over_and_over_earns_little(language):
    word = {"en": "the ", "zh": "的", "th": "และ"}[language]
    assert consistency(word * 3000, language) == 1.0
    assert hardened(word * 3000, language) <= 0.5
    mostly_foreign = THOUGHTS["ko" if language != "ko" else "ru"] + word * 1000
    assert hardened(mostly_foreign, language) <= 0.5


HIDING_PLACES = [
    "```\n{}\n```",
    "```python\n# {}\n```",
    "$$\\text{{{}}}$$",
    "\\(\\text{{{}}}\\)",
    "\\[{}\\]",
    "\\begin{{align}}{}\\end{{align}}",
    "`{}`",
]


@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize(("hidden", "target"), [("zh", "en"), ("en", "zh"), ("de", "en")])
def test_thinking_in_code_or_formulas_is_seen(place, hidden, target):
    text = THOUGHTS[target] + "\n" + place.format(THOUGHTS[hidden]) + "\n"
    assert hardened(text, target) < 0.75


@pytest.mark.parametrize("text", [PINYIN, ROMAJI])
@pytest.mark.parametrize("target", ["en", "zh", "ja", "it", "id"])
def test_a_language_spelt_out_in_latin_letters_earns_nothing(text, target):
    assert hardened(text * 2, target) in (None, 0.0)
    if target in THOUGHTS and target in latin.LANGUAGES:
        assert hardened(THOUGHTS[target] + text * 2, target) < 0.75


def test_letters_of_another_alphabet_do_not_make_a_word():
    imitation = THOUGHTS["en"].translate(str.maketrans("aeo", "аео"))  # Cyrillic
    assert hardened(imitation, "en") in (None, pytest.approx(0, abs=0.3))
    assert hardened(imitation, "ru") <= 0.1


def test_invisible_characters_and_wide_letters_change_nothing():
    expected = hardened(THOUGHTS["en"] + THOUGHTS["zh"], "en")
    spread = "\u200b".join(THOUGHTS["en"]) + THOUGHTS["zh"]
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in THOUGHTS["en"])
    assert hardened(spread, "en") == pytest.approx(expected)
    assert hardened(wide + THOUGHTS["zh"], "en") == pytest.approx(expected)


def test_an_unknown_language_does_not_hide_behind_a_few_words():
    unknown = "Ova rečenica nema nijednu poznatu kratku riječ spojenu ovdje uopće nigdje. " * 20
    assert hardened(THOUGHTS["en"] + unknown, "en") < 0.5


def test_names_of_the_prompt_are_free_but_its_language_is_not():
    text = THOUGHTS["zh"] + "Alice Johnson Springfield Elementary" * 4
    assert hardened(text, "zh") < 0.9
    assert hardened(text, "zh", prompt="Alice Johnson goes to Springfield Elementary.") == 1.0
    assert hardened(THOUGHTS["en"], "zh", prompt=THOUGHTS["en"]) in (None, 0.0)
    mixed = THOUGHTS["zh"] + THOUGHTS["en"]
    assert hardened(mixed, "zh", prompt=THOUGHTS["en"]) < 0.8


def test_another_detector_may_decide():
    assert hardened(THOUGHTS["en"], "fi", detector=lambda words: "fi") == 1.0
    with pytest.raises(ValueError, match="no such target"):
        consistency("words", "xx")


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300), st.sampled_from(TARGETS))
def test_any_text_gives_a_share(text, target):
    told = report(text, target)
    assert told.ratio is None or 0 <= told.ratio <= 1
    assert told.hardened is None or 0 <= told.hardened <= 1


FRAGMENTS = [
    "`",
    "```",
    "$",
    "$$",
    "\\(",
    "\\[",
    "\\]",
    "\\begin{x}",
    "\\text{",
    "}",
    "# ",
    "a.",
    "\n",
    "_",
]


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_no_text_takes_quadratic_time(fragment):
    # Quadratic work on 20,000 marks would take minutes; the suite would not end.
    report(fragment * 20_000, "en")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_more_foreign_words_never_pay(seed, count):
    rng = random.Random(seed)
    foreign = THOUGHTS["ru"].split()
    text = THOUGHTS["en"]
    before = hardened(text, "en")
    after = hardened(text + "\n" + " ".join(rng.choices(foreign, k=count)), "en")
    assert before is not None
    assert after is not None
    assert after <= before
