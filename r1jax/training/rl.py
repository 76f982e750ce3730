"""Reinforcement learning: the straight line from prompts to an update, step after step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax import rollout
from r1jax.errors import UserError
from r1jax.monitor import doctor
from r1jax.training import ahead
from r1jax.training.adapters import make_adapter_update
from r1jax.training.batches import BatchShape, Minibatch, rl_batch_shape
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.critic import Critic, abstract_critic, fresh_critic
from r1jax.training.dynamic import carried_arrays, no_groups, read_carried
from r1jax.training.learning import (
    flat_verdicts,
    make_minibatches,
    with_old_policy,
    with_reference,
    with_zero_variance,
)
from r1jax.training.optimizer import make_optimizer
from r1jax.training.reward_model import RewardModel, abstract_reward_model, fresh_reward_model
from r1jax.training.sampling import Drawn, Feed, Sampled, make_ready
from r1jax.training.session import Session
from r1jax.training.setup import (
    Setup,
    abstract_state,
    fresh_params,
    fresh_state,
    require_same_origin,
)
from r1jax.training.step import UpdateFn, make_policy_loss, make_policy_weights, make_update
from r1jax.training.step_log import PHASE, Finished, StepLog
from r1jax.types import Graded, Params, Stats, TrainState

# parameters as `rollout.prepare_params` gives them -> what they can do on held-out prompts
EvaluateFn = Callable[[Params], Mapping[str, float]]


@dataclasses.dataclass
class Run:
    """What a step leaves to the next one, and a checkpoint to the process that goes on."""

    step: int  # steps done
    state: TrainState  # without what is there for checkpoints only
    reference: Params | None
    feed: Feed  # of the next samples; its `updates` are those of `step`
    books: dict[str, Any]
    ahead: Sampled | None = None  # with rl.asynchronous, what `step` learns from
    critic: Critic | None = None
    reward_model: RewardModel | None = None
    ready: Params | None = None  # the policy as rollouts take it, from when it is needed so


def train_rl(
    session: Session,
    base_params: Params,
    evaluate: EvaluateFn | None = None,
    *,
    until: int | None = None,
) -> TrainState:
    """Run the RL steps that are not yet done, or those before `until`, and return the final state.

    The base is taken over unless it is needed beside what is trained: as reference, under adapters.
    """
    setup, clock = session.setup, session.clock
    config = setup.config
    policy_steps = config.rl.steps - config.critic.pretrain_steps
    optimizer = make_optimizer(config.optim, policy_steps * config.rl.updates)
    checkpoints = session.checkpoints(PHASE)
    best = session.checkpoints(BEST) if config.checkpoint.best else None
    run = start_or_resume(session, checkpoints, optimizer, base_params)
    shape = rl_batch_shape(config, setup.mesh, setup.module.config.attention)
    update_at = functools.cache(functools.partial(make_rl_update, setup, optimizer, base_params))
    log = StepLog(session, run.books, run.step)
    while run.step < (config.rl.steps if until is None else until):
        replace_reference(setup, run)
        # The step before is written down while the device samples.
        written = functools.partial(write_or_end, session, checkpoints, run, log)
        drawn, minibatches = draw(session, run, base_params, shape, meanwhile=written)
        with clock("update"):
            stats = learn(setup, run, base_params, update_at, drawn, minibatches)
        done = log.pending = Finished(run.step, drawn, run.feed.updates, stats, minibatches)
        run.step += 1
        run.feed = next_feed(setup, run, drawn, done.policy_updates)
        train_reward_model(session, run, drawn)
        stopping = session.stopping()
        if evaluate is not None and is_due(config.eval.every, run.step):
            log.write()
            if measure(session, log, run, optimizer, evaluate, base_params) and best is not None:
                save(session, best, run)
        if is_due(config.checkpoint.every, run.step) or run.step == config.rl.steps or stopping:
            log.write()
            save(session, checkpoints, run)
        if log.stop is not None:
            end_on_finding(session, checkpoints, run, log.stop)
        if stopping:
            with clock.watch("checkpoint"):
                checkpoints.wait()
            session.interrupts.raise_if_received()
    log.write()
    with clock.watch("checkpoint"):
        for writer in (checkpoints, best):
            if writer is not None:
                writer.wait()
                writer.close()
    return run.state


def train_reward_model(session: Session, run: Run, drawn: Drawn) -> None:
    if run.reward_model is None:
        return
    with session.clock("reward_model"):
        numbers = run.reward_model.learn(run.step, drawn.graded)
    if numbers:
        session.sinks.write(REWARD_MODEL, run.step, numbers)


def is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def draw(
    session: Session,
    run: Run,
    base_params: Params,
    shape: BatchShape,
    *,
    meanwhile: Callable[[], None],
) -> tuple[Drawn, list[Minibatch]]:
    """What the step learns from, packed."""
    config, decode_text = session.setup.config, session.setup.decode_text
    with session.clock("rollout"):
        ready = ready_policy(session.setup, run, base_params)

    def pack(graded: Graded | None) -> tuple[Graded | None, list[Minibatch]]:
        if run.reward_model is not None and graded is not None:
            graded = run.reward_model.paid(graded)
        return graded, make_minibatches(config, shape, graded, run.step, decode_text)

    if not config.rl.asynchronous:
        return ahead.draw(session, ready, run.feed, run.step, pack, meanwhile=meanwhile)
    drawn, minibatches, run.ahead = ahead.draw_ahead(
        session, ready, run.feed, run.step, pack, now=run.ahead, meanwhile=meanwhile
    )
    return drawn, minibatches


def ready_policy(setup: Setup, run: Run, base_params: Params) -> Params:
    """Made ready once, for the rollout and the evaluation of one policy and for two rollouts."""
    if run.ready is None:
        run.ready = make_ready(setup, setup.policy(base_params, run.state.params))
    return run.ready


def next_feed(setup: Setup, run: Run, drawn: Drawn, updates: int) -> Feed:
    """Of the step that comes, `run.step`."""
    began = [] if drawn.carried is None else drawn.carried.began.tolist()
    if run.ahead is not None:  # these samples, and those of the carried groups to come, are older
        began = [ahead.oldest_step(run.ahead, run.step), *(max(0, step - 1) for step in began)]
    oldest = min([run.step, *began])
    history = (*run.feed.updates, run.feed.updates[-1] + updates)
    rates = run.feed.rates
    if setup.config.data.curriculum != "none":
        known = {at: rate for at, rate in drawn.rates.items() if np.isfinite(rate)}
        rates = {**rates, **{setup.question_number(at): rate for at, rate in known.items()}}
    return Feed(drawn.next, history[oldest - run.step - 1 :], drawn.carried, rates)


def learn(
    setup: Setup,
    run: Run,
    base_params: Params,
    update_at: Callable[[float], UpdateFn],
    drawn: Drawn,
    minibatches: list[Minibatch],
) -> list[Stats]:
    """The step's updates, under way."""
    config = setup.config
    run.ready = None  # the update needs the memory
    temperature = setup.sampling_at(run.step).temperature
    update, stats = update_at(temperature), []
    # One after the other, unless something wants all of them before the first update.
    batches = (
        with_reference(setup, run.reference, setup.place(each.batch), each.used, temperature)
        for each in minibatches
    )
    if config.old_policy == "before":
        policy = setup.policy(base_params, run.state.params)
        batches = [
            with_old_policy(setup, policy, batch, minibatch.used, temperature)
            for batch, minibatch in zip(batches, minibatches, strict=True)
        ]
    of_step: Stats = {}
    if run.critic is not None:
        batches, of_step = run.critic.advise(list(batches), [each.used for each in minibatches])
    for batch, minibatch in zip(batches, minibatches, strict=True):
        used, update_stats = minibatch.used, of_step
        if config.rl.dynamic.mode == "zvp" and drawn.graded is not None:
            policy = setup.policy(base_params, run.state.params)
            verdicts_P = flat_verdicts(config, drawn.graded)
            batch = with_zero_variance(setup, policy, batch, used, temperature, verdicts_P)
        if run.critic is not None:
            update_stats = update_stats | run.critic.learn(run.step, batch, used)
        if not config.critic.learns_alone(run.step):
            run.state, policy_stats = update(run.state, batch, np.int32(used))
            update_stats = update_stats | policy_stats
        stats.append(update_stats)
    return stats


