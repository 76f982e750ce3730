"""Text to text: unicode forms to LaTeX or ASCII, wrappers off, number notation joined. All passes
are linear.

Only look-alikes that a person types on purpose are mapped (full-width forms, mathematical letters,
dashes). Letters of other alphabets stay what they are: a Cyrillic O is not a zero, and Arabic-Indic
digits are not read as ASCII ones.
"""

from __future__ import annotations

import re
import unicodedata

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᵏᵐᵗʰʳᵈˢ", "0123456789+-=()nixyabkmthrds", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢₖₘₓₐ", "0123456789+-=()nikmxa", strict=True))

_CHARS = {
    **dict.fromkeys("−–—‒―﹣⁻－", "-"),
    "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*",
    "•": r"\cdot ",
    "⁄": "/", "∕": "/", "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\cbrt ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ",
    "≡": r"\equiv ", "∼": r"\sim ", "∈": r"\in ", "∉": r"\notin ", "⊂": r"\subset ",
    "⊆": r"\subseteq ",
    "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∅": r"\emptyset ", "⌀": r"\emptyset ",
    "∣": "|", "｜": "|",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "∠": r"\angle ", "△": r"\triangle ", "⊥": r"\perp ", "∥": r"\parallel ",
    "‖": r"\|",
    "°": r"\degree ", "º": r"\degree ", "˚": r"\degree ", "℃": r"\degree C", "′": "'", "″": "''",
    "’": "'", "‘": "'",
    "“": '"', "”": '"', "…": r"\ldots ", "⋯": r"\ldots ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "〈": r"\langle ",
    "〉": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "∑": r"\sum ",
    "∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ", "⇒": r"\Rightarrow ", "→": r"\to ",
    "⟹": r"\Rightarrow ",
    "∨": r"\lor ", "∧": r"\land ", "‰": r"\permille ", "％": r"\%",
    "，": ", ", "、": ", ", "；": "; ",
    "：": ":",
    "。": ". ", "【": "[", "】": "]", "〔": "(", "〕": ")", "「": '"', "」": '"', "℉": r"\degree F",
    "Ω": r"\Omega ",
    "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "￥": r"\yen ", "¢": r"\cent ",
    "₹": r"\rupee ",
    "ϵ": r"\epsilon ",
    "∆": r"\Delta ", "µ": r"\mu ", "ℓ": r"\ell ", "∶": ":", "\u00a0": " ", "\u3000": " ", "\t": " ",
    "\r": " ", "﹪": r"\%",
}  # fmt: skip

_SMALL_GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi omicron pi rho sigma tau
    upsilon phi chi psi omega
