"""The rollout browser's part of the page: which completions it holds, and its controls.

The script in `rollouts.js` filters, orders and compares them, with no network and no library.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from r1jax.monitor.charts import clean, printable
from r1jax.monitor.records import is_number, is_step, shorten

PAGE_BYTES = 4_000_000  # of completions in a page
TEXT_SHOWN = 10_000  # characters of a prompt, a completion, an answer

CSS, SCRIPT = (pathlib.Path(__file__).with_suffix(kind).read_text() for kind in (".css", ".js"))


class Rollouts:
    """Whole steps of a stream of records, evenly spread over the run, first and last among them.

    Each time the page is full every second step goes: the stream is read once, however long it is,
    and little more than a page is held.
    """

    def __init__(self, page_bytes: int = PAGE_BYTES) -> None:
        self.records = 0  # that came
        self.steps: list[_Step] = []
        self._page_bytes = page_bytes
        self._came = 0  # steps
        self._stride = 1

    def watch(self, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass the records on; when they are all through, the page's are here."""
        for record in records:
            self._add(record)
            yield record
        self._thin()

    @property
    def shown(self) -> int:
        return sum(step.records for step in self.steps)

    @property
    def data(self) -> str:
        """JSON for a <script> element, which no text in it can end."""
        return f"[{','.join(step.text() for step in self.steps)}]"

    def told(self) -> str:
        """What is here and what is not."""
        if self.shown == self.records:
            said = f"All {self.records:,} logged completions"
        else:
            said = (
                f"{self.shown:,} of {self.records:,} logged completions, from {len(self.steps):,} "
                f"of {self._came:,} logged steps, evenly spread: the page holds "
                f"{self._page_bytes / 1e6:g} MB of them"
            )
        cut = sum(step.cut for step in self.steps)
        more = f"; of {cut:,} the middle of a long text is left out" if cut else ""
        return f"{said}{more}."

    def _add(self, record: Mapping[str, Any]) -> None:
        number, phase = record.get("step"), str(record.get("phase", ""))
        if not is_step(number) or not isinstance(record.get("completion"), str):
            return
        self.records += 1
        if not self.steps or (self.steps[-1].phase, self.steps[-1].number) != (phase, number):
            self._thin()
            # One step may not take the whole page: first, last and another must fit.
            self.steps.append(_Step(phase, number, self._came, self._page_bytes // 4))
            self._came += 1
        self.steps[-1].add(record)

    def _thin(self) -> None:
        """The page's steps are those whose place is a multiple of the stride, and the newest."""
        while len(self.steps) > 2 and sum(step.bytes for step in self.steps) > self._page_bytes:
            self._stride *= 2
            self._keep()
        self._keep()

    def _keep(self) -> None:
        newest = self.steps[-1:]
        self.steps = [step for step in self.steps[:-1] if step.place % self._stride == 0] + newest


class _Step:
    """The samples of one step, by question."""

    def __init__(self, phase: str, number: int, place: int, most_bytes: int) -> None:
        self.phase, self.number, self.place = phase, number, place
        self.bytes = self.records = self.cut = 0
        self._most_bytes = most_bytes
        self._groups: dict[Any, dict[str, Any]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        sample, question = make_sample(record), make_question(record)
        key = (question["id"], question["prompt"])
        known = self._groups.get(key)
        size = len(_script_json(sample if known else [sample, question]).encode())
        if self.bytes and self.bytes + size > self._most_bytes:
            return
        if known is None:
            known = self._groups[key] = {**question, "samples": []}
        if sample["sample"] is None:
            sample["sample"] = len(known["samples"])
        known["samples"].append(sample)
        self.bytes += size
        self.records += 1
        texts = (record["completion"], record.get("prompt"))
        self.cut += any(isinstance(text, str) and len(text) > TEXT_SHOWN for text in texts)

    def text(self) -> str:
        step = {"phase": printable(self.phase), "step": self.number}
        return _script_json({**step, "groups": list(self._groups.values())})


def make_question(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": _whole(record, "prompt_id"),
        "prompt": _text(record, "prompt") or "",
        "task": _text(record, "task"),
        "reference": _text(record, "reference"),
    }


def make_sample(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the script reads, of the right types whatever the record holds."""
    reward, correct, parts = (record.get(name) for name in ("reward", "correct", "parts"))
    sample = {
        "sample": _whole(record, "sample"),
        "completion": _text(record, "completion"),
        "reward": reward if is_number(reward) else None,
        "correct": correct if isinstance(correct, bool) else None,
        "length": _whole(record, "length"),
        "answer": _text(record, "answer"),
        "policy": _whole(record, "policy"),
        "parts": {
            printable(str(name)): value if is_number(value) else None
            for name, value in (parts.items() if isinstance(parts, dict) else ())
        },
    }
    # True for nearly all, so said where it is not.
    said = {name: False for name in ("finished", "valid") if record.get(name) is False}
    return sample | said


def _whole(record: Mapping[str, Any], name: str) -> int | None:
    value = record.get(name)
    return value if is_step(value) else None


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return None if value is None else printable(shorten(str(value), TEXT_SHOWN))


def _script_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def browser_html(rollouts: Rollouts) -> str:
    """The controls, the data, and words for readers whose browser runs no script."""
    if not rollouts.records:
        return ""
    ranges = "".join(
        f'<fieldset><legend>{name}</legend><input type="number" step="any" name="{name}_min" '
        f'aria-label="lowest {name}" placeholder="from"/><input type="number" step="any" '
        f'name="{name}_max" aria-label="highest {name}" placeholder="to"/></fieldset>'
        for name in ("step", "reward", "length")
    )
    verdicts = {"": "all", **{k: k for k in ("right", "wrong")}, "unjudged": "not judged"}
    orders = ("newest", "oldest", "worst", "best", "longest", "shortest")
    return (
        f'<div id="rollouts" class="card"><p class="note">{clean(rollouts.told())}</p>'
        '<form role="search" aria-label="completions"><label class="words">text'
        '<input type="search" name="text" placeholder="question, completion, answer"/></label>'
        f"{ranges}{_choice('verdict', {**verdicts, 'cut': 'cut off'})}"
        f"{_choice('order', {name: f'{name} first' for name in orders})}"
        '<button type="reset">Show all</button></form><p class="count" role="status"></p>'
        '<div class="panes"><div class="list" role="listbox" tabindex="0" '
        'aria-label="completions"></div><div class="detail"></div></div>'
        f'<p class="note keys">{KEYS}</p>'
        "<noscript><p>The completions are shown by a script; the run's own files hold them too."
        "</p></noscript>"
        f'<script type="application/json">{rollouts.data}</script></div>'
    )


KEYS = " ".join(
    f"<span>{' '.join(f'<kbd>{key}</kbd>' for key in keys.split())} {what}</span>"
    for keys, what in {
        "↑ ↓": "another completion",
        "[ ]": "another sample of the question",
        "d": "compare two samples",
        "Esc": "back",
        "/": "search",
    }.items()
)


def _choice(name: str, options: Mapping[str, str]) -> str:
    inner = "".join(f'<option value="{value}">{text}</option>' for value, text in options.items())
    return f'<label>{name}<select name="{name}">{inner}</select></label>'
