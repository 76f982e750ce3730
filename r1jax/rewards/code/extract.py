"""The program in a response: its last fenced block."""

import re

_ALIASES = {
    "python": {"python", "python3", "py", "py3"},
    "cpp": {"cpp", "c++", "cc", "cxx", "cpp17", "cpp20"},
}
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)")


def last_block(response: str, language: str = "python") -> str | None:
    """The last block marked with the language, or else the last without a mark; None if neither.

    What comes before the last `</think>` is not part of the answer. A block that is never closed
    was cut off and does not count. Blocks without a mark often hold sample output: second choice.
    """
    answer = response.rpartition("</think>")[2]
    marked = unmarked = None
    for mark, text in _blocks(answer):
        if mark in _ALIASES[language]:
            marked = text
        elif not mark:
            unmarked = text
    return unmarked if marked is None else marked


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language mark, content) of every closed block; one pass over the lines."""
    found: list[tuple[str, str]] = []
    fence, mark, content = "", "", []
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if not fence:
            if match:
                fence, mark, content = match[1], match[2].lower(), []
        elif match and match[1].startswith(fence) and line.strip() == match[1]:
            found.append((mark, "".join(content)))
            fence = ""
        else:
            content.append(line)
    return found
