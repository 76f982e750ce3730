"""One process at work in one workdir: its clocks, logs, interrupts, and the rules for stopping."""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax import cluster
from r1jax.errors import UserError
from r1jax.monitor import completions, watchdog
from r1jax.monitor.clock import Clock, CompileCounter
from r1jax.monitor.metrics import finite_or_none
from r1jax.monitor.progress import Progress
from r1jax.monitor.sinks import Sinks
from r1jax.training import workdir as workdir_lib
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.interrupts import Interrupts
from r1jax.training.setup import Setup
from r1jax.types import Graded, PackedBatch

REFERENCE_SHOWN = 2000  # characters of a reference answer that samples are logged with


@dataclasses.dataclass
class Session:
    setup: Setup
    workdir: pathlib.Path
    sinks: Sinks
    interrupts: Interrupts
    compiles: CompileCounter
    clock: Clock = dataclasses.field(default_factory=Clock)

    def say(self, text: str) -> None:
        if cluster.is_first():
            print(text, flush=True)

    def stopping(self) -> bool:
        """Whether this process, or another one of the run, was asked to stop."""
        with self.clock.watch("collective"):
            asked = cluster.gather(self.interrupts.received, "interrupts")
        self.interrupts.received = next((signum for signum in asked if signum is not None), None)
        return self.interrupts.received is not None

    def watchdog(self) -> contextlib.AbstractContextManager[None]:
        """Open while the run runs: docs/training.md, Watchdogs."""
        limits, process = self.setup.config.watchdog, cluster.index()
        kept = "ended; what was saved is kept, the same command goes on from there"
        return watchdog.watching(
            self.clock,
            self.workdir / watchdog.FOLDER / f"process_{process}.txt",
            warn_s=limits.warn_s,
            end_s=limits.end_s,
            say=lambda text: print(text, flush=True),
            end=lambda text: cluster.end_at_once(f"r1jax train: {text}; {kept}", 2),
            waiting=cluster.waiting,
        )

    def progress(self, phase: str, total: int, first: int) -> Progress:
        every = self.setup.config.logging.every
        return Progress(phase, total, first=first, every=every, silent=not cluster.is_first())

    def checkpoints(self, phase: str) -> Checkpoints:
        config = self.setup.config.checkpoint
        return Checkpoints(
            self.workdir / "checkpoints" / phase,
            keep=1 if phase == "best" else config.keep,
            milestone=0 if phase == "best" else config.milestone,
            say=self.say,
        )

    def forget_after(self, phase: str, step: int) -> None:
        """Drop log records that the resumed run will write again."""

        def keep(record: Mapping[str, Any]) -> bool:
            return record["phase"] != phase or record["step"] < step

        def forget() -> None:
            for name in ("metrics.jsonl", completions.LINES):
                workdir_lib.keep_lines(self.workdir / name, keep)
            completions.forget_files(self.workdir, phase, step)

        cluster.first_only(forget, "forget")

    def log_completions(self, phase: str, step: int, graded: Graded, count: int) -> None:
        """Keep some samples to read; see `chosen_rows`."""
        if not cluster.is_first():
            return
        kind = self.setup.config.logging.completions_format
        records = completion_records(phase, step, self._with_texts(graded, count), count)
        completions.write(self.workdir, phase, step, records, kind)

    def _with_texts(self, graded: Graded, count: int) -> Graded:
        """With the texts that other processes judged, of the rows that are kept."""
        if cluster.count() == 1:
            return graded
        rollouts, texts = graded.rollouts, list(graded.texts)
        for row in chosen_rows(len(rollouts.prompts), rollouts.samples_per_prompt, count):
            texts[row] = self.setup.decode_text(rollouts.response(row).tolist())
        return dataclasses.replace(graded, texts=tuple(texts))

    def require_finite(
        self, phase: str, step: int, stats: Mapping[str, float], batch: PackedBatch
    ) -> None:
        """Stop on a NaN or infinite loss or gradient, with the batch kept for inspection."""
        watched = ("loss", "grad_norm", "value/loss", "value/grad_norm")
        broken = [name for name in watched if not np.isfinite(stats.get(name, 0.0))]
        if not broken:
            return
        path = self.workdir / f"nonfinite_{phase}_{step}.npz"
        fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        fields = {name: np.asarray(each) for name, each in fields.items() if each is not None}
        if cluster.is_first():
            np.savez_compressed(path, allow_pickle=False, **fields)
        raise UserError(
            f"{phase} step {step}: {' and '.join(broken)} not finite; the batch is in {path}, the "
            f"last good checkpoint in {self.workdir / 'checkpoints' / phase}. Lower optim.lr or "
            "optim.clip_norm, or look at the batch"
        )


def completion_records(phase: str, step: int, graded: Graded, count: int) -> list[dict[str, Any]]:
    """What a reader of samples wants to know of each, as JSON can say it."""
    rollouts = graded.rollouts
    group = rollouts.samples_per_prompt
    ages_R = (
        np.zeros(len(graded.rewards), int) if rollouts.staleness is None else rollouts.staleness
    )
    records = []
    for row in chosen_rows(len(rollouts.prompts), group, count):
        item = rollouts.prompts.items[row // group]
        records.append(
            {
                "phase": phase,
                "step": step,
                "prompt": item["question"],
                "completion": graded.texts[row],
                "reward": float(graded.rewards[row]),
                "correct": bool(graded.correct[row]),
                "length": int(rollouts.lengths[row]),
                "parts": finite_or_none({k: float(v[row]) for k, v in graded.parts.items()}),
                "prompt_id": int(rollouts.prompts.ids[row // group]),
                "sample": row % group,
                "task": item.get("task"),
                "answer": graded.answers[row],
                "reference": str(item.get("answer", ""))[:REFERENCE_SHOWN],
                "valid": bool(graded.valid[row]),
                "finished": bool(rollouts.finished[row]),
                "reasoned": bool(graded.reasoned[row]),
                # The steps that the policy had had when it began the response.
                "policy": step - int(ages_R[row]),
            }
        )
    return records


def chosen_rows(prompts: int, group: int, count: int) -> list[int]:
    """Two answers to each of the first questions, so that they can be compared; more answers to
    each where that does not make `count`."""
    each = min(group, max(2, -(-count // prompts)))
    rows = (prompt * group + sample for prompt in range(prompts) for sample in range(each))
    return list(itertools.islice(rows, count))
