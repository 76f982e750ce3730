"""LaTeX, ASCII and plain words to one token stream. A single left-to-right scan with bounded look-
ahead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from r1jax.rewards.math.clean import close_brace
from r1jax.rewards.math.nodes import Unparsable
from r1jax.rewards.math.vocabulary import (
    CLOSERS,
    COMMAND_ALIASES,
    COMMANDS,
    FUNCTION_ALIASES,
    FUNCTIONS,
    GREEK,
    GREEK_ALIASES,
    MONEY,
    OPENERS,
    OPERATORS,
    SHORT_WORDS,
    SIZES,
    SKIPPED_WITH_ARGUMENT,
    SPACES,
    SYMBOLS,
    TEXT_COMMANDS,
    WORD_OPERATORS,
    WORD_SYMBOLS,
)

MAX_TOKENS = 4_000
MAX_DIGITS = 4_000  # CPython refuses to convert longer literals
MAX_EXPONENT = 1_000


@dataclass(frozen=True, slots=True)
class Token:
    """kind: num, based, sym, upright (one letter of prose), func, cmd, op, open, close, text or
    end.
    """

    kind: str
    text: str
    spaced: bool = False
    value: Fraction | None = None
    decimals: int | None = None


_NUMBER = re.compile(r"\d+\.\d+|\d*\.(?=(?:\s|\\[,!;])*\\(?:overline|bar|dot)|\()|\d+|\.\d+")
_COMMA_RUN = re.compile(r"\d+(?:,\d+)+(?!,?\d)")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+$")
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?![\w^.])")
_DOTS = re.compile(r"\s*(?:\.\.\.|\\l?dots|\\cdots)")
_MARKED = re.compile(
    r"(?:\s|\\[,!;])*\\(?:overline|bar)\s*(?:\{\s*(\d+)\s*\}|(\d))|\((\d+)\)(?![\d.])"
)
_DOTTED = re.compile(
    r"(\d*)\\dot\s*(?:\{\s*(\d)\s*\}|(\d))(?:(\d*)\\dot\s*(?:\{\s*(\d)\s*\}|(\d)))?"
)
_BASED = re.compile(
    r"(\d[0-9a-f]*(?=\s*_\s*\{?\(?16\b)|\d[0-9A-Z]*|[A-Z]{2,}[0-9A-Z]*|[A-Z]\d[0-9A-Z]*)"
    r"\s*_\s*(?:\{[\s(\[]*(?:\\(?:text|mathrm|rm)\s*\{?\s*)?(?:base\s*\}?\s*)?"
    r"(\d{1,2}|[a-z]+)\s*[\s)\]}]*\}|(\d{1,2}))"
)
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "sixteen": 16, "hex": 16, "bin": 2, "oct": 8,
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)
_LETTERS = re.compile(r"[A-Za-z]+")
_SPACE = re.compile(r"[\s~]+")
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_SIMPLE_OPERATORS = ("<=>", "...", "<=", ">=", "!=", "->", "=>", ":=", "**", "+", "-", "*", "/",
    "^", "_", "=", "<",
                     ">", "!", "'", ",", ";", ":", "|", "&", "%")  # fmt: skip
_SAME = {"**": "^", "=>": "->", ":=": "=", "<=>": "≡"}


def infer_period(digits: str) -> str:
    """The block that "0.1212..." repeats: the shortest one printed at least twice (a single digit:
    three times).
    """
    for size in range(1, len(digits) // 2 + 1):
        block = digits[-size:]
        if digits.endswith(block * (3 if size == 1 else 2)):
            return block
    return ""


def repeating(whole: str, fixed: str, period: str) -> Fraction:
    scale = 10 ** len(fixed)
    head = Fraction(int((whole + fixed) or "0"), scale)
    return head + Fraction(int(period), scale * (10 ** len(period) - 1))


class Scanner:
    """`words` says that letter runs are prose (inside \\text); `split_commas` that 1,234 is two
    numbers.
    """

    def __init__(
        self, text: str, *, words: bool = False, split_commas: bool = False, depth: int = 0
    ) -> None:
        self.text = text
        self.words = words
        self.split_commas = split_commas
        self.depth = depth
        self.brackets = 0
        self.pos = 0
        self.spaced = False
        self.tokens: list[Token] = []

    def scan(self) -> list[Token]:
        text = self.text
        if self.depth > 8:
            raise Unparsable("text commands nested too deeply")
        while self.pos < len(text):
            if len(self.tokens) > MAX_TOKENS:
                raise Unparsable("too many tokens")
            ch = text[self.pos]
            if space := _SPACE.match(text, self.pos):
                self.pos, self.spaced = space.end(), True
            elif ch.isascii() and (ch.isalnum() or ch == "."):
                self._literal_or_letters(ch)
            elif ch == "\\":
                self._command()
            elif ch in "([{":
                self.brackets += ch != "{"
                self._emit("open", ch)
            elif ch in ")]}":
                self.brackets -= ch != "}"
                self._emit("close", ch)
            elif ch == "$":
                self._dollar()
            elif not ch.isascii():
                self._foreign()
            else:
                self._operator()
        return self.tokens

    def _emit(self, kind: str, text: str, width: int = 1) -> None:
        self.tokens.append(Token(kind, text, self.spaced))
        self.pos, self.spaced = self.pos + width, False

    def _operator(self) -> None:
        for op in _SIMPLE_OPERATORS:
            if self.text.startswith(op, self.pos):
                if op == "...":
                    return self._emit("sym", "...", 3)
                if op == "!=" and self.tokens and self.tokens[-1].kind == "num":
                    op = "!"  # 4!=24 is a factorial, x!=4 is not
                return self._emit("op", _SAME.get(op, op), len(op))
        raise Unparsable(f"unknown character {self.text[self.pos]!r}")

    def _dollar(self) -> None:
        """A dollar before a digit with no partner is money; any other is a math delimiter."""
        rest = self.text[self.pos + 1 : self.pos + 3].lstrip(" .")
        partnered = self.text.count("$") > 1
        if not partnered and (rest[:1].isdigit() or self.text[: self.pos].rstrip()[-1:].isdigit()):
            return self._emit("text", "dollar")
        self.pos, self.spaced = self.pos + 1, True

    def _foreign(self) -> None:
        run = _FOREIGN.match(self.text, self.pos)
        assert run is not None
        self._emit("text", run.group(), len(run.group()))

    # numbers

    def _literal_or_letters(self, ch: str) -> None:
        based = _BASED.match(self.text, self.pos) if ch != "." else None
        if based and self._based(based):
            return
        if ch.isdigit() or _NUMBER.match(self.text, self.pos):
            return self._number()
        if ch == ".":
            if self.text.startswith("...", self.pos):
                return self._emit("sym", "...", 3)
            if self.words:
                self.pos += 1
                return
            raise Unparsable("stray full stop")
        self._letters()

    def _based(self, match: re.Match[str]) -> bool:
        """True if the match is a numeral with a base, in which case it was taken."""
        digits, braced, bare = match.groups()
        named = braced or bare
        base = int(named) if named.isdigit() else _BASE_WORDS.get(named, 0)
        if not 2 <= base <= 36 or len(digits) > 200:
            return False
        if digits[0].isalpha() and (base < 11 or (self.tokens and self.tokens[-1].kind == "sym")):
            return False
        if any(int(d, 36) >= base for d in digits):
            raise Unparsable(f"{digits} is no numeral of base {base}")
        self.tokens.append(Token("based", digits.upper(), self.spaced, Fraction(base)))
        self.pos, self.spaced = match.end(), False
        return True

    def _thousands(self) -> str | None:
        """The text of a literal with commas between its digit groups. Inside brackets the commas
        part the entries, unless
        other entries are parted by a comma and a space."""
        run = _COMMA_RUN.match(self.text, self.pos)
        if run is None or self.split_commas or not _THOUSANDS.match(run.group()):
            return None
        if self.brackets > 0 and ", " not in self.text:
            return None
        return run.group()

    def _number(self) -> None:
        if grouped := self._thousands():
            end = self.pos + len(grouped)
            fraction = re.compile(r"\.\d+").match(self.text, end)
            literal = grouped.replace(",", "") + (fraction.group() if fraction else "")
            end = fraction.end() if fraction else end
        else:
            match = _NUMBER.match(self.text, self.pos)
            assert match is not None
            literal, end = match.group(), match.end()
        if len(literal) > MAX_DIGITS:
            raise Unparsable("number too long")
        whole, _, decimals = literal.partition(".")
        if "." in literal and (value_end := self._repeating(whole, decimals, end)):
            value, end = value_end
            return self._emit_number(value, None, end)
        power = _EXPONENT.match(self.text, end)
        value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
        if power:
            if len(power.group(1)) > 5 or abs(int(power.group(1))) > MAX_EXPONENT:
                raise Unparsable("exponent too large")
            value *= Fraction(10) ** int(power.group(1))
            return self._emit_number(
                value, max(0, len(decimals) - int(power.group(1))) or None, power.end()
            )
        self._emit_number(value, len(decimals) if decimals else None, end)

    def _repeating(self, whole: str, decimals: str, end: int) -> tuple[Fraction, int] | None:
        """Value and end of a repeating decimal that starts with the literal before `end`."""
        if marked := _MARKED.match(self.text, end):
            period = next(g for g in marked.groups() if g)
            return repeating(whole, decimals, period), marked.end()
        if dotted := _DOTTED.match(self.text, end):
            fixed, a, b, middle, c, d = (g or "" for g in dotted.groups())
            period = a + b + middle + c + d if (c or d) else a + b
            return repeating(whole, decimals + fixed, period), dotted.end()
        if (dots := _DOTS.match(self.text, end)) and (period := infer_period(decimals)):
            fixed = decimals[: -len(period)]
            return repeating(whole, fixed, period), dots.end()
        return None

    def _emit_number(self, value: Fraction, decimals: int | None, end: int) -> None:
        self.tokens.append(Token("num", self.text[self.pos : end], self.spaced, value, decimals))
        self.pos, self.spaced = end, False

    # letters

    def _letters(self) -> None:
        match = _LETTERS.match(self.text, self.pos)
        assert match is not None
        run = match.group()
        if self.words and len(run) > 1:
            known = run in FUNCTIONS or run in FUNCTION_ALIASES
            kind = "func" if known and run not in ("min", "sec") else "text"
            kind, run = (
                ("op", run)
                if run in ("and", "or", "to", "mod")
                else (kind, FUNCTION_ALIASES.get(run, run))
            )
            return self._emit(kind, run, match.end() - match.start())
        if len(run) == 1:
            return self._emit("upright" if self.words else "sym", run)
        self._word(run)

    def _word(self, run: str) -> None:
        lower = run.lower()
        after = self.text[self.pos + len(run) : self.pos + len(run) + 1]
        if run in FUNCTION_ALIASES or run in FUNCTIONS:
            self._emit("func", FUNCTION_ALIASES.get(run, run), len(run))
        elif run in WORD_SYMBOLS:
            self._emit("sym", WORD_SYMBOLS[run], len(run))
        elif lower in WORD_OPERATORS and not (
            run == "in" and self.tokens and self.tokens[-1].kind == "num"
        ):
            self._emit("op", WORD_OPERATORS[lower], len(run))
        elif run in GREEK:
            self._emit("sym", run, len(run))
        elif (
            run in SHORT_WORDS
            or (run.istitle() and lower in SHORT_WORDS)
            or (len(run) >= 4 and not run.isupper())
            or (after == "." and len(run) > 2)
        ):
            head = next(
                (
                    f
                    for f in ("sin", "cos", "tan", "cot", "ln", "log", "sqrt")
                    if lower == f + lower[-1]
                ),
                None,
            )
            if head and len(run) == len(head) + 1:
                self._emit("func", head, len(head))
                self._emit("sym", run[-1])
            else:
                self._emit("text", run, len(run))
        else:
            for letter in run:
                self._emit("sym", letter)

    # commands

    def _command(self) -> None:
        match = _COMMAND.match(self.text, self.pos)
        if match is None:
            raise Unparsable("backslash at the end")
        name, end = match.group(1).rstrip("*"), match.end()
        if name in TEXT_COMMANDS:
            return self._text_command(name, end)
        if name in SIZES:
            return self._sized(name, end)
        width = end - self.pos
        if name in SPACES:
            self.pos, self.spaced = end, self.spaced or name != "!"
        elif name in SKIPPED_WITH_ARGUMENT:
            self.pos, self.spaced = self._skip_group(end), True
        elif name == "\\":
            self._emit("op", "\\\\", width)
        elif name in OPENERS or name in CLOSERS:
            self.brackets += 1 if name in OPENERS else -1
            self._emit("open" if name in OPENERS else "close", (OPENERS | CLOSERS)[name], width)
        elif name in MONEY:
            self._emit("text", MONEY[name], width)
        elif name in OPERATORS:
            self._emit("op", OPERATORS[name], width)
        elif name in SYMBOLS:
            self._emit("sym", SYMBOLS[name], width)
        elif name in COMMANDS or name in COMMAND_ALIASES:
            self._emit("cmd", COMMAND_ALIASES.get(name, name), width)
        elif name in FUNCTIONS or name in FUNCTION_ALIASES:
            self._emit("func", FUNCTION_ALIASES.get(name, name), width)
        elif name in GREEK or name in GREEK_ALIASES:
            self._emit("sym", GREEK_ALIASES.get(name, name), width)
        else:
            raise Unparsable(f"unknown command \\{name[:20]}")

    def _skip_group(self, end: int) -> int:
        if self.text.startswith("{", end):
            close = close_brace(self.text, end)
            return close + 1 if close >= 0 else len(self.text)
        return end

    def _sized(self, name: str, end: int) -> None:
        """\\left| opens, \\right| closes, \\left. and \\right. are nothing; other fences come as
        tokens of their own.
        """
        self.pos = end
        space = _SPACE.match(self.text, end)
        at = space.end() if space else end
        for fence in ("|", "\\|", "\\vert", "\\Vert"):
            if self.text.startswith(fence, at) and name != "middle":
                side = "open" if name == "left" or name.endswith("l") else "close"
                if name.lower() in ("big", "bigg"):
                    return
                self.pos = at
                return self._emit(side, "|", len(fence))
        if self.text.startswith(".", at):
            self.pos = at + 1

    def _text_command(self, name: str, end: int) -> None:
        """Splice the tokens of the braces. Bold i, j, k are base vectors; a bare switch such as
        \\rm says nothing.
        """
        space = _SPACE.match(self.text, end)
        at = space.end() if space else end
        if not self.text.startswith("{", at):
            self.pos, self.spaced = at, True
            return
        close = close_brace(self.text, at)
        if close < 0:
            raise Unparsable("unclosed brace")
        inner = self.text[at + 1 : close]
        if name in ("mathbf", "bm", "boldsymbol", "textbf") and inner.strip() in ("i", "j", "k"):
            found = [Token("sym", f"unit:{inner.strip()}")]
        else:
            prose = name not in (
                "mathbf",
                "bm",
                "boldsymbol",
                "mathit",
                "bf",
                "boxed",
                "underline",
                "cancel",
                "mathnormal",
            )
            found = Scanner(
                inner, words=prose, split_commas=self.split_commas, depth=self.depth + 1
            ).scan()
        spaced = self.spaced or inner[:1].isspace()
        if found:
            first = found[0]
            found[0] = Token(
                first.kind, first.text, spaced or first.spaced, first.value, first.decimals
            )
        self.tokens += found
        self.pos, self.spaced = close + 1, inner[-1:].isspace()


def tokenize(text: str, *, split_commas: bool = False) -> list[Token]:
    return Scanner(text, split_commas=split_commas).scan()
