"""The closed vocabulary: which commands and words the tokenizer knows, and what they stand for."""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a table."""
    return frozenset(text.split())


def _spellings(meanings: dict[str, str]) -> dict[str, str]:
    """{meaning: "spelling spelling …"} turned round."""
    return {name: meaning for meaning, spellings in meanings.items() for name in spellings.split()}


FUNCTIONS = names("""
    sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc
    sinh cosh tanh coth sech csch arcsinh arccosh arctanh
    ln log lg exp abs sqrt cbrt floor ceil gcd lcm max min sgn det arg Re Im cis binom
""")
FUNCTION_ALIASES = _spellings(
    {
        "arcsin": "asin",
        "arccos": "acos",
        "arctan": "atan arctg",
        "arcsinh": "arsinh asinh arcsh",
        "arccosh": "arcosh acosh",
        "arctanh": "artanh atanh",
        "tan": "tg",
        "cot": "ctg cotan",
        "csc": "cosec",
        "sgn": "sign",
        "ceil": "ceiling",
        "arg": "Arg",
    }
)
GREEK = names("""
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon
    phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell
""")
GREEK_ALIASES = _spellings(
    {
        "phi": "varphi",
        "epsilon": "varepsilon",
        "theta": "vartheta",
        "rho": "varrho",
        "sigma": "varsigma",
    }
)
OPERATORS = _spellings(
    {
        "*": "times cdot ast",
        "/": "div",
        "±": "pm",
        "∓": "mp",
        "<": "lt",
        ">": "gt",
        "<=": "le leq leqslant leqq",
        ">=": "ge geq geqslant geqq",
        "!=": "ne neq",
        "≈": "approx simeq doteq",
        "in": "in",
        "notin": "notin",
        "∪": "cup bigcup",
        "∩": "cap bigcap",
        "\\": "setminus backslash smallsetminus",
        "≡": "equiv iff",
        "~": "sim",
        "≅": "cong",
        "∥": "parallel",
        "⊥": "perp",
        "⊂": "subset",
        "⊆": "subseteq",
        "->": "to rightarrow mapsto",
        "∝": "propto",
        "and": "land wedge And",
        "or": "lor vee",
        "|": "mid vert | divides",
        ":": "colon",
        "mod": "bmod mod",
        "%": "%",
        "permille": "permille",
        "deg": "degree circ",
        "'": "prime",
        "!": "factorial",
        "over": "over",
        "choose": "choose",
    }
)
OPENERS = _spellings(
    {r"\{": "{ lbrace", "floor": "lfloor", "ceil": "lceil", "<": "langle", "|": "lvert lVert"}
)
OPENERS["lbrack"] = "["
CLOSERS = _spellings(
    {r"\}": "} rbrace", "floor": "rfloor", "ceil": "rceil", "<": "rangle", "|": "rvert rVert"}
)
CLOSERS["rbrack"] = "]"
TEXT_COMMANDS = names("""
    text textbf textit textrm textsf textnormal textup mbox hbox mathrm mathbf mathit mathsf
    mathnormal mathop operatorname bf rm bm boldsymbol emph pmb underline cancel boxed
""")
COMMANDS = names("""
    frac sqrt binom sum prod int lim begin end pmod not partial nabla dot
    overline bar hat vec widehat tilde widetilde overrightarrow overset underset stackrel
    angle triangle measuredangle odot square mathbb mathcal mathscr mathfrak
""")
COMMAND_ALIASES = _spellings(
    {"frac": "dfrac tfrac cfrac nicefrac sfrac", "binom": "dbinom tbinom", "mathbb": "Bbb"}
)
SIZES = names("""
    left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm
""")
SPACES = names("""
    , ; : ! > / quad qquad enspace thinspace medspace hfill displaystyle textstyle scriptstyle
    limits nolimits hline noindent it sf tt mathstrut strut centering allowbreak nonumber
""") | {" ", "\n"}
SKIPPED_WITH_ARGUMENT = names("hspace vspace phantom hphantom vphantom label tag color textcolor")
SYMBOLS = _spellings(
    {
        "inf": "infty",
        "pi": "pi",
        "emptyset": "emptyset varnothing",
        "...": "ldots dots cdots dotsc dotsb vdots ddots",
        "i": "imath",
        "j": "jmath",
        "hbar": "hbar",
        "aleph": "aleph",
        "checkmark": "checkmark",
        "star": "star",
    }
)
MONEY = _spellings(
    {
        "dollar": "$ textdollar",
        "euro": "euro",
        "pound": "pounds",
        "yuan": "yen",  # ¥ is printed for both; answers in this notation are Chinese
        "cent": "cent",
        "rupee": "rupee",
    }
)
WORD_SYMBOLS = _spellings(
    {"inf": "infinity Infinity infty inf oo", "pi": "pi", "emptyset": "emptyset"}
)
WORD_OPERATORS = _spellings(
    {"and": "and", "or": "or", "mod": "mod", "to": "to", "∪": "union cup", "in": "in"}
)
# Abbreviations and words short enough to be taken for products of letters.
SHORT_WORDS = names("""
    cm mm km kg mg mL ml dm lb lbs oz ft in yd mi hr hrs min sec mph kph kmh am pm th st nd rd USD
    usd RMB CNY EUR GBP Hz kHz MHz kJ kW Pa kPa mol yes no odd even cos deg rad day days year box
    men ms ns us mA kV if so we is of
""")
