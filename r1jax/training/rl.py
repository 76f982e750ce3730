"""Reinforcement learning: the straight line from prompts to an update, step after step."""

import collections
import dataclasses
import functools
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from r1jax import rollout
from r1jax.config import Config
from r1jax.errors import UserError
from r1jax.monitor import doctor
from r1jax.monitor.metrics import rollout_metrics
from r1jax.monitor.report_data import read_rows
from r1jax.objectives import advantages as advantages_lib
from r1jax.rewards.grader import Pending
from r1jax.training.adapters import make_adapter_update
from r1jax.training.batches import make_batches, rl_batch_shape
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.grading import collect, submit_rows
from r1jax.training.optimizer import make_optimizer
from r1jax.training.session import Session
from r1jax.training.setup import (
    Setup,
    abstract_state,
    fresh_params,
    fresh_state,
    require_same_origin,
)
from r1jax.training.step import (
    UpdateFn,
    forward,
    make_policy_loss,
    make_policy_weights,
    make_update,
)
from r1jax.types import Graded, PackedBatch, Params, Stats, TrainState

PHASE = "rl"


@dataclasses.dataclass(frozen=True)
class Finished:
    """A step whose updates are under way; its numbers are read while the next one samples."""

    step: int
    graded: Graded
    stats: list[Stats]  # of each update, still on the device
    batches: list[PackedBatch]


def train_rl(session: Session, base_params: Params) -> TrainState:
    """Run the RL steps that are not yet done and return the final state.

    The base is taken over unless it is needed beside what is trained: as reference, under adapters.
    """
    setup, clock = session.setup, session.clock
    config = setup.config
    optimizer = make_optimizer(config.optim, config.rl.steps * config.rl.updates_per_step)
    checkpoints = session.checkpoints(PHASE)
    step, state, books = start_or_resume(session, checkpoints, optimizer, base_params)
    reference = base_params if config.objective.needs_reference else None
    shape = rl_batch_shape(config, setup.mesh, setup.module.config.attention)
    update = make_rl_update(setup, optimizer, base_params)
    log = StepLog(session, books, step)
    while step < config.rl.steps:
        with clock("rollout"):
            prompts = setup.prompts("train", books["next_prompt"], config.rl.prompts_per_step)
            policy = setup.policy(base_params, state.params)
            in_flight = start_rollout(setup, policy, prompts, step)
        log.write()  # of the step before, while the device samples
        if log.stop is not None:
            checkpoints.save(step, state, books)
            end_on_finding(checkpoints, log.stop)
        with clock("rollout"):
            # Judged in the background as they end, while the device samples on.
            judged = submit_finished(setup, in_flight, step)
        with clock("grade"):
            graded = collect(in_flight.rollouts, setup.grader, judged)
        with clock("pack"):
            batches = make_batches(config, shape, graded, compute_advantages(config, graded), step)
        with clock("update"):
            stats = []
            for batch, used in batches:
                batch = with_reference(setup, reference, setup.place(batch), used)
                state, update_stats = update(state, batch, np.int32(used))
                stats.append(update_stats)
        log.pending = Finished(step, graded, stats, [batch for batch, _ in batches])
        books["next_prompt"] += len(prompts)
        step += 1
        stopping = session.interrupts.received is not None
        if step % config.checkpoint.every == 0 or step == config.rl.steps or stopping:
            log.write()
            with clock("checkpoint"):
                checkpoints.save(step, state, books)
        if log.stop is not None:
            end_on_finding(checkpoints, log.stop)
        if stopping:
            checkpoints.wait()
            session.interrupts.raise_if_received()
    checkpoints.wait()
    checkpoints.close()
    return state


def end_on_finding(checkpoints: Checkpoints, finding: doctor.Finding) -> NoReturn:
    checkpoints.wait()
    checkpoints.close()
    raise UserError(
        f"ended by config.logging.stop_on: {finding.text} {finding.advice} All steps are saved; to "
        f"go on all the same, run this again without {finding.name} in logging.stop_on"
    )


def start_or_resume(
    session: Session,
    checkpoints: Checkpoints,
    optimizer: optax.GradientTransformation,
    base_params: Params,
) -> tuple[int, TrainState, dict[str, Any]]:
    """(steps done, state, the run's books) of the newest checkpoint, or of the base."""
    setup = session.setup
    adapters = setup.trains_adapters
    restored = checkpoints.restore(abstract_state(setup, optimizer, adapters=adapters))
    origin = setup.origin(base_params)
    if restored is None:
        params = initial_trained(setup, base_params)
        books = {"next_prompt": 0, "num_tokens": 0, "origin": origin}
        state = fresh_state(setup, optimizer, params, adapters=adapters)
        restored = 0, state, books
    else:
        require_same_origin(origin, restored[2].get("origin", origin))
    if 0 < restored[0] < setup.config.rl.steps:
        session.say(f"rl goes on at step {restored[0]} of {setup.config.rl.steps}")
    session.forget_after(PHASE, restored[0])
    return restored


def initial_trained(setup: Setup, base_params: Params) -> Params:
    """What an update may write over: adapters, or the base itself where nobody reads it again."""
    if setup.trains_adapters:
        return fresh_params(setup, adapters=True)
    if setup.config.objective.needs_reference:
        return jax.tree.map(jnp.copy, base_params)
    return base_params


