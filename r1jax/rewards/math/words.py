"""Answers in words: how they are normalised, which say the same, and which are choices of a
multiple-choice question.
"""

from __future__ import annotations

import re

from r1jax.rewards.math.vocabulary import names

_WRAP = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|mathsf|rm|bf)\s*\{"
)
_NOISE = re.compile(r"[\s\"'`.,;:!?。，；：！？“”‘’()\[\]{}*_~$-]+|\\[,;:! ]|\\q?quad")
_SYNONYMS = (
    ("对", "正确", "√", "是的", "对的", "checkmark"),
    ("错", "错误", "×", "不正确", "不对", "错的"),
    ("dne", "does not exist", "doesnotexist", "不存在"),
    ("no solution", "no solutions", "no real solution", "no real solutions", "none exist", "无解",
    "没有解", "无实数解", "无实根",
     "there is no solution", "there are no solutions", "empty set", "the empty set", "emptyset",
     "空集", "varnothing"),
    ("all real numbers", "all reals", "the set of all real numbers", "the real numbers", "全体实数",
    "实数集", "任意实数",
     "all real x", "any real number", "所有实数"),
    ("infinity", "infty", "inf", "正无穷"),
    ("infinitely many", "infinitely many solutions", "infinite solutions",
     "无数", "无数个", "无穷多", "无穷多个", "无数多个"),
    ("undefined", "not defined", "未定义"),
    ("monday", "mon", "星期一", "周一"),
    ("tuesday", "tue", "星期二", "周二"),
    ("wednesday", "wed", "星期三", "周三"),
    ("thursday", "thu", "星期四", "周四"),
    ("friday", "fri", "星期五", "周五"),
    ("saturday", "sat", "星期六", "周六"),
    ("sunday", "sun", "星期日", "星期天", "周日"),
)  # fmt: skip
_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_SPOKEN = {word: value for value, word in enumerate(_ONES.split())}
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_DECADES.split(), 2)}
_FILLERS = frozenset(("the", "an"))
_CHOICE = re.compile(
    r"^(?:(?:option|choice|answer|选项|选)\s*:?\s*)?[(\[]?\s*([A-Z])\s*(?:[)\].:、]|$|,(?!\s*[A-J]\b)|\s(?=because|since|as\b|which))\s*(.*)$",
    re.DOTALL | re.IGNORECASE,
)
_LETTERS = re.compile(
    r"^(?:[(\[]\s*[A-J]\s*[)\]]|(?:\([A-J]\)|[A-J])(?:(?:\s*(?:,|;|and|&|、|和|或|\.)\s*|\s*)(?:\([A-J]\)|[A-J]))*)$"
)


def _fold(words: str) -> str:
    return _NOISE.sub(" ", words).strip().lower()


_CANON = {_fold(word): _fold(group[0]) for group in _SYNONYMS for word in group}


_STOCK = names("""
    yes no odd even both neither all none true false up down left right east west north south red
    blue green black white boy girl sum set line ray cow dog cat men women one point
""")


def plain(text: str) -> str:
    """The text without LaTeX text commands and their braces."""
    if "\\" not in text:
        return text.strip()
    out, depth, i = [], [], 0
    while i < len(text):
        wrap = _WRAP.match(text, i)
        if wrap:
            depth.append(True)
            i = wrap.end()
            continue
        ch = text[i]
        if ch == "{":
            depth.append(False)
        if ch == "}" and depth and depth.pop():
            i += 1
            continue
        out.append(ch)
        i += 1
    return "".join(out).replace("\\ ", " ").replace("\\,", " ").replace("~", " ").strip()


def normal_words(words: str) -> str:
    folded = _fold(words)
    if " " in folded:
        kept = [w for i, w in enumerate(folded.split()) if w not in _FILLERS and (i or w != "a")]
        folded = " ".join(kept) or folded
    return _CANON.get(folded, folded)


def same_words(left: str, right: str) -> bool:
    a, b = normal_words(left), normal_words(right)
    if a in ("yes", "no") and re.match(rf"{a}\s*[,.;:]", right.strip().lower()):
        return True  # Yes, because …
    return bool(a) and (a == b or a.replace(" ", "") == b.replace(" ", ""))


def is_stock_phrase(text: str) -> bool:
    """Answers in words that the grammar could take for products of letters."""
    folded = _fold(text)
    return folded in _STOCK or (folded in _CANON and len(folded) > 2)


def is_wordy(text: str) -> bool:
    """Letters, spaces and punctuation only, and no mathematics: fit to be compared as words."""
    return bool(re.fullmatch(r"[^\W\d_][^\\^_={}<>+*/|0-9]*", text)) and bool(
        re.search(r"[^\W\d_]{2}", text)
    )


def spoken_number(words: str) -> int | None:
    """seven, twenty-three"""
    parts = words.lower().replace("-", " ").split()
    if len(parts) == 1:
        return _SPOKEN.get(parts[0], _TENS.get(parts[0]))
    if len(parts) == 2 and parts[0] in _TENS and 0 < _SPOKEN.get(parts[1], 0) < 10:
        return _TENS[parts[0]] + _SPOKEN[parts[1]]
    return None


def choice_letters(text: str) -> str | None:
    """The letters of an answer that is nothing but choices: B, (B), A, C, AC."""
    text = plain(text).strip(" .*:;。")
    if not _LETTERS.match(text):
        return None
    return "".join(ch for ch in text if "A" <= ch <= "J")


def leading_choice(text: str) -> tuple[str, str] | None:
    """(letter, rest) of an answer such as "(B) 12", "B. red" or "option B"."""
    match = _CHOICE.match(plain(text).strip(" *"))
    if match is None:
        return None
    letter, rest = match.group(1), match.group(2).strip()
    bracketed = ")" in match.group() and not rest
    return (letter.upper(), rest) if letter.isupper() or bracketed else None


def same_choices(gold: str, pred: str) -> bool:
    """Several letters are a set unless they read as an arrangement: out of order, or a whole run A,
    B, C, …
    """
    if gold == pred:
        return True
    if sorted(gold) != sorted(pred) or len(set(gold)) != len(gold):
        return False
    run = "".join(sorted(gold)) == "ABCDEFGHIJ"[: len(gold)] and len(gold) > 2
    return not run and (list(gold) == sorted(gold) or list(pred) == sorted(pred))
