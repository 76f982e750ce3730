"""What a response gives as its answer, for checkers that read the whole of it or nothing."""

import unicodedata

LONGEST = 2000  # characters; no puzzle here has a longer answer


def final_answer(text: str) -> str | None:
    """The text in the last `<answer>` tag or `\\boxed{}` after the thoughts, or all of it.

    None where it is longer than any answer: work is bounded before it begins.
    """
    text = text.rpartition("</think>")[2]
    opened = text.rfind("<answer>")
    if opened >= 0:
        text = text[opened + len("<answer>") :].partition("</answer>")[0]
    boxed = text.rfind("\\boxed{")
    if boxed >= 0:
        text = _in_braces(text, boxed + len("\\boxed{"))
    text = text.strip()
    if len(text) > LONGEST:
        return None
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if unicodedata.category(c) != "Cf").strip()


def _in_braces(text: str, start: int) -> str:
    depth = 1
    for place in range(start, min(len(text), start + LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return ""
