"""What a run says of each step that is done: metrics, a line of progress, samples, what ails it."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from r1jax import cluster
from r1jax.errors import UserError
from r1jax.monitor import doctor
from r1jax.monitor.metrics import rollout_metrics
from r1jax.monitor.report_data import read_rows
from r1jax.rewards.verifiers import task_of
from r1jax.training.batches import Minibatch
from r1jax.training.performance import make_performance
from r1jax.training.sampling import Drawn
from r1jax.training.session import Session
from r1jax.training.setup import Setup
from r1jax.types import Graded, PackedBatch, Stats

PHASE = "rl"


@dataclasses.dataclass(frozen=True)
class Finished:
    """A step whose updates are under way; its numbers are read while the next one samples."""

    step: int
    drawn: Drawn
    updates: tuple[int, ...]  # `sampling.Feed.updates`
    stats: list[Stats]  # of each update, still on the device
    minibatches: list[Minibatch]

    @property
    def policy_updates(self) -> int:
        """None where a critic learns alone."""
        return sum("policy_loss" in stats for stats in self.stats)

    @property
    def critic_alone(self) -> bool:
        return bool(self.stats) and not self.policy_updates


class StepLog:
    """Writes down each finished step: metrics, the progress line, some completions, what ails."""

    def __init__(self, session: Session, books: dict[str, Any], first: int) -> None:
        self.books = books
        self.pending: Finished | None = None
        self.stop: doctor.Finding | None = None  # one that is to end the run
        known = [row for row in read_rows(session.workdir, PHASE) if row["step"] < first]
        self._rows = collections.deque(known, doctor.WINDOW)
        self._told = {finding.name for finding in doctor.diagnose(tuple(self._rows))}
        self._session = session
        self._performance = make_performance(session.setup)
        self._progress = session.progress(PHASE, session.setup.config.rl.steps, first)
        session.clock.lap()  # what came before belongs to no step

    def write(self) -> None:
        """Read the pending step, which waits for its updates; stop if a number is not finite."""
        finished, self.pending = self.pending, None
        if finished is None:
            return
        with self._session.clock.watch("log"):
            self._write(finished)

    def _write(self, finished: Finished) -> None:
        session, step = self._session, finished.step
        with session.clock("update"):
            jax.block_until_ready(finished.stats)
        updates = [
            {name: float(value) for name, value in stats.items()}
            for stats in jax.device_get(finished.stats)
        ]
        for stats, minibatch in zip(updates, finished.minibatches, strict=True):
            session.require_finite(PHASE, step, stats, minibatch.batch)
        times = session.clock.lap()
        seconds = sum(times.values())
        graded, tokens = finished.drawn.graded, finished.drawn.tokens
        batches = [each.batch for each in finished.minibatches]
        self.books["num_tokens"] += tokens
        metrics = {
            **samples_metrics(session.setup, graded),
            **finished.drawn.metrics,
            **(update_metrics(updates) if updates else {}),
            **staleness(finished),
            **without_advantage(finished.stats, batches),
            **{f"time/{phase}": value for phase, value in times.items()},
            "step_time": seconds,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            **self._performance(graded, tokens, batches, times, finished.critic_alone),
            "num_tokens": self.books["num_tokens"],
            "compiles": session.compiles.count,
        }
        session.sinks.write(PHASE, step, metrics)
        self._require_own_samples(step, updates)
        logging = session.setup.config.logging
        if step % logging.completions_every == 0 and graded is not None:
            session.log_completions(PHASE, step, graded, logging.completions)
        self._progress.step(step + 1, shown(metrics))
        self._ask_doctor({"step": step, **metrics})

    def _require_own_samples(self, step: int, updates: list[Stats]) -> None:
        """End the run where sampler and trainer drift apart though nothing corrects for it."""
        config = self._session.setup.config
        limit = config.rl.gap_limit
        if not (updates and limit and config.samples_own_policy):
            return
        gap = updates[0].get("logp_gap", 0.0)  # a critic that learns alone says nothing of it
        if gap > limit:
            raise UserError(
                f"rl step {step}: sampler and trainer differ by {gap:.3g} nats a token, above "
                f"config.rl.gap_limit={limit:g}: the samples are not the policy's own. Compute "
                "both in one type (model.dtype=float32 tells whether rounding is the cause), set "
                "objective.correction='tis' and objective.correction_high=2.0, or raise "
                "rl.gap_limit; the last checkpoint is kept"
            )

    def note_held_out(self, accuracy: float) -> None:
        """For the doctor: measured after the step that was written last."""
        if self._rows:
            self._rows[-1] = {**self._rows[-1], doctor.HELD_OUT: accuracy}

    def _ask_doctor(self, row: dict[str, Any]) -> None:
        """Say what is newly wrong, once; remember what is to end the run."""
        self._rows.append(row)
        stop_on = self._session.setup.config.logging.stop_on
        for finding in doctor.diagnose(tuple(self._rows)):
            if finding.name not in self._told:
                self._progress.say(f"doctor: {finding.text} {finding.advice}")
            self._told.add(finding.name)
            if finding.name in stop_on:
                self.stop = self.stop or finding
        if stop_on:  # one process decides: numbers of a clock differ
            found = cluster.from_first(lambda: _as_json(self.stop), "stop_on")
            self.stop = None if found is None else doctor.Finding(**found)


def _as_json(finding: doctor.Finding | None) -> dict[str, Any] | None:
    return None if finding is None else dataclasses.asdict(finding)


def samples_metrics(setup: Setup, graded: Graded | None) -> dict[str, float]:
    """Of all samples; of each task's besides, where the run has several."""
    if graded is None:
        return {}
    if setup.files is None or len(setup.files.tasks) < 2:
        return rollout_metrics(graded)
    of_P = np.array([task_of(item) for item in graded.rollouts.prompts.items])
    of_R = np.repeat(of_P, graded.rollouts.samples_per_prompt)
    return rollout_metrics(graded, {task: of_R == task for task in setup.files.tasks})