def make_rl_update(
    setup: Setup, optimizer: optax.GradientTransformation, base_params: Params
) -> UpdateFn:
    config = setup.config
    loss = make_policy_loss(
        setup.module,
        config.objective,
        temperature=config.sampling.temperature,
        on_policy=config.rl.updates_per_step == 1,
        auxiliary=config.auxiliary,
    )
    weights = make_policy_weights(config.objective)
    if setup.trains_adapters:
        return make_adapter_update(loss, weights, optimizer, base_params, config.lora.scale)
    return make_update(loss, weights, optimizer, rebalance=config.auxiliary.rebalance)


def start_rollout(setup: Setup, params: Params, prompts: Any, step: int) -> rollout.InFlight:
    return rollout.dispatch(
        setup.module,
        rollout.prepare_params(setup.module.config, params),
        prompts,
        sampling=setup.sampling,
        samples_per_prompt=setup.config.rl.samples_per_prompt,
        seed=setup.config.seed,
        step=step,
        config=setup.config.rollout,
        decode_text=setup.decode_text,
    )


def submit_finished(
    setup: Setup, in_flight: rollout.InFlight, step: int
) -> list[tuple[list[int], Pending]]:
    """See the rollout to its end and have its responses judged, in the background, as they come."""
    submit = functools.partial(
        submit_rows,
        in_flight.rollouts,
        grader=setup.grader,
        tokenizer=setup.tokenizer,
        opened_by_prompt=setup.opened_by_prompt,
        run_key=(setup.config.seed, step),
    )
    pieces = (rows.tolist() for rows in in_flight.finished())
    return [(rows, submit(rows)) for rows in pieces if rows]


def compute_advantages(config: Config, graded: Graded) -> np.ndarray:
    """One advantage per response, [R]."""
    shape = (len(graded.rollouts.prompts), graded.rollouts.samples_per_prompt)
    advantages_PG = _group_normalized(
        graded.rewards.reshape(shape),
        scale=config.rl.advantage_scale,
        eps=config.rl.advantage_eps,
        valid=graded.valid.reshape(shape),
    )
    return np.asarray(advantages_PG).reshape(-1)


_group_normalized = jax.jit(advantages_lib.group_normalized, static_argnames=("scale", "eps"))


def with_reference(
    setup: Setup, reference: Params | None, batch: PackedBatch, used: int
) -> PackedBatch:
    """The batch with the reference's log-probs; untouched where no KL asks for them."""
    if reference is None:
        return batch
    logp_ref = _reference_logprobs(
        setup.module, reference, batch, np.int32(used), setup.config.sampling.temperature
    )
    return dataclasses.replace(batch, logp_ref=logp_ref)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _reference_logprobs(
    module: Any, params: Params, batch: PackedBatch, used: ArrayLike, temperature: float
) -> Array:
    def one(index: Array, logp: Array) -> Array:
        micro = jax.tree.map(lambda leaf: leaf[index], batch)
        return logp.at[index].set(forward(module, params, micro, temperature).logp)

    return jax.lax.fori_loop(0, used, one, batch.logp_ref)


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
        self._progress = session.progress(PHASE, session.setup.config.rl.steps, first)

    def write(self) -> None:
        """Read the pending step, which waits for its updates; stop if a number is not finite."""
        finished, self.pending = self.pending, None
        if finished is None:
            return
        session, step = self._session, finished.step
        with session.clock("update"):
            jax.block_until_ready(finished.stats)
        updates = [
            {name: float(value) for name, value in stats.items()}
            for stats in jax.device_get(finished.stats)
        ]
        for stats, batch in zip(updates, finished.batches, strict=True):
            session.require_finite(PHASE, step, stats, batch)
        times = session.clock.lap()
        seconds = sum(times.values())
        tokens = int(finished.graded.rollouts.lengths.sum())
        self.books["num_tokens"] += tokens
        metrics = {
            **rollout_metrics(finished.graded),
            **update_metrics(updates),
            **{f"time/{phase}": value for phase, value in times.items()},
            "step_time": seconds,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "num_tokens": self.books["num_tokens"],
            "compiles": session.compiles.count,
        }
        session.sinks.write(PHASE, step, metrics)
        logging = session.setup.config.logging
        if step % logging.completions_every == 0:
            session.log_completions(PHASE, step, finished.graded, logging.completions)
        self._progress.step(step + 1, shown(metrics))
        self._ask_doctor({"step": step, **metrics})

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


def update_metrics(updates: list[Stats]) -> dict[str, float]:
    """Means over the step's updates, under TRL's names.

    The sampler/trainer gap is the first update's: later ones compare with a policy that has moved.
    """
    first = updates[0]
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


def shown(metrics: dict[str, float]) -> dict[str, str]:
    """What the progress line says."""
    return {
        "reward": f"{metrics['reward']:.3f}",
        "accuracy": f"{metrics['accuracy']:.3f}",
        "length": f"{metrics['completions/mean_length']:.1f}",
        "tokens/s": f"{metrics['tokens_per_second']:,.0f}",
    }
