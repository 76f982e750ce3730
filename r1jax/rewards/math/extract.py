"""The final answer's text out of a whole response, by scanning from the end. Linear in the
response.

Explicit marks are taken in this order: an <answer> tag, the last box (boxes joined by "and", "or"
or a comma in one statement make a list), "####", and the last "the answer is". Only a response
without any of them is read as a bare answer, and if it is prose, its last formula, bold text or
number is taken. What follows a mark is final: if it cannot be read, nothing else in the response is
tried, or a model could be paid for listing candidates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from r1jax.rewards.math.clean import close_brace

MAX_RESPONSE = 400_000  # characters from the end that are looked at
MAX_SEGMENT = 2_000  # characters after "the answer is"
MAX_BARE = 4_000
MAX_BOXES = 100

_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_MARKERS = (
    "answer is", "answers are", "answer:", "answers:", "answer：", "answer =", "answer**",
    "answer*:", "answer_:", "answer to the question is", "answer must be", "answer should be",
    "answer would be", "answer will be", "final answer", "ans:", "ans =", "solution is:",
    "the result is", "i choose", "we choose",
    "答案是", "答案为", "答案：", "答案:", "答案", "【答案】", "答：", "答:", "故答案为",
    "故选", "应选", "因此选", "所以选",
    "réponse est", "réponse :", "réponse:", "respuesta es", "respuesta:", "antwort ist", "antwort:",
    "lautet", "risposta è", "resposta é", "resposta:", "ответ:", "答えは", "정답은",
)  # fmt: skip
_BOX_COMMANDS = ("\\boxed", "\\fbox", "\\framebox")
_JOINT = re.compile(
    r"(?:[\s$,;&~、，；]|\\[,;:! ()\[\]]|\\q?quad"
    r"|\\(?:text|mathrm|textbf|mbox)\{[\s,]*(?:and|or)?[\s,]*\}"
    r"|and|or|和|或|以及"
    r"|\\(?:land|lor|quad)|[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
_PARTED = re.compile(r"[,;、，；&]|and|or|和|或|以及|\\l(?:and|or)")
_BARE_BOX = re.compile(r"\s*(\\[A-Za-z]+|-?\d[\d.,]*|\w)")
_SENTENCE_END = re.compile(
    r"(?<![ap]\.m)(?<!\s[ap])\.(?=\s|$|\*)|[。\n]|!(?=\s)|<|\s(?:\(|since|because|as)\s|,\s+(?:not|which|since|because)\s"
)
_LEAD = re.compile(
    r"(?:[\s*:：=_]|(?:therefore|thus|hence|simply|just|given by"
    r"|equal to|equals|then|approximately|about|now"
    r"|确定|应该|选项?|为|是)(?![A-Za-z]))*",
    re.IGNORECASE,
)
_DELIMITED = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_JOINED_MATH = re.compile(r"\s*(?:,|and|or|,\s*and|和|或|、)\s*")
_WORD = re.compile(r"(?<![\\\w])[A-Za-z]{2,}(?!\w)")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_NUMBER = re.compile(r"[-−]?(?:\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?|\.\d+)\s*(?:\\?%)?")
_COPULA = re.compile(r"\s(?:is|are|equals|was|be|est|es|=)\s|=|[:：](?=\s)|[是为]")
_NEGATION = re.compile(r"\b(?:not|never|n't|cannot)\b|不是|不为|并非")
_HAN_SENTENCE = re.compile(r"[\u4e00-\u9fff]{2}[^，。]*[，。].*[\u4e00-\u9fff]{2}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Extraction:
    """`how` is tag, box, hash, marker, bare or prose. `candidates` are readings of one and the same
    place, best first.
    """

    how: str
    candidates: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.candidates[0] if self.candidates else ""


def extract_answer(response: str) -> Extraction:
    """Where the response states its answer."""
    text = _after_thinking(response[-MAX_RESPONSE:])
    box = _last_box(text)
    tag = _last_tag(text)
    if tag is not None and (box is None or box[0] < tag[1]):
        return Extraction("tag", _inside_tag(tag[0]))
    if box is not None:
        return Extraction("box", (box[1],))
    if (hashes := text.rfind("####")) >= 0 and (
        line := text[hashes + 4 :].strip().split("\n", 1)[0]
    ):
        return Extraction("hash", (line.strip(),))
    if (at := _last_marker(text)) >= 0:
        return Extraction("marker", _segment(text[at : at + MAX_SEGMENT]))
    return _bare(text)


def _after_thinking(text: str) -> str:
    """What follows the last </think>, if anything does."""
    at = text.rfind("</think>")
    rest = text[at + len("</think>") :] if at >= 0 else text
    return rest if rest.strip() else text


def _last_tag(text: str) -> tuple[str, int] | None:
    """Content and end of the last <answer>; an unclosed one runs to the end."""
    start = text.rfind("<answer>")
    if start < 0:
        return None
    inside = start + len("<answer>")
    end = text.find("</answer>", inside)
    return (text[inside:], len(text)) if end < 0 else (text[inside:end], end)


def _inside_tag(content: str) -> tuple[str, ...]:
    if box := _last_box(content):
        return (box[1],)
    at = _last_marker(content)
    return _segment(content[at : at + MAX_SEGMENT]) if at >= 0 else (content.strip(),)


# boxes


def _last_box(text: str) -> tuple[int, str] | None:
    """Start and content of the final box or joined boxes; an unclosed box has no content and still
    is the last one.
    """
    found = _box_before(text, len(text))
    if found is None:
        return None
    start, content, _ = found
    first, contents = start, [content]
    while content and len(contents) < MAX_BOXES:
        previous = _box_before(text, first)
        if previous is None or first - previous[2] > 60 or not previous[1]:
            break
        between = text[previous[2] : first]
        if previous[2] > first or not _JOINT.fullmatch(between) or not _PARTED.search(between):
            break
        first = previous[0]
        contents.append(previous[1])
    return start, ", ".join(reversed(contents))


def _box_before(text: str, end: int) -> tuple[int, str, int] | None:
    """(start, content, end) of the last box that starts before `end`."""
    start = max(text.rfind(command, 0, end) for command in _BOX_COMMANDS)
    if start < 0:
        return None
    at = start + 1
    while at < len(text) and text[at].isalpha():
        at += 1
    brace = at
    while brace < len(text) and text[brace].isspace():
        brace += 1
    if text.startswith("{", brace):
        close = close_brace(text, brace)
        return (
            (start, text[brace + 1 : close].strip(), close + 1)
            if close >= 0
            else (start, "", len(text))
        )
    bare = _BARE_BOX.match(text, at)
    return (start, bare.group(1), bare.end()) if bare else (start, "", at)


# statements


def _last_marker(text: str) -> int:
    """The end of the last phrase that announces an answer, or -1."""
    lowered = text.translate(_ASCII_LOWER)
    best = -1
    for marker in _MARKERS:
        at = lowered.rfind(marker)
        while at >= 0 and not text[at + len(marker) :].strip(" *.:\n"):
            at = lowered.rfind(marker, 0, at)  # "… is the final answer." announces nothing
        if at >= 0:
            best = max(best, at + len(marker))
    return best


def _segment(text: str) -> tuple[str, ...]:
    """The answer in what follows an announcement: a formula, the whole clause, or what its copula
    is followed by.
    """
    text = text[_lead_end(text) :]
    if formulas := _leading_formulas(text):
        return (formulas,)
    end = _SENTENCE_END.search(text)
    clause = text[: end.start()] if end and end.start() else text
    clause = clause.strip().strip("*").strip()
    if _NEGATION.search(clause):
        return (clause,)
    candidates = [clause]
    pieces = list(_COPULA.finditer(clause))
    if pieces and (tail := clause[pieces[-1].end() :].strip(" *")):
        candidates.append(_leading_formulas(tail) or tail)
    candidates += _last_mention(clause)
    return tuple(dict.fromkeys(candidates))


def _lead_end(text: str) -> int:
    lead = _LEAD.match(text)
    return lead.end() if lead else 0


def _leading_formulas(text: str) -> str:
    """$1$ and $2$ at the start of a clause as "1, 2"; empty if it does not start with a formula."""
    found: list[str] = []
    at = 0
    while formula := _DELIMITED.match(text, at):
        found.append(next(g for g in formula.groups() if g is not None))
        joint = _JOINED_MATH.match(text, formula.end())
        if joint is None:
            break
        at = joint.end()
    return ", ".join(found)


def _last_mention(text: str) -> list[str]:
    """The last formula, bold text or number, whichever ends last."""
    formulas = _last_formulas(text)
    best = formulas
    for pattern in (_BOLD, _NUMBER):
        last = max(pattern.finditer(text), key=lambda match: match.end(), default=None)
        if last and (best is None or last.end() > best[0]):
            groups = [g for g in last.groups() if g is not None]
            best = last.end(), groups[0] if groups else last.group()
    return [best[1].strip()] if best else []


def _last_formulas(text: str) -> tuple[int, str] | None:
    """End and content of the last formula, with those that "and" or a comma joins to it."""
    found = list(_DELIMITED.finditer(text))
    if not found:
        return None
    first = len(found) - 1
    while first and _JOINED_MATH.fullmatch(text[found[first - 1].end() : found[first].start()]):
        first -= 1
    contents = [next(g for g in match.groups() if g is not None) for match in found[first:]]
    return found[-1].end(), ", ".join(contents)


def _bare(text: str) -> Extraction:
    whole = text.strip()
    candidates = [whole] if len(whole) <= MAX_BARE else []
    tail = whole[-MAX_SEGMENT:]
    introduced = _introduces_formula(tail)
    if not introduced and not _is_prose(tail) and "**" not in tail:
        return Extraction("bare", tuple(candidates))
    mention = _last_mention(tail)
    masked = _DELIMITED.sub(lambda formula: "x" * len(formula.group()), tail)
    pieces = list(_COPULA.finditer(masked))
    if pieces and not _NEGATION.search(tail):
        mention.insert(0, tail[pieces[-1].end() :])
    mention_first = introduced or _HAN_SENTENCE.search(tail)
    ordered = (*mention, *candidates) if mention_first else (*candidates, *mention)
    return Extraction("prose", ordered)


def _introduces_formula(text: str) -> bool:
    """Whether words lead to the last formula, as in "which simplifies to $3$"."""
    last = _last_formulas(text)
    if last is None:
        return False
    found = list(_DELIMITED.finditer(text))
    before = text[: found[-1].start()]
    if len(found) > 1:
        before = before[found[-2].end() :] or before
    return any(word not in ("and", "or") for word in _WORD.findall(before.rpartition("\n\n")[2]))


def _is_prose(text: str) -> bool:
    """Three words, two with a full stop, or Chinese sentences: what a bare answer would not be."""
    words = [w for w in text.split() if w.strip(".,:;!?()*").isalpha()]
    ended = text.rstrip().endswith(".") and len(words) >= 2
    return ended or len(words) >= 3 or any(mark in text for mark in "。，因")