"""
_CAPITAL_GREEK = "gamma delta theta lamda xi pi sigma phi psi omega"


def _greek(names: str, case: str) -> dict[str, str]:
    """The letters by their Unicode names, in which lambda has no b, as LaTeX commands."""
    table = {}
    for name in names.split():
        command = "lambda" if name == "lamda" else name
        letter = unicodedata.lookup(f"GREEK {case} LETTER {name.upper()}")
        table[letter] = f"\\{command if case == 'SMALL' else command.capitalize()} "
    return table


_CHARS |= _greek(_SMALL_GREEK, "SMALL") | _greek(_CAPITAL_GREEK, "CAPITAL")


def _plain_form(ch: str) -> str:
    """The plain form of full-width and mathematical letters; other characters as they are."""
    code = ord(ch)
    if 0xFF01 <= code <= 0xFF5E or 0x1D400 <= code <= 0x1D7FF or 0x2100 <= code <= 0x214F:
        return unicodedata.normalize("NFKC", ch)
    return ch


def _vulgar(ch: str) -> str | None:
    """½ → \\frac{1}{2}"""
    if not ("\u2150" <= ch <= "\u215e" or ch in "¼½¾↉"):
        return None
    top, _, bottom = unicodedata.normalize("NFKC", ch).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}" if bottom else None


def to_ascii(text: str) -> str:
    """Unicode mathematics to LaTeX. Invisible characters go; unknown ones stay for the parser to
    refuse.
    """
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    raised = ""  # "^" or "_" while inside a run of small characters
    for ch in text:
        small = "^" if ch in _SUPER else "_" if ch in _SUB else ""
        if small != raised:
            out.append(("}" if raised else "") + (small + "{" if small else ""))
            raised = small
        if small:
            out.append((_SUPER if small == "^" else _SUB)[ch])
        elif ch.isascii():
            out.append(ch if ch.isprintable() or ch == "\n" else " ")
        else:
            out.append(_vulgar(ch) or _CHARS.get(ch) or _foreign(ch))
    return "".join(out) + ("}" if raised else "")


def _foreign(ch: str) -> str:
    if unicodedata.category(ch) in ("Cf", "Cc", "Mn") or ch == "\ufeff":
        return ""
    plain = _plain_form(ch)
    if plain != ch:
        return "".join(_CHARS.get(c, c) for c in plain)
    return " " if ch.isspace() else ch


_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def close_brace(text: str, start: int) -> int:
    """The index of the brace that closes the one at `start`, or -1."""
    depth = 0
    for mark in _BRACES.finditer(text, start):
        if mark.group() == "{":
            depth += 1
        elif mark.group() == "}":
            depth -= 1
            if depth == 0:
                return mark.start()
    return -1


_WRAPS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ('"', '"'),
)
_BRACED = re.compile(
    r"\\(?:boxed|fbox|textbf|text|mathbf|mathrm|mbox|textit|textrm|displaystyle|underline|bm|boldsymbol|emph)\s*\{"
)
_LEAD = re.compile(r"(?:\\[,;:! ]|\\q?quad(?![a-z])|\\displaystyle(?![a-z])|[\s~])+")


def unwrap(text: str) -> str:
    """Outer math delimiters, boxes, emphasis, spacing and final punctuation off, as often as they
    are there.
    """
    for _ in range(16):
        before = text
        if lead := _LEAD.match(text):
            text = text[lead.end() :]
        text = _strip_tail(text)
        for left, right in _WRAPS:
            inner = text[len(left) : -len(right)]
            if (
                text.startswith(left)
                and text.endswith(right)
                and len(text) > len(left) + len(right) - 1
                and left not in inner
            ):
                text = inner
        braced = _BRACED.match(text)
        if braced and close_brace(text, braced.end() - 1) == len(text) - 1:
            text = text[braced.end() : -1]
        if text == before:
            return text
    return text


def _strip_tail(text: str) -> str:
    """Trailing spaces and punctuation; an exclamation mark may be a factorial and stays after a
    digit or bracket.
    """
    end = len(text)
    while end:
        ch = text[end - 1]
        escaped = end > 1 and text[end - 2] == "\\"
        if escaped and ch in ",;:! \\":
            end -= 2
        elif escaped:
            break
        elif ch in " \n~,;。" or (ch == "." and not text[: end - 1].endswith((".", "p.m", "a.m"))):
            end -= 1
        elif text.endswith(("\\quad", "\\qquad"), 0, end):
            end = text.rfind("\\", 0, end)
        else:
            break
    return text[:end]


_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\{,\}|,\\!\s?|\\,|\\!|\\ |\\:|\\;)\s?\d{3})+(?!\d)")
_SPACED = re.compile(r"(?<![\d.,^_}])\d{1,3}(?: \d{3})+(?![\d.,/])")
_BRACED_PERIOD = re.compile(r"\.\{\s*(\\(?:overline|bar)\s*\{\d+\})\s*\}")
_SCIENCE = re.compile(r"(\d)\s*\\(?:text|mathrm|rm|mathbf)\s*\{\s*[eE]\s*\}\s*([+-]?\d)")
# Arrangements as they are written in schools: _8C_3, ^{n}P_{r}
_CHOSEN = re.compile(
    r"(?<![\w})\]])(?:\{\s{0,2}\})?[_^](?:\{(\w{1,6})\}|(\w))\s{0,2}([CP])\s{0,2}"
    r"_(?:\{(\w{1,6})\}|(\w))"
)
_RUPEES = re.compile(r"^Rs\.?\s{0,3}(?=\d)")
_BY_TEN = re.compile(r"(\d)\s*[xX]\s*(10\s*\^)")


def _arrangements(match: re.Match[str]) -> str:
    n, k = match[1] or match[2], match[4] or match[5]
    return rf"\binom{{{n}}}{{{k}}}" if match[3] == "C" else f"P({n}, {k})"


def join_numbers(text: str) -> str:
    """Digit groups parted by LaTeX spacing or {,} and written-out exponents become one literal."""
    text = _BRACED_PERIOD.sub(r".\1", text)
    text = _RUPEES.sub(r"\\rupee ", text)
    text = _CHOSEN.sub(_arrangements, text)
    text = _GROUPED.sub(lambda m: re.sub(r"\D", "", m.group()), text)
    text = _SPACED.sub(lambda m: m.group().replace(" ", ""), text)
    text = _SCIENCE.sub(r"\1e\2", text)
    return _BY_TEN.sub(r"\1\\times \2", text)
