"""The prose of a chain of thought: what is left when code, formulas, links and numbers are gone.

What is cut out is searched for prose too, so that nobody can think in a code fence or in `\\text{}`
unseen. Every function is linear in the text.
"""

import re
import unicodedata

# Opening and closing marks of what is not prose. The order matters: the longer mark first.
_REGIONS = (
    ("```", "```"),
    ("~~~", "~~~"),
    ("$$", "$$"),
    ("\\[", "\\]"),
    ("\\(", "\\)"),
    ("`", "`"),
    ("$", "$"),
)
_OPENER = re.compile(
    "|".join(re.escape(opener) for opener, _ in _REGIONS) + r"|\\begin\{(\w+\*?)\}"
)
# A single dollar or backtick that finds no partner near by is a price or a slip.
_SHORT_REACH = 1000

_URL = re.compile(r"(?:https?://|www\.)\S+")
_TAG = re.compile(r"</?[A-Za-z][\w-]{0,30}>")
_COMMAND = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|operatorname)\s*\{|\\[A-Za-z]+\*?|\\.")
_IDENTIFIER = re.compile(
    r"\b\w*_\w+\b|\b[A-Za-z]+[a-z][A-Z]\w*\b|\b\w*\d\w*\b|\b\w+(?:\.\w+){0,4}\(\)", re.ASCII
)
_TEXT_COMMAND = re.compile(r"\\(?:text\w*|mbox)\s*\{([^{}]{1,2000})\}")
_COMMENT = re.compile(r"(?:#|//)(?!!)\s*(\S.*)")
# Eight words in a row are prose even among brackets, six where the line has no sign of code.
_PLAIN_LINE = re.compile(r"[^=(){}\[\];<>]*$")
_SIX_WORDS = re.compile(r"(?<![\w\\])(?:[^\W\d_]{2,}[,;:.]? +){5}[^\W\d_]{2,}")
_EIGHT_WORDS = re.compile(r"(?<![\w\\])(?:[^\W\d_]{2,}[,;:.]? +){7}[^\W\d_]{2,}")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")

# Sentences end here; a blank line ends one too.
_SENTENCE_END = re.compile(r"[.!?;:]+(?=\s|$)|[。！？；…]+|\n+")

_HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = r"\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
_THAI = r"\u0e01-\u0e3a\u0e40-\u0e4e"
_DEVANAGARI = r"\u0900-\u0963\u0971-\u097f"
_ARABIC = (
    r"\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06e1-\u06e8\u06ea-\u06ef\u06fa-\u06ff"
    r"\u0750-\u077f\u08a0-\u08ff"
)
_LETTER = rf"[^\W\d_{_HAN}{_KANA}{_HANGUL}{_THAI}{_DEVANAGARI}{_ARABIC}]"
# Runs of a script end where the script does: Chinese puts Latin words between characters unspaced.
_WORD = re.compile(
    rf"(?P<han>[{_HAN}]+)|(?P<kana>[{_KANA}]+)|(?P<ko>[{_HANGUL}]+)|(?P<th>[{_THAI}]+)"
    rf"|(?P<hi>[{_DEVANAGARI}]+)|(?P<ar>[{_ARABIC}]+)|(?P<letters>{_LETTER}+(?:['’‘-]{_LETTER}+)*)"
)


def clean(text: str) -> str:
    """NFKC without invisible characters or stacked accents: one spelling for each word."""
    text = unicodedata.normalize("NFKC", text)
    if text.isascii():
        return text
    # Cf are zero-width spaces and joiners, directions and soft hyphens.
    kept = (c for c in text if unicodedata.category(c) != "Cf" and not "\u0300" <= c <= "\u036f")
    return "".join(kept)


def thoughts(text: str) -> str:
    """The chain of thought of a whole response; a text without think tags is one already."""
    before, closing, _ = text.rpartition("</think>")
    if closing:
        text = before
    _, opening, after = text.partition("<think>")
    return after if opening else text


def of(text: str) -> str:
    """The prose of a cleaned text, with what hides in code and formulas put in its place."""
    pieces: list[str] = []
    place = 0
    closed_at: dict[str, int] = {}
    while (found := _OPENER.search(text, place)) is not None:
        opener = found.group()
        closer = f"\\end{{{found[1]}}}" if found[1] else dict(_REGIONS)[opener]
        start = found.end()
        end = _find(text, closer, start, closed_at)
        if end < 0 or (len(closer) == 1 and not _is_short_region(text, start, end)):
            pieces.append(text[place:start])
            place = start
            continue
        pieces.append(text[place : found.start()])
        pieces.append(f" {_hidden(text[start:end])} ")
        place = end + len(closer)
    pieces.append(text[place:])
    prose = _TAG.sub(" ", _URL.sub(" ", "".join(pieces)))
    return _IDENTIFIER.sub(" ", _COMMAND.sub(" ", prose))


def _find(text: str, closer: str, start: int, closed_at: dict[str, int]) -> int:
    """`text.find` that never looks twice over the same stretch for the same mark."""
    known = closed_at.get(closer)
    if known is None or (0 <= known < start):
        known = closed_at[closer] = text.find(closer, start)
    return known


def _is_short_region(text: str, start: int, end: int) -> bool:
    if not start < end <= start + _SHORT_REACH or "\n\n" in text[start:end]:
        return False
    if text[end] == "$":
        # As pandoc reads dollars: "$5 and $7" is no formula.
        blanks = text[start].isspace() or text[end - 1].isspace()
        return not blanks and not text[end + 1 : end + 2].isdigit()
    return "\n" not in text[start:end]


def _hidden(region: str) -> str:
    """Prose within code or a formula: comments, `\\text{}`, plain lines, letters beyond ASCII."""
    found = _TEXT_COMMAND.findall(region) + _COMMENT.findall(region)
    rest = _COMMENT.sub(" ", _TEXT_COMMAND.sub(" ", region))
    for line in rest.splitlines():
        pattern = _SIX_WORDS if _PLAIN_LINE.match(line) else _EIGHT_WORDS
        found += [line] if pattern.search(line) else _NOT_ASCII.findall(line)
    return "\n".join(found)


def sentences(prose: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(prose) if part and not part.isspace()]


def words(sentence: str) -> list[tuple[str, str]]:
    """(kind, word) in order. Kinds: `han`, `kana`, `ko`, `th`, `hi`, `ar` are runs of that script;
    `latin`, `ru`, `other`, `mixed` are words of letters. Single letters are variables, not words.
    """
    found = []
    for match in _WORD.finditer(sentence):
        kind, word = match.lastgroup or "", match.group()
        if kind == "letters":
            if len(word) == 1 and word not in _ONE_LETTER_WORDS:
                continue
            kind = _alphabet(word)
        found.append((kind, word))
    return found


_ONE_LETTER_WORDS = frozenset("IÀàЯяИиВвСсКкОоУуАа")


def _alphabet(word: str) -> str:
    """The alphabet of a word; `mixed` words imitate one alphabet with letters of another."""
    if word.isascii():
        return "latin"
    kinds = {_letter_kind(letter) for letter in word if letter.isalpha()}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _letter_kind(letter: str) -> str:
    if letter <= "\u024f" or "\u1e00" <= letter <= "\u1eff":
        return "latin"
    if "\u0400" <= letter <= "\u052f":
        return "ru"
    return "other"


def plain_words(text: str) -> list[str]:
    """The words of the prose of any text, in lower case; characters where there are no blanks."""
    plain: list[str] = []
    for kind, word in words(of(clean(text))):
        plain.extend(word if kind in ("han", "kana", "th") else [word.lower()])
    return plain
