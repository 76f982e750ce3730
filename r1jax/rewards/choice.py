"""Multiple choice: the last explicit answer statement of a response, as a set of letters.

Never the first capital letter, never two options where one is asked. Linear in the response.
"""

import re
import unicodedata
from collections.abc import Mapping

LETTERS = "ABCDEFGHIJ"
_LONGEST = 20_000  # characters of a response that are looked at, from its end
_LONGEST_STATEMENT = 600
_MOST_STATEMENTS = 20  # that are compared with each other

Options = Mapping[str, str]

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf|textrm|operatorname|emph|boldsymbol)"
    r"\s?\{([^{}]{0,500})\}"
)
_NOISE = re.compile(
    r"[*`$]"
    r"|\\(?:left|right|quad|[,;! ()\[\]])|(?<!\w)_{1,3}|(?<=\w)_{1,3}(?!\w)|</?(?:b|i|strong|em)>"
)
_BOX = r"\\(?:boxed|fbox)\s{0,3}\{(?P<box>[^{}]{0,600})\}"
_TAG = re.compile(r"<answer>(.{0,600}?)(?:</answer>|\Z)", re.DOTALL)
_CHOSEN = r"(?:correct|right|best|final|most appropriate|true)"
_ENGLISH = (
    rf"\b(?:(?:{_CHOSEN}\s){{0,2}}(?:answer|choice|option)(?:\s(?:choice|option|letter))?"
    r"(?:\s(?:here|to this question|is therefore|is thus|must be|should be|would be|is|are)){1,2}"
    r"(?:\s(?:clearly|thus|therefore|definitely|indeed))?"
    rf"|(?:answers?(?:\s(?:choice|option)s?)?|{_CHOSEN}\s(?:option|choice))(?=\s?:)"
    r"|let\sme\s(?:choose|select|pick|go with)(?=\s)"
    r"|(?:so|thus|hence|therefore),?(?=\s\(?[A-Z]\)?\.?[ \t]{0,9}$)"
    r"|(?:I|we)(?:\swould|\swill|'ll)?\s(?:choose|select|pick|go with)(?=\s))\s?:?"
)
_OTHER = (
    r"(?:答案(?:应该|应当|应|就)?(?:为|是|选)?"
    r"|(?<!可)(?:故|应|因此|所以|综上|本题|则|我)?选择?(?![项择])|正确(?:的)?(?:选项|答案)(?:为|是)?"
    r"|答え?は?|正解は?|정답은?"
    r"|(?:Antwort|Réponse|Respuesta|Risposta|Resposta|Ответ)(?=\s?:))[ ]?:?"
)
_CUE = re.compile(f"{_BOX}|(?P<cue>{_ENGLISH}|{_OTHER})", re.IGNORECASE | re.MULTILINE)
# "Option B is correct": at the start of a clause only, as in "neither of A, B is correct" it means
# nothing, and without a condition behind it.
_VERDICT = re.compile(
    r"(?:^|[.;:。；：，]\s?|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ss]o|[Tt]hus"
    r"|[Hh]ence|[Tt]herefore|only)"
    r",?\s|选项\s?|[以此故])\(?(?P<letter>[A-Z])\)?(?:选?项)?\s?"
    rf"(?:is\s(?:the\s)?{_CHOSEN}(?:\s(?:answer|option|choice))?(?![a-z])"
    r"(?!\s(?:only|if|when|for|but)\b)|(?:是)?正确)",
    re.MULTILINE,
)
_BARE_LINE = re.compile(
    r"^[ \t]{0,8}(?P<content>[(\[]?[A-Z][)\].:、,]?(?:[ \t].{0,500})?)$", re.MULTILINE
)

# "A is right only if …" is a sentence about an option; "A and C" is a list.
_SENTENCE = re.compile(r"\s*[A-Za-z]\s(?!and\b|or\b)[a-z]")

