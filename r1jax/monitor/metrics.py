"""Numbers of a step under the names TRL's users know, and the ones R1's claims need."""

from collections.abc import Callable, Mapping

import numpy as np

from r1jax.monitor.passk import maj_at_k, pass_at_k
from r1jax.types import Graded


def rollout_metrics(
    graded: Graded, tasks: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Rewards, lengths and accuracies of one step's samples. `tasks`: which rows each has, [R]."""
    rollouts = graded.rollouts
    group = rollouts.samples_per_prompt
    lengths, finished = rollouts.lengths, rollouts.finished
    valid = graded.valid
    spread_P = group_spread(graded.rewards.reshape(-1, group), valid.reshape(-1, group))
    spread_P = spread_P if group > 1 else spread_P[:0]  # one reward has no spread
    metrics = {
        "reward": mean(graded.rewards, valid),
        "reward_std": mean(spread_P),
        "frac_reward_zero_std": mean(spread_P == 0),
        "completions/mean_length": mean(lengths),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/mean_terminated_length": mean(lengths, finished),
        "completions/min_terminated_length": extreme(np.min, lengths[finished]),
        "completions/max_terminated_length": extreme(np.max, lengths[finished]),
        "completions/clipped_ratio": mean(~finished),
        "completions/mean_length_correct": mean(lengths, graded.correct),
        "completions/mean_length_wrong": mean(lengths, ~graded.correct),
        "mean_probability": mean_probability(rollouts.logp, lengths),
        "reward/masked": mean(~valid),
        **accuracy_metrics(graded.correct, graded.reasoned),
        f"pass@{group}": pass_at_k(graded.correct.reshape(-1, group), group),
    }
    metrics |= task_metrics(graded)
    metrics |= {f"grading/{name}": value for name, value in graded.counts.items()}
    for name, values in graded.parts.items():
        had = valid & np.isfinite(values)  # a part that not all tasks have is not a number there
        metrics[f"rewards/{name}/mean"] = mean(values, had)
        metrics[f"rewards/{name}/std"] = float(values[had].std()) if had.any() else float("nan")
    if graded.steps:
        counts = np.array([len(steps) for steps in graded.steps])
        sums = np.array([sum(reward for _, reward in steps) for steps in graded.steps])
        metrics["steps/count"] = mean(counts, valid)
        metrics["steps/reward"] = float(sums[valid].sum()) / max(int(counts[valid].sum()), 1)
    for task, rows in (tasks or {}).items():
        metrics |= {
            f"tasks/{task}/share": mean(rows),
            f"tasks/{task}/reward": mean(graded.rewards, rows & valid),
            f"tasks/{task}/accuracy": mean(graded.correct, rows),
            f"tasks/{task}/mean_length": mean(lengths, rows),
        }
    return metrics


def task_metrics(graded: Graded) -> dict[str, float]:
    """Each task by itself, in a step that mixes several."""
    rollouts = graded.rollouts
    tasks_P = [str(item.get("task", "")) for item in rollouts.prompts.items]
    tasks_R = np.repeat(tasks_P, rollouts.samples_per_prompt)
    names = sorted(set(tasks_P))
    metrics = {}
    for name in names if len(names) > 1 else ():
        of_task = tasks_R == name
        metrics[f"tasks/{name}/accuracy"] = mean(graded.correct, of_task)
        metrics[f"tasks/{name}/reward"] = mean(graded.rewards, of_task & graded.valid)
        metrics[f"tasks/{name}/mean_length"] = mean(rollouts.lengths, of_task)
    return metrics


def accuracy_metrics(correct: np.ndarray, reasoned: np.ndarray) -> dict[str, float]:
    """Does reasoning pay? Accuracy with it and without it, over the same prompts."""
    return {
        "accuracy": mean(correct),
        "accuracy_with_reasoning": mean(correct, reasoned),
        "accuracy_without_reasoning": mean(correct, ~reasoned),
        "reasoning_share": mean(reasoned),
    }


def evaluation_metrics(graded: Graded, *, k: int) -> dict[str, float]:
    """What `summary.json` says of a policy, from several samples of each held-out prompt."""
    group = graded.rollouts.samples_per_prompt
    correct_PG = graded.correct.reshape(-1, group)
    answers_PG = [graded.answers[i : i + group] for i in range(0, len(graded.answers), group)]
    return {
        **accuracy_metrics(graded.correct, graded.reasoned),
        "mean_length": mean(graded.rollouts.lengths),
        "pass_at_k": pass_at_k(correct_PG, k),
        "maj_at_k": maj_at_k(answers_PG, correct_PG, k),
        "k": k,
    }


def mean(values: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean over the chosen rows; NaN where there are none (JSON: null)."""
    if where is not None:
        values = values[where]
    return float(values.mean()) if len(values) else float("nan")


def extreme(which: Callable[[np.ndarray], np.number], values: np.ndarray) -> float:
    return float(which(values)) if len(values) else float("nan")


def group_spread(rewards_PG: np.ndarray, valid_PG: np.ndarray) -> np.ndarray:
    """Standard deviation of each prompt's judged rewards; exactly 0 where all of them are equal."""
    count_P1 = valid_PG.sum(axis=1, keepdims=True)
    mean_P1 = np.where(valid_PG, rewards_PG, 0).sum(axis=1, keepdims=True) / np.maximum(count_P1, 1)
    squares_PG = np.where(valid_PG, np.square(rewards_PG - mean_P1), 0)
    spread_P = np.sqrt(squares_PG.sum(axis=1) / np.maximum(count_P1[:, 0] - 1, 1))
    highest_P = np.where(valid_PG, rewards_PG, -np.inf).max(axis=1)
    lowest_P = np.where(valid_PG, rewards_PG, np.inf).min(axis=1)
    return np.where(highest_P > lowest_P, spread_P, 0)


def mean_probability(logp: np.ndarray, lengths: np.ndarray) -> float:
    """What the sampler gave the tokens it chose, on average; the mirror of entropy."""
    taken = np.arange(logp.shape[1])[None] < lengths[:, None]
    return float(np.exp(logp[taken]).mean())


def finite_or_none(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON can say it."""
    return {
        key: value if not isinstance(value, float) or np.isfinite(value) else None
        for key, value in metrics.items()
    }