def measure(
    session: Session,
    log: StepLog,
    run: Run,
    optimizer: optax.GradientTransformation,
    evaluate: EvaluateFn,
    base_params: Params,
) -> bool:
    """Measure the policy on what is held out; start anew from it where it no longer gets better.

    Returns whether it was never as good.
    """
    setup = session.setup
    with session.clock("evaluate"):
        if setup.config.rollout.int8_weights:  # it is the policy itself that is measured
            policy = setup.policy(base_params, run.state.params)
            numbers = evaluate(rollout.prepare_params(setup.module.config, policy))
        else:
            numbers = evaluate(ready_policy(setup, run, base_params))
    session.sinks.write(EVALUATE, run.step, numbers)
    log.note_held_out(numbers["accuracy"])
    books, patience = run.books, setup.config.rl.reset_on_stall
    better = numbers["accuracy"] > books["best_accuracy"]
    books["best_accuracy"] = max(numbers["accuracy"], books["best_accuracy"])
    books["stalled"] = 0 if better else books["stalled"] + 1
    if patience and books["stalled"] >= patience:
        session.say(
            f"rl step {run.step}: no better accuracy in {patience} evaluations; the policy becomes "
            "the reference, the optimizer starts anew"
        )
        books["stalled"] = 0
        if setup.config.objective.needs_reference:
            run.reference = jax.tree.map(jnp.copy, run.state.params)
        run.ready = None  # some of it can be the policy's own arrays, which are taken over
        fresh = fresh_state(setup, optimizer, run.state.params)
        run.state = dataclasses.replace(fresh, step=run.state.step)
    return better