_OPEN = " \t\"'“‘([{:"
_LABEL = re.compile(r"(?:[Oo]ption|[Cc]hoice|[Ll]etter)s?\s(?=[(\[\"'“‘]?[A-Z])|选项\s?")
_LETTER = re.compile(r"[(\[{\"'“‘]{0,3}([A-Za-z])[)\]}\"'”’]{0,3}")
_BETWEEN = re.compile(r"\s?(?:,?\s?and\s|,?\s?or\s|[,、;/&+|]|和|及|与|或者?)\s?", re.IGNORECASE)
_CLOSING = ")]}"
_ALTERNATIVE = re.compile(r"\s*[,(]?\s*(?:or\b|/|或|还是)", re.IGNORECASE)
_EITHER = re.compile(r"or|[/|]|或", re.IGNORECASE)
# What may follow a letter that stands for an option. "A strong acid" begins a text, not a choice.
_AFTER = re.compile(
    r"\s*(?:$|[.,;:!?)\]}。，、；：！？)\n—–-]|\\|<|(?:because|since|as|for|which|with|due|is|given|that|correct)\b"
    r"|[^\x00-\x7f])"
)


def extract(
    response: str, *, options: Options | None = None, letters: str = LETTERS
) -> frozenset[str] | None:
    """The chosen letters, or None: nothing stated, alternatives offered, statements at odds."""
    if options is not None:
        letters = "".join(options)
    text = _plain(response[-_LONGEST:])
    text = text.rpartition("</think>")[2]
    tagged = {_chosen(content, options, letters) for content in _TAG.findall(text)}
    if tagged:
        return tagged.pop() if len(tagged) == 1 else None
    return _chosen(text, options, letters)


def _chosen(text: str, options: Options | None, letters: str) -> frozenset[str] | None:
    """The letters that a plain text without tags comes to."""
    statements = _statements(text)
    if not statements:
        return _bare(text, options, letters)
    place, statement = statements[-1]
    chosen = _read(statement, options, letters)
    if chosen is None:
        return None
    line = text.rfind("\n", 0, place)
    for earlier, other in statements[-_MOST_STATEMENTS:-1]:
        # Two answers in one line are no answer; in different lines the later one corrects.
        if earlier > line and _read(other, options, letters) not in (None, chosen):
            return None
    return chosen


def verify(
    response: str, gold: str, *, options: Options | None = None, letters: str = LETTERS
) -> bool | None:
    """Whether exactly the gold letters are chosen; None = the gold names no option: mask it.

    Gold is `B`, `(B)`, `B. its text`, its text alone where the options are known, or several
    letters: `AC`, `A, C`, `["A", "C"]`.
    """
    wanted = _read(_plain(gold), options, letters if options is None else "".join(options))
    if wanted is None:
        return None
    return extract(response, options=options, letters=letters) == wanted


def reward(
    response: str, gold: str, *, options: Options | None = None, letters: str = LETTERS
) -> float | None:
    """1.0 or 0.0 by `verify`; None masks."""
    verdict = verify(response, gold, options=options, letters=letters)
    return None if verdict is None else float(verdict)


def _plain(text: str) -> str:
    """One width of letters, no invisible characters, no emphasis."""
    text = unicodedata.normalize("NFKC", text)
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    for _ in range(3):  # \boxed{\textbf{(\text{B})}} is seen in the wild; deeper is not
        text, count = _WRAPPER.subn(r"\1", text)
        if not count:
            break
    return _NOISE.sub("", text)


def _statements(text: str) -> list[tuple[int, str]]:
    """Every answer statement with its place, in order. What follows a cue ends with its line."""
    found = []
    for match in _CUE.finditer(text):
        content = match["box"]
        if content is None:
            end = text.find("\n", match.end(), match.end() + _LONGEST_STATEMENT)
            stop = end if end >= 0 else match.end() + _LONGEST_STATEMENT
            content = text[match.end() : stop]
            if not content.strip(" :"):  # "Answer:" with the letter in the next line
                content = text[match.end() : match.end() + 200].lstrip(" :\n").partition("\n")[0]
            if "\\boxed" in content or _is_open_ended(content):
                continue
        found.append((match.start(), content))
    found += [(match.start(), match["letter"]) for match in _VERDICT.finditer(text)]
    return sorted(found)


