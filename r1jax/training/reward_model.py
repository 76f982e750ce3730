"""Iterative GRPO (DeepSeekMath 2402.03300, algorithm 1): a reward model that goes on learning.

    for each iteration:  reference <- policy                          rl.reference_every
                         so many steps, rewarded by the model         `RewardModel.paid`
                         the model learns from pairs that the policy  `RewardModel.learn`
                         wrote, a tenth of them of earlier iterations

A pair is a right and a wrong answer to one prompt, by the verdict. The model begins as the base
with a head of zeros, whose scores are all 0: the first iteration goes by the other rewards.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from r1jax.config import Config
from r1jax.models import Transformer, heads, init_params
from r1jax.models.axes import logical_axes
from r1jax.models.transformer import without_head
from r1jax.objectives.preference import bradley_terry_loss
from r1jax.training.critic import init_scored
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import Setup, with_shardings
from r1jax.types import Graded, Params, Stats, TrainState

NAME = "reward_model"  # as a part of the reward, and as a phase of the log
Pair = tuple[np.ndarray, np.ndarray]  # tokens of prompt and answer: of the better one, the other


class RewardModel:
    """A run's reward model: its state, the pairs it remembers, and what reads and changes these."""

    def __init__(self, setup: Setup, state: TrainState, saved: Mapping[str, Any] | None) -> None:
        self.state, self._config = state, setup.config
        self.old, self.new = ([], []) if saved is None else read_pairs(saved)
        module, _ = without_head(setup.module, {})
        replicated = jax.sharding.NamedSharding(setup.mesh, jax.P())  # each process reads them all
        self._score = jax.jit(functools.partial(score, module), out_shardings=replicated)
        self._update = make_pair_update(module, reward_optimizer(setup.config))

    def paid(self, graded: Graded) -> Graded:
        """With its scores among the rewards."""
        rollouts, rows = graded.rollouts, range(len(graded.rewards))
        texts = [text_of(graded, row) for row in rows]
        at_once = 2 * self._config.reward_model.pairs
        scores = [
            np.asarray(self._score(self.state.params, *self._padded(texts[first:], at_once)))
            for first in range(0, len(texts), at_once)
        ]
        scores_R = np.concatenate(scores)[: len(rollouts.lengths)].astype(np.float32)
        weight = np.float32(self._config.reward_model.weight)
        rewards = np.where(graded.valid, graded.rewards + weight * scores_R, 0)
        parts = {**graded.parts, NAME: scores_R}
        return dataclasses.replace(graded, rewards=rewards.astype(np.float32), parts=parts)

    def learn(self, step: int, graded: Graded | None) -> dict[str, float]:
        """Remember the step's pairs; at an iteration's end, when `step` are done, learn from them.

        What that gave: none at other steps.
        """
        options = self._config.reward_model
        self.new += [] if graded is None else pairs_of(graded)
        if step % options.every or not self.new:
            return {}
        stats = []
        for update in range(options.updates):
            rng = np.random.default_rng([self._config.seed, step, update, len(self.new)])
            pairs = choose(self.old, self.new, options.pairs, options.replay, rng)
            texts = [text for pair in pairs for text in pair]
            self.state, told = self._update(self.state, *self._padded(texts, len(texts)))
            stats.append(told)
        found = [{name: float(value) for name, value in s.items()} for s in jax.device_get(stats)]
        numbers = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        numbers |= {"new_pairs": float(len(self.new)), "old_pairs": float(len(self.old))}
        self.old, self.new = [*self.old, *self.new][-options.kept :], []
        return numbers

    def saved(self) -> dict[str, Any]:
        return {"state": self.state, **pair_arrays(self._config, self.old, self.new)}

    def _padded(self, texts: Sequence[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.zeros((rows, text_room(self._config)), np.int32)
        lengths = np.ones(rows, np.int32)
        for row, text in enumerate(texts[:rows]):
            tokens[row, : len(text)], lengths[row] = text, len(text)
        return tokens, lengths


def text_room(config: Config) -> int:
    return config.data.max_prompt_tokens + config.sampling.max_tokens


def text_of(graded: Graded, row: int) -> np.ndarray:
    rollouts = graded.rollouts
    prompt = rollouts.prompts.tokens[row // rollouts.samples_per_prompt]
    return np.concatenate([prompt, rollouts.response(row)])


def pairs_of(graded: Graded) -> list[Pair]:
    """The first right and the first wrong answer to each prompt that has both."""
    group = graded.rollouts.samples_per_prompt
    pairs = []
    for first in range(0, len(graded.rewards), group):
        rows = [row for row in range(first, first + group) if graded.valid[row]]
        right = next((row for row in rows if graded.correct[row]), None)
        wrong = next((row for row in rows if not graded.correct[row]), None)
        if right is not None and wrong is not None:
            pairs.append((text_of(graded, right), text_of(graded, wrong)))
    return pairs


def choose(
    old: Sequence[Pair], new: Sequence[Pair], count: int, replay: float, rng: np.random.Generator
) -> list[Pair]:
    """`count` pairs at random, a share of them of those that were learned from before."""
    replayed = round(replay * count) if old else 0
    chosen = [old[at] for at in rng.integers(len(old), size=replayed)] if replayed else []
    return chosen + [new[at] for at in rng.integers(len(new), size=count - replayed)]


def score(
    module: Transformer, params: Params, tokens: Int[Array, "R T"], lengths: Int[Array, " R"]
) -> Float[Array, " R"]:
    """The head's number at each text's last token."""
    return jnp.take_along_axis(
        heads.scores(module, params, tokens), lengths[:, None] - 1, axis=1
    ).squeeze(1)


def make_pair_update(
    module: Transformer, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, Any], tuple[TrainState, Stats]]:
    """One update from texts that are pairs, the better one first; the state's memory is reused."""

    def loss_fn(params: Params, tokens: Array, lengths: Array) -> tuple[Array, Stats]:
        scores_B2 = score(module, params, tokens, lengths).reshape(-1, 2)
        return bradley_terry_loss(scores_B2[:, 0], scores_B2[:, 1])

    def update(state: TrainState, tokens: Array, lengths: Array) -> tuple[TrainState, Stats]:
        (loss, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, tokens, lengths
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        stats = {name: sums[f"{name}_sum"] / sums["pairs"] for name in ("accuracy", "margin")}
        stats |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, state.step + 1), stats

    return jax.jit(update, donate_argnums=0)


def reward_optimizer(config: Config) -> optax.GradientTransformation:
    options = config.reward_model
    return make_optimizer(options.optim, max(1, config.rl.steps // options.every) * options.updates)


# In checkpoints: arrays of one shape, however many pairs there are.


def pair_arrays(config: Config, old: Sequence[Pair], new: Sequence[Pair]) -> dict[str, np.ndarray]:
    options = config.reward_model
    room = options.kept + options.every * config.rl.prompts_per_step
    tokens = np.zeros((room, 2, text_room(config)), np.int32)
    lengths = np.zeros((room, 2), np.int32)
    for at, pair in enumerate([*old, *new]):
        for side, text in enumerate(pair):
            tokens[at, side, : len(text)], lengths[at, side] = text, len(text)
    return {
        "tokens": tokens,
        "lengths": lengths,
        "counts": np.array([len(old), len(new)], np.int32),
    }


def read_pairs(saved: Mapping[str, Any]) -> tuple[list[Pair], list[Pair]]:
    tokens, lengths, counts = (np.asarray(saved[name]) for name in ("tokens", "lengths", "counts"))
    pairs = [
        (tokens[at, 0, : lengths[at, 0]], tokens[at, 1, : lengths[at, 1]])
        for at in range(counts.sum())
    ]
    return pairs[: counts[0]], pairs[counts[0] :]


def abstract_reward_model(setup: Setup) -> dict[str, Any]:
    """What a checkpoint holds of it: nothing is computed."""
    optimizer = reward_optimizer(setup.config)
    shapes = jax.eval_shape(
        lambda: init_scored(setup.module, optimizer, init_params(setup.module, 0))
    )
    replicated = jax.sharding.NamedSharding(setup.mesh, jax.P())
    arrays = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated)
        for name, leaf in pair_arrays(setup.config, (), ()).items()
    }
    state = with_shardings(setup, shapes, optimizer, logical_axes(shapes.params))
    return {"state": state, **arrays}


def fresh_reward_model(setup: Setup, base_params: Params) -> RewardModel:
    """A copy of the policy's base with a head of zeros in place of the vocabulary's."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_reward_model(setup)["state"])
    make = functools.partial(init_scored, setup.module, reward_optimizer(setup.config))
    return RewardModel(setup, jax.jit(make, out_shardings=shardings)(base_params), None)
