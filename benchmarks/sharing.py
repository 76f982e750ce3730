"""When a rollout should share a prompt's cache among its responses: the rule of
`rollout.plan.choose_sharing`, measured. Prints one JSON line for each shape.

python benchmarks/sharing.py --workload=small --prompt_lens=128,512 --response_lens=64,256

Both ways run in turn in one process, on the same prompts. `ratio` is the rate of tokens with shared
prompts over that without, the median of pairs; `differ` how many responses were not the same
(docs/rollout.md says why there can be any); `chosen` is what `auto` does.
"""

import itertools
import json
import statistics
import time
from typing import Any, Literal

import common
import jax
import numpy as np
from absl import app, flags
from peers.workloads import WORKLOADS

from r1jax import rollout
from r1jax.rollout import plan
from r1jax.types import Rollouts

PROMPT_LENS = flags.DEFINE_list("prompt_lens", ["64", "128", "256", "512"], "tokens of a prompt")
RESPONSE_LENS = flags.DEFINE_list("response_lens", ["64", "128", "256"], "most of a response")
PROMPTS = flags.DEFINE_integer("prompts", 8, "prompts of a rollout")
SAMPLES = flags.DEFINE_list("samples", ["8"], "responses of a prompt")
MEAN_LENS = flags.DEFINE_list(
    "mean_lens", ["0.5"], "mean length of a response that nothing cuts off, of the most; 0 = no end"
)
Way = Literal["always", "never"]
SEEDS = flags.DEFINE_integer("seeds", 5, "pairs of rollouts that count, each on prompts of its own")


def main(_: Any) -> None:
    module, params = common.make_model(WORKLOADS[common.WORKLOAD.value])
    decode_params = rollout.prepare_params(module.config, params)
    for shape in itertools.product(
        map(int, PROMPT_LENS.value),
        map(int, RESPONSE_LENS.value),
        map(int, SAMPLES.value),
        map(float, MEAN_LENS.value),
    ):
        print(json.dumps(compare(module, decode_params, *shape)), flush=True)
        jax.clear_caches()  # a process may have so many mappings, and programs are hundreds of them


def compare(
    module, decode_params, prompt_len: int, response_len: int, samples: int, mean: float
) -> dict[str, Any]:
    words = module.config.vocab_size
    ends = round(words / (mean * response_len)) if mean else 0
    stop_ids = tuple(range(ends))
    sampling = rollout.SamplingParams(max_tokens=response_len, stop_ids=stop_ids)
    runs: dict[Way, list[tuple[float, rollout.InFlight]]] = {"always": [], "never": []}
    for seed, (mode, done) in itertools.product(range(SEEDS.value + 1), runs.items()):
        shape = (PROMPTS.value, prompt_len)
        prompts = np.random.default_rng(seed).integers(ends, words, shape)
        start = time.perf_counter()
        run = rollout.dispatch(
            module,
            decode_params,
            rollout.as_prompt_batch(tuple(prompts)),
            sampling=sampling,
            samples_per_prompt=samples,
            seed=common.SEED,
            step=seed,
            config=rollout.RolloutConfig(share_prompts=mode),
        )
        run.collect()
        done.append((time.perf_counter() - start, run))
    pairs = list(zip(runs["always"], runs["never"], strict=True))[1:]  # the first compile
    ratios = sorted(
        rate(shared, seconds) / rate(copied, others)
        for (seconds, shared), (others, copied) in pairs
    )
    chosen = plan.choose_sharing(
        "auto", plan.prompt_bucket(prompt_len), response_len, may_end=bool(stop_ids)
    )
    return {
        "workload": common.WORKLOAD.value,
        "prompt_len": prompt_len,
        "response_len": response_len,
        "samples": samples,
        "differ": sum(different(x.rollouts, y.rollouts) for (_, x), (_, y) in pairs),
        "mean_len": round(statistics.mean(float(x.rollouts.lengths.mean()) for _, (_, x) in pairs)),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(x, 3) for x in ratios],
        "chosen": "shared" if chosen else "copied",
    }


def rate(run: rollout.InFlight, seconds: float) -> float:
    return float(run.rollouts.lengths.sum()) / seconds


def different(one: Rollouts, other: Rollouts) -> int:
    return int((one.tokens != other.tokens).any(axis=1).sum())


if __name__ == "__main__":
    app.run(main)