def update_metrics(updates: list[Stats]) -> dict[str, float]:
    """Means over the step's updates, under TRL's names.

    The sampler/trainer gap is the first update's: later ones compare with a policy that has moved.
    """
    first = updates[0]
    if "logp_gap" not in first:  # the critic learned alone
        return {name: float(np.mean([stats[name] for stats in updates])) for name in first}
    own = {"tokens", "logp_gap", "logp_gap_max"}  # told apart from the objective's statistics
    metrics = {}
    for name in [name for name in first if name not in own]:
        combine = np.max if name.endswith("max") else np.mean
        metrics[name] = float(combine([stats[name] for stats in updates]))
    return metrics | {
        "sampling/logp_difference": first["logp_gap_max"],
        "sampling/sampling_logp_difference/mean": first["logp_gap"],
        "sampling/sampling_logp_difference/max": first["logp_gap_max"],
    }


def staleness(finished: Finished) -> dict[str, float]:
    """How many updates the policy had had since it began the responses it then learned from."""
    graded = finished.drawn.graded
    if graded is None or not finished.policy_updates:
        return {}
    steps_R = graded.rollouts.staleness
    begun_R = np.array(finished.updates)[-1 - (0 if steps_R is None else steps_R)]
    begun_R = np.broadcast_to(begun_R, len(graded.rewards))
    now = finished.updates[-1]
    ages = [now + done - begun_R[each.rows] for done, each in enumerate(finished.minibatches)]
    return {
        "staleness/mean": float(np.concatenate(ages).mean()),
        "staleness/max": float(np.concatenate(ages).max()),
    }


def without_advantage(stats: Sequence[Stats], batches: Sequence[PackedBatch]) -> dict[str, float]:
    """The share of counted tokens that have none; a critic's advantages are only on the device."""
    if not batches or any("value/loss" in each for each in stats):
        return {}
    advantages = np.concatenate([batch.advantages[batch.mask] for batch in batches])
    return {"advantages/zero": float((advantages == 0).mean())} if len(advantages) else {}


def shown(metrics: dict[str, float]) -> dict[str, str]:
    """What the progress line says."""
    if "reward" not in metrics:
        return {"no group": f"within the band, of {metrics['dynamic/tried']:.0f}"}
    return {
        "reward": f"{metrics['reward']:.3f}",
        "accuracy": f"{metrics['accuracy']:.3f}",
        "length": f"{metrics['completions/mean_length']:.1f}",
        "tokens/s": f"{metrics['tokens_per_second']:,.0f}",
    }
