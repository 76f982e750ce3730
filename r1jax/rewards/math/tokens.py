"""LaTeX, ASCII and plain words to one token stream. A single left-to-right scan with bounded look-ahead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from r1jax.rewards.math.clean import close_brace
from r1jax.rewards.math.nodes import Unparsable

MAX_TOKENS = 4_000
MAX_DIGITS = 4_000  # CPython refuses to convert longer literals
MAX_EXPONENT = 1_000


@dataclass(frozen=True, slots=True)
class Token:
    """kind: num, based, sym, upright (one letter of prose), func, cmd, op, open, close, text or end."""

    kind: str
    text: str
    spaced: bool = False
    value: Fraction | None = None
    decimals: int | None = None


FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch "
    "arcsinh arccosh arctanh ln log lg exp abs sqrt cbrt floor ceil gcd lcm max min sgn det arg Re Im cis "
    "binom".split()
)
FUNCTION_ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh",
    "arcsh": "arcsinh", "tg": "tan", "ctg": "cot", "cotan": "cot", "cosec": "csc", "arctg": "arctan", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "sign": "sgn", "ceiling": "ceil", "usqrt": "sqrt", "ucbrt": "cbrt",
    "operatornamearcsin": "arcsin", "Arg": "arg", "choose": "binom",
}  # fmt: skip
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell".split()
)
_GREEK_ALIASES = {
    "varphi": "phi",
    "varepsilon": "epsilon",
    "vartheta": "theta",
    "varrho": "rho",
    "varsigma": "sigma",
}

OPERATORS = {
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "lt": "<", "gt": ">", "le": "<=", "leq": "<=",
    "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "geqq": ">=", "ne": "!=", "neq": "!=",
    "approx": "≈", "simeq": "≈", "doteq": "≈", "in": "in", "notin": "notin", "cup": "∪", "bigcup": "∪", "cap": "∩",
    "setminus": "\\", "backslash": "\\", "smallsetminus": "\\", "equiv": "≡", "sim": "~", "cong": "≅",
    "parallel": "∥", "perp": "⊥", "subset": "⊂", "subseteq": "⊆", "to": "->", "rightarrow": "->", "mapsto": "->",
    "land": "and", "wedge": "and", "lor": "or", "vee": "or", "mid": "|", "vert": "|", "colon": ":", "bmod": "mod",
    "mod": "mod", "|": "|", "%": "%", "permille": "permille", "degree": "deg", "circ": "deg", "prime": "'", "propto": "∝",
    "middle": "", "factorial": "!", "dotsm": "", "And": "and", "iff": "≡", "divides": "|", "over": "over",
}  # fmt: skip
_OPEN = {
    "{": r"\{",
    "lbrace": r"\{",
    "lfloor": "floor",
    "lceil": "ceil",
    "langle": "<",
    "lvert": "|",
    "lVert": "|",
    "lbrack": "[",
}
_CLOSE = {
    "}": r"\}",
    "rbrace": r"\}",
    "rfloor": "floor",
    "rceil": "ceil",
    "rangle": "<",
    "rvert": "|",
    "rVert": "|",
    "rbrack": "]",
}
_TEXT_COMMANDS = frozenset("text textbf textit textrm textsf mbox mathrm operatorname mathbf mathit mathsf bf rm bm boldsymbol hbox textnormal textup mathnormal emph pmb mathop underline cancel boxed".split())  # fmt: skip
_COMMANDS = frozenset("frac sqrt binom sum prod int lim overline bar hat vec widehat overrightarrow overleftrightarrow overset underset angle triangle measuredangle odot bigodot square pmod begin end partial mathbb mathcal mathscr mathfrak oint iint widetilde tilde stackrel overbrace underbrace substack phantom not nabla dot hline limits C P".split())  # fmt: skip
_COMMAND_ALIASES = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "Bbb": "mathbb", "fracd": "frac"}  # fmt: skip
_SIZES = frozenset(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm middle".split()
)
_IGNORED = frozenset("displaystyle textstyle scriptstyle limits nolimits quad qquad enspace thinspace hline medspace hfill noindent left right rm bf it sf tt mathstrut strut centering allowbreak nonumber".split())  # fmt: skip
_SYMBOL_COMMANDS = {"infty": "inf", "pi": "pi", "emptyset": "emptyset", "varnothing": "emptyset", "ldots": "...", "dots": "...",
                    "cdots": "...", "dotsc": "...", "dotsb": "...", "vdots": "...", "ddots": "...", "imath": "i", "jmath": "j",
                    "Re": "Re", "Im": "Im", "aleph": "aleph", "hbar": "hbar", "checkmark": "checkmark", "star": "star"}  # fmt: skip
_MONEY = {
    "$": "dollar",
    "euro": "euro",
    "pounds": "pound",
    "yen": "yuan",
    "cent": "cent",
    "rupee": "rupee",
    "textdollar": "dollar",
}
_WORD_SYMBOLS = {
    "infinity": "inf",
    "infty": "inf",
    "inf": "inf",
    "oo": "inf",
    "pi": "pi",
    "Infinity": "inf",
    "emptyset": "emptyset",
}
_WORD_OPERATORS = {
    "and": "and",
    "or": "or",
    "mod": "mod",
    "to": "to",
    "union": "∪",
    "cup": "∪",
    "in": "in",
}
# Abbreviations short enough to be taken for products of letters.
SHORT_WORDS = frozenset("cm mm km kg mg mL ml dm lb lbs oz ft in yd mi hr hrs min sec mph kph kmh am pm th st nd rd USD usd RMB CNY EUR GBP Hz kHz MHz kJ kW Pa kPa mol yes no odd even cos deg rad day days year box men ms ns us mA kV if".split())  # fmt: skip

_NUMBER = re.compile(r"\d+\.\d+|\d+\.(?=(?:\s|\\[,!;])*\\(?:overline|bar|dot)|\()|\d+|\.\d+")
_COMMA_RUN = re.compile(r"\d+(?:,\d+)+(?![,\d])")
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
    r"(\d[0-9a-f]*(?=\s*_\s*\{?\(?16\b)|\d[0-9A-Z]*|[A-Z]{2,}[0-9A-Z]*|[A-Z]\d[0-9A-Z]*)\s*_\s*(?:\{[\s(\[]*(?:\\(?:text|mathrm|rm)\s*\{?\s*)?(?:base\s*)?"
    r"(\d{1,2}|[a-z]+)\s*[\s)\]}]*\}|(\d{1,2}))"
)
_BASE_WORDS = {w: i for i, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)} | {
    "sixteen": 16, "hex": 16, "bin": 2, "oct": 8}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)
_LETTERS = re.compile(r"[A-Za-z]+")
_SPACE = re.compile(r"[\s~]+")
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_SIMPLE_OPERATORS = ("<=>", "...", "<=", ">=", "!=", "->", "=>", ":=", "**", "+", "-", "*", "/", "^", "_", "=", "<",
                     ">", "!", "'", ",", ";", ":", "|", "&", "%")  # fmt: skip
_SAME = {"**": "^", "=>": "->", ":=": "=", "<=>": "≡"}


def infer_period(digits: str) -> str:
    """The block that "0.1212..." repeats: the shortest one printed at least twice (a single digit: three times)."""
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
    """`words` says that letter runs are prose (inside \\text); `split_commas` that 1,234 is two numbers."""

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
        if ch.isdigit() or (ch == "." and self.text[self.pos + 1 : self.pos + 2].isdigit()):
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
        """The text of a literal with commas between its digit groups. Inside brackets the commas part the entries, unless
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
        """The value and the end of a repeating decimal that starts with the literal before `end`."""
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
            kind = "func" if run in FUNCTIONS or run in FUNCTION_ALIASES else "text"
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
        elif run in _WORD_SYMBOLS:
            self._emit("sym", _WORD_SYMBOLS[run], len(run))
        elif lower in _WORD_OPERATORS and not (
            run == "in" and self.tokens and self.tokens[-1].kind == "num"
        ):
            self._emit("op", _WORD_OPERATORS[lower], len(run))
        elif run in GREEK:
            self._emit("sym", run, len(run))
        elif (
            run in SHORT_WORDS
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
        if name in _TEXT_COMMANDS:
            return self._text_command(name, end)
        if name in _SIZES:
            return self._sized(name, end)
        width = end - self.pos
        if name in (",", ";", ":", "!", " ", "\n", ">", "/") or name in _IGNORED:
            self.pos, self.spaced = end, self.spaced or name != "!"
        elif name in (
            "hspace",
            "vspace",
            "phantom",
            "hphantom",
            "vphantom",
            "label",
            "tag",
            "color",
            "textcolor",
        ):
            self.pos, self.spaced = self._skip_group(end), True
        elif name == "\\":
            self._emit("op", "\\\\", width)
        elif name in _OPEN or name in _CLOSE:
            self.brackets += 1 if name in _OPEN else -1
            self._emit("open" if name in _OPEN else "close", (_OPEN | _CLOSE)[name], width)
        elif name in _MONEY:
            self._emit("text", _MONEY[name], width)
        elif name in OPERATORS:
            self._emit("op", OPERATORS[name], width)
        elif name in _SYMBOL_COMMANDS and name not in ("Re", "Im"):
            self._emit("sym", _SYMBOL_COMMANDS[name], width)
        elif name in _COMMANDS or name in _COMMAND_ALIASES:
            self._emit("cmd", _COMMAND_ALIASES.get(name, name), width)
        elif name in FUNCTIONS or name in FUNCTION_ALIASES:
            self._emit("func", FUNCTION_ALIASES.get(name, name), width)
        elif name in GREEK or name in _GREEK_ALIASES:
            self._emit("sym", _GREEK_ALIASES.get(name, name), width)
        else:
            raise Unparsable(f"unknown command \\{name[:20]}")

    def _skip_group(self, end: int) -> int:
        if self.text.startswith("{", end):
            close = close_brace(self.text, end)
            return close + 1 if close >= 0 else len(self.text)
        return end

    def _sized(self, name: str, end: int) -> None:
        """\\left| opens, \\right| closes, \\left. and \\right. are nothing; other fences come as tokens of their own."""
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
        """Splice the tokens of the braces. Bold i, j, k are base vectors; a bare switch such as \\rm says nothing."""
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