def _is_open_ended(content: str) -> bool:
    """Text after a cue that chooses nothing: "the answer is not B", "the answer is clear"."""
    head = content.lstrip(_OPEN)[:40].lower()
    return not head or re.match(r"(?:not|n't|neither|never|unclear|clear)\b|不", head) is not None


def _read(statement: str, options: Options | None, letters: str) -> frozenset[str] | None:
    """The letters that one statement chooses."""
    text = statement.strip(" \t\r\n:")
    inside = re.fullmatch(r"\[(.*)\]|\{(.*)\}", text)
    if inside:
        text = (inside[1] or inside[2] or "").strip()
    by_text = _by_text(text, options)
    if by_text is not None:
        return frozenset(by_text)
    text = _LABEL.sub("", text.lstrip(_OPEN[:2]), count=1) if _LABEL.match(text) else text
    chosen: list[str] = []
    place = 0
    while (match := _letter_at(text, place, letters)) is not None:
        chosen.append(match[0])
        place = match[1]
        between = _BETWEEN.match(text, place)
        if between is not None and _letter_at(text, between.end(), letters) is not None:
            if _EITHER.search(between.group()):
                return None
            place = between.end()
    if not chosen or len(set(chosen)) != len(chosen) or _ALTERNATIVE.match(text, place):
        return None
    if text[place - 1] not in _CLOSING and not _AFTER.match(text, place):
        return None
    if len(chosen) == 1 and not _agrees(chosen[0], text[place:], options):
        return None
    return frozenset(chosen)


def _letter_at(text: str, place: int, letters: str) -> tuple[str, int] | None:
    """The option letter at a place and where it ends. Small letters only in brackets or alone."""
    match = _LETTER.match(text, place)
    if match is None:
        return None
    letter = match[1].upper()
    bracketed = match.group() != match[1]
    if letter not in letters:
        return None
    rest = text[match.end() : match.end() + 1]
    if match[1].islower() and not bracketed and (place > 0 or rest not in ("", ".", ")", ":")):
        return None
    if not bracketed and rest.isascii() and rest.isalpha() and rest.upper() not in letters:
        return None
    return letter, match.end()


def _agrees(letter: str, rest: str, options: Options | None) -> bool:
    """Whether the text behind a letter is not word for word another option's."""
    told = _normalized(rest)
    if options is None or not told or told == _normalized(options.get(letter, "")):
        return True
    return all(_normalized(text) != told for text in options.values())


def _by_text(statement: str, options: Options | None) -> str | None:
    """The letter of the one option whose whole text is the statement, if letters do not say it."""
    if options is None:
        return None
    for told in (_normalized(statement), _normalized(re.split(r"\.\s|。", statement)[0])):
        if told and told.upper() not in options:
            same = [letter for letter, text in options.items() if _normalized(text) == told]
            if same:
                return same[0] if len(same) == 1 else None
    return None


def _normalized(text: str) -> str:
    return " ".join(_plain(text).casefold().split()).strip(" .,;:!?)。，；：！？\"'")


def _bare(text: str, options: Options | None, letters: str) -> frozenset[str] | None:
    """Without a cue: the one line that is an option by itself, else the whole text if it is one."""
    found = [_line(match["content"], options, letters) for match in _BARE_LINE.finditer(text)]
    lines = {chosen for chosen in found if chosen is not None}
    if lines:
        # Several lines are the options said again, or a guess at each.
        return lines.pop() if len(lines) == 1 else None
    last = text.strip().rpartition("\n")[2]
    return _line(last, options, letters) if len(last) <= _LONGEST_STATEMENT else None


def _line(line: str, options: Options | None, letters: str) -> frozenset[str] | None:
    if _SENTENCE.match(line) and _by_text(line, options) is None:
        return None
    return _read(line, options, letters)
