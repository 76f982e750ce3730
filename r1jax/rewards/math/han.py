"""Chinese answers: numerals, fractions, percentages, connectives and labels rewritten to the ASCII
grammar.
"""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "两": 2,
    "壹": 1,
    "贰": 2,
    "叁": 3,
}
_SMALL = {"十": 10, "百": 100, "千": 1000}
_LARGE = {"万": 10**4, "亿": 10**8}
_ONES = "零〇一二两三四五六七八九"
_NUMERAL = f"[{_ONES}十][{_ONES}十百千万亿]*(?:点[{_ONES}]+)?"
_VALUE = rf"(?:\d+(?:\.\d+)?|{_NUMERAL})"
_FRACTION = re.compile(rf"({_VALUE}|[十百千万]+)分之({_VALUE})")
_SCALED = re.compile(r"(\d+(?:\.\d+)?)\s*([百千]?[万亿])")
_MEASURES = (
    "个|人|天|元|米|厘米|千米|度|次|种|本|页|支|只|条|岁|小时|分钟|倍|块|平方|立方|张|辆|件|题|道"
    "|年|月|日|或|和|与"
)
# A numeral in words is one only where it stands alone or before a unit, not inside a word such as
# 一定.
_ALONE = re.compile(rf"(?<![\u4e00-\u9fff])(负?)({_NUMERAL})(?=$|[,;. )\]}}]|{_MEASURES})")
_LABEL = re.compile(
    r"^[\u4e00-\u9fff]*?(?:答案|结果|最大值|最小值|面积|体积|长度|周长|总数|值|解|概率)?(?:分别)?(?:是|为|等于|约为|大约是|：|:)\s*"
)
_CONNECTIVES = (
    (r"\s*(?:或者|或)\s*", " or "),
    (r"\s*(?:以及|和|与|及)\s*", " and "),
    (r"\s*且\s*", " and "),
)
_SIGNS = (
    (r"(?<=[\dA-Za-z)}])\s*等于\s*", "="),
    (r"(?<=[\dA-Za-z)}])\s*大于等于\s*", r"\\ge "),
    (r"(?<=[\dA-Za-z)}])\s*小于等于\s*", r"\\le "),
    (r"(?<=[\dA-Za-z)}])\s*大于\s*", ">"),
    (r"(?<=[\dA-Za-z)}])\s*小于\s*", "<"),
    (r"(?<=\d)\s*比\s*(?=\d)", ":"),
)
_AROUND = re.compile(r"^(?:大约|约|共|一共|总共|解[:：]?|答[:：]?|因此|所以|即)\s*")
_TIME = re.compile(
    r"^(上午|下午|晚上|早上|凌晨|中午)?\s*(\d{1,2})(?:(?:点|时|:)(?:(\d{1,2})分?|半)|点整?)$"
)
_NEGATED = re.compile("[不非]是|不等|不为|至少|至多|超过|少于|多于|不到|不足")
_IS_HAN = re.compile("[\u4e00-\u9fff]")


def has_han(text: str) -> bool:
    return bool(_IS_HAN.search(text))


def numeral(text: str) -> Fraction | None:
    """三百二十一, 两千, 一点五"""
    whole, _, decimals = text.partition("点")
    total = section = digit = 0
    if whole and all(c in _DIGITS for c in whole) and len(whole) > 1:
        total = int("".join(str(_DIGITS[c]) for c in whole))
        whole = ""
    for c in whole:
        if c in _DIGITS:
            digit = _DIGITS[c]
        elif c in _SMALL:
            section, digit = section + (digit or 1) * _SMALL[c], 0
        elif c in _LARGE:
            total, section, digit = (total + section + digit) * _LARGE[c], 0, 0
        else:
            return None
    value = Fraction(total + section + digit)
    if decimals:
        value += Fraction(int("".join(str(_DIGITS[c]) for c in decimals)), 10 ** len(decimals))
    return value


def _as_number(text: str) -> Fraction | None:
    return Fraction(text) if text[0].isdigit() else numeral(text)


def _shown(value: Fraction) -> str:
    return (
        str(value.numerator)
        if value.denominator == 1
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def _fraction(match: re.Match[str]) -> str:
    bottom, top = _as_number(match.group(1)), _as_number(match.group(2))
    if not bottom or top is None:
        return match.group()
    return rf"\frac{{{_shown(top)}}}{{{_shown(bottom)}}}"


def _scaled(match: re.Match[str]) -> str:
    size = 1
    for c in match.group(2):
        size *= _SMALL.get(c, 1) * _LARGE.get(c, 1)
    return _shown(Fraction(match.group(1)) * size)


def _alone(match: re.Match[str]) -> str:
    value = numeral(match.group(2))
    return match.group() if value is None else ("-" if match.group(1) else "") + _shown(value)


def clock_parts(text: str) -> tuple[int, int, str] | None:
    """下午3点45分 as hour, minute and half of the day."""
    match = _TIME.match(text)
    if match is None or (":" in text and not match.group(1)):
        return None
    half = {"上午": "am", "早上": "am", "凌晨": "am", "下午": "pm", "晚上": "pm", "中午": "pm"}.get(
        match.group(1) or "", ""
    )
    minute = 30 if text.endswith("半") else int(match.group(3) or 0)
    return int(match.group(2)), minute, half


def to_grammar(text: str) -> str:
    """Rewrite what has a form in the grammar; the rest stays for units and words."""
    if _NEGATED.search(text):
        return text
    text = _AROUND.sub("", text)
    text = re.sub(r"(?<=小时)(\d+)分(?!钟)", r"\1分钟", text)
    text = (
        _LABEL.sub("", text)
        if re.search(r"\d|[A-Za-z\\]|^[\u4e00-\u9fff]+(?:是|为)", text)
        else text
    )
    text = _FRACTION.sub(_fraction, text)
    text = _SCALED.sub(_scaled, text)
    text = _ALONE.sub(_alone, text)
    text = re.sub(r"负(?=\d|\\frac)", "-", text)
    if re.search(r"[\dA-Za-z\\]", text):
        for pattern, instead in (*_CONNECTIVES, *_SIGNS):
            text = re.sub(pattern, instead, text)
    return text