EVALUATE, REWARD_MODEL = "evaluate", "reward_model"  # as phases of the log
BEST = "best"  # checkpoints of the policy with the highest held-out accuracy


def write_or_end(session: Session, checkpoints: Checkpoints, run: Run, log: StepLog) -> None:
    log.write()
    if log.stop is not None:
        end_on_finding(session, checkpoints, run, log.stop)


def end_on_finding(
    session: Session, checkpoints: Checkpoints, run: Run, finding: doctor.Finding
) -> NoReturn:
    checkpoints.wait()
    if run.step not in checkpoints.steps():
        save(session, checkpoints, run)
        checkpoints.wait()
    checkpoints.close()
    raise UserError(
        f"ended by config.logging.stop_on: {finding.text} {finding.advice} All steps are saved; to "
        f"go on all the same, run this again without {finding.name} in logging.stop_on"
    )


def save(session: Session, checkpoints: Checkpoints, run: Run) -> None:
    """Everything that a process needs to go on as if it were this one."""
    config = session.setup.config
    state = dataclasses.replace(
        run.state,
        reference=run.reference if config.keeps_reference else None,
        carried=carried_arrays(config, run.feed.carried) if config.rl.dynamic.carry else None,
        ahead=ahead.ahead_arrays(session.setup, run.ahead) if config.rl.asynchronous else None,
        critic=None if run.critic is None else run.critic.state,
        reward_model=None if run.reward_model is None else run.reward_model.saved(),
    )
    feed = {
        "next_prompt": run.feed.next,
        "updates": list(run.feed.updates),
        "rates": sorted(run.feed.rates.items()),
        **({"ahead": ahead.ahead_notes(run.ahead)} if config.rl.asynchronous else {}),
    }
    with session.clock("checkpoint"):
        checkpoints.save(run.step, state, {**run.books, **feed})


