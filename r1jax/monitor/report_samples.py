"""Sample completions, early and late side by side, as HTML. Their text is untrusted."""

import re
from collections.abc import Sequence

from r1jax.monitor.charts import clean
from r1jax.monitor.report_data import Sample, count_equal
from r1jax.monitor.scales import number_text

PAIRS = 4
PER_SIDE = 4
COMPARED = 24  # prompts of each end among which the most alike are looked for

Group = tuple[str, int, list[Sample]]  # prompt, step, samples


def samples_html(early: Sequence[Sample], late: Sequence[Sample]) -> str:
    """The section's content; one column where a run has only its beginning."""
    pairs = pair_groups(group_samples(early), group_samples(late))
    return "".join(
        f'<div class="pair">{_side(before, "early")}{_side(after, "late") if after else ""}</div>'
        for before, after in pairs
    )


def group_samples(samples: Sequence[Sample]) -> list[Group]:
    """Samples of one prompt at one step belong together; order kept."""
    groups: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.prompt, sample.step), []).append(sample)
    return [(prompt, step, members) for (prompt, step), members in groups.items()][:COMPARED]


def pair_groups(early: list[Group], late: list[Group]) -> list[tuple[Group, Group | None]]:
    """The same prompt where it was logged at both ends, or like ones, or the first and the last."""
    if not late:
        return [(group, None) for group in early[:PAIRS]]
    ranked = sorted(
        ((-alike(a[0], b[0]), i + j, i, j) for i, a in enumerate(early) for j, b in enumerate(late))
    )
    free_early, free_late, pairs = set(range(len(early))), set(range(len(late))), []
    for _, _, i, j in ranked:
        if i in free_early and j in free_late and len(pairs) < PAIRS:
            free_early.remove(i)
            free_late.remove(j)
            pairs.append((i, j))
    return [(early[i], late[j]) for i, j in sorted(pairs)]


def alike(a: str, b: str) -> int:
    """2 for equal texts, 1 if they share half of their pairs of neighbouring characters, else 0."""
    if a == b:
        return 2
    sets = [{text[i : i + 2] for i in range(len(text) - 1)} for text in (a, b)]
    return int(2 * len(sets[0] & sets[1]) >= max(len(sets[0] | sets[1]), 1))


def _side(group: Group, when: str) -> str:
    prompt, step, members = group
    kinds = count_equal(members)
    rows = "".join(sample_html(sample, count) for sample, count in kinds[:PER_SIDE])
    left = sum(count for _, count in kinds[PER_SIDE:])
    more = f'<p class="note">and {left} more of this prompt</p>' if left else ""
    samples = f"{len(members)} sample{'s' * (len(members) != 1)}"
    return (
        f'<article class="card side"><h3><span>{when.capitalize()} · step {step:,}</span>'
        f"<span>{samples} logged</span></h3>"
        f'<pre class="prompt">{clean(prompt)}</pre>{rows}{more}</article>'
    )


def sample_html(sample: Sample, count: int) -> str:
    facts = []
    if sample.correct is not None:
        kind, word = ("pass", "right") if sample.correct else ("fail", "wrong")
        facts.append(f'<span class="badge {kind}">{word}</span>')
    if sample.reward is not None:
        facts.append(f"<span>reward <b>{number_text(sample.reward)}</b></span>")
    if len(sample.parts) > 1:
        facts += [
            f"<span>{clean(name)} {number_text(value)}</span>"
            for name, value in sample.parts.items()
        ]
    if sample.length is not None:
        facts.append(f"<span>{sample.length:,} token{'s' * (sample.length != 1)}</span>")
    if count > 1:
        facts.append(f"<span>× {count}</span>")
    return (
        f'<div class="sample"><pre>{mark_answer(clean(sample.completion))}</pre>'
        f'<div class="facts">{"".join(facts)}</div></div>'
    )


def mark_answer(escaped: str) -> str:
    """Tags faint, the answer strong. Works on escaped text only, adding tags of its own."""
    escaped = re.sub(r"(&lt;answer&gt;)([^<]*?)(&lt;/answer&gt;)", r"\1<mark>\2</mark>\3", escaped)
    return re.sub(r"(&lt;/?(?:think|answer)&gt;)", r'<span class="tag">\1</span>', escaped)