def start_or_resume(
    session: Session,
    checkpoints: Checkpoints,
    optimizer: optax.GradientTransformation,
    base_params: Params,
) -> Run:
    """The newest checkpoint's run, or a new one from the base."""
    setup = session.setup
    config = setup.config
    restored = checkpoints.restore(abstract_rl_state(setup, optimizer))
    origin = setup.origin(base_params)
    critic_state, reward_model = None, None
    if restored is None:
        if config.rl.has_critic:  # while the base is still there
            critic_state = fresh_critic(setup, base_params)
        if config.reward_model.every:
            reward_model = fresh_reward_model(setup, base_params)
        params = initial_trained(setup, base_params)
        state = fresh_state(setup, optimizer, params, adapters=setup.trains_adapters)
        step, saved = 0, {}
    else:
        step, state, saved = restored
        critic_state = state.critic
        if state.reward_model is not None:
            reward_model = RewardModel(setup, state.reward_model["state"], state.reward_model)
        require_same_origin(origin, saved.get("origin", origin))
    books = {"num_tokens": 0, "best_accuracy": -1.0, "stalled": 0, "origin": origin, **saved}
    carried = None
    if config.rl.dynamic.carry:
        found = state.carried
        width = setup.sampling_at(step).max_tokens
        carried = no_groups(config, width) if found is None else read_carried(setup, found)
    feed = Feed(
        next=books.pop("next_prompt", 0),
        updates=tuple(books.pop("updates", (step * config.rl.updates,))),
        carried=carried,
        rates=dict(books.pop("rates", ())),
    )
    notes = books.pop("ahead", None)
    waiting = ahead.read_ahead(setup, feed, step, state.ahead, notes) if notes else None
    reference = None
    if config.objective.needs_reference:
        reference = base_params if state.reference is None else state.reference
    if 0 < step < config.rl.steps:
        session.say(f"rl goes on at step {step} of {config.rl.steps}")
    session.forget_after(PHASE, step)
    session.forget_after(EVALUATE, step + 1)  # of the policy after so many steps
    session.forget_after(REWARD_MODEL, step + 1)
    aside = ("reference", "carried", "ahead", "critic", "reward_model")
    state = dataclasses.replace(state, **dict.fromkeys(aside))
    critic = None if critic_state is None else Critic(setup, critic_state)
    return Run(step, state, reference, feed, books, waiting, critic, reward_model)


def abstract_rl_state(setup: Setup, optimizer: optax.GradientTransformation) -> TrainState:
    """What a checkpoint holds, as `save` puts it together."""
    config = setup.config
    state = abstract_state(setup, optimizer, adapters=setup.trains_adapters)
    if config.keeps_reference:
        state = dataclasses.replace(state, reference=state.params)
    replicated = jax.sharding.NamedSharding(setup.mesh, jax.P())
    groups = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated)
        for name, leaf in carried_arrays(config, None).items()
    }
    return dataclasses.replace(
        state,
        carried=groups if config.rl.dynamic.carry else None,
        ahead=groups if config.rl.asynchronous else None,
        critic=abstract_critic(setup) if config.rl.has_critic else None,
        reward_model=abstract_reward_model(setup) if config.reward_model.every else None,
    )


def initial_trained(setup: Setup, base_params: Params) -> Params:
    """What an update may write over: adapters, or the base itself where nobody reads it again."""
    if setup.trains_adapters:
        return fresh_params(setup, adapters=True)
    if setup.config.objective.needs_reference:
        return jax.tree.map(jnp.copy, base_params)
    return base_params


def replace_reference(setup: Setup, run: Run) -> None:
    """R1 replaces its reference by the policy of the moment now and then."""
    if run.step and is_due(setup.config.rl.reference_every, run.step):
        # A copy: updates write over the policy's own.
        run.reference = jax.tree.map(jnp.copy, run.state.params)


def make_rl_update(
    setup: Setup,
    optimizer: optax.GradientTransformation,
    base_params: Params,
    temperature: float,
) -> UpdateFn:
    config = setup.config
    loss = make_policy_loss(
        setup.module,
        config.objective,
        temperature=temperature,
        on_policy=config.old_policy == "now",
        positive_nll=config.rl.positive_nll,
        auxiliary=config.auxiliary,
    )
    weights = make_policy_weights(config.objective)
    if setup.trains_adapters:
        return make_adapter_update(
            loss, weights, optimizer, base_params, config.lora.scale, lanes=setup.lanes
        )
    return make_update(
        loss, weights, optimizer, rebalance=config.auxiliary.rebalance, lanes=setup.lanes
    )
