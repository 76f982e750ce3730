"""Seconds of a whole RL step: sampling, then the update phase as `update.py` times it.

python benchmarks/step.py --workload=small
python benchmarks/step.py --workload=small --peers --trl_python=... --tunix_python=...
"""

import json
import time
from typing import Any

import common
import numpy as np
from absl import app
from peers.workloads import WORKLOADS
from update import Learner

from r1jax import rollout
from r1jax.types import PromptBatch


def main(_: Any) -> None:
    if common.PEERS.value:
        common.run_with_peers(
            __file__, ["rollout_tok_s", "update_s", "step_s", "step_tok_s", "peak_gb"]
        )
        return
    workload = WORKLOADS[common.WORKLOAD.value]
    learner = Learner(workload)
    sampling = rollout.SamplingParams(
        max_tokens=workload.response_len, stop_ids=tuple(workload.eos_ids)
    )
    times, tokens = [], []
    for number in range(common.STEPS.value):
        prompts = common.make_prompts(workload, number)
        start = time.perf_counter()
        rollouts = rollout.generate(
            learner.module,
            learner.state.params,
            PromptBatch(np.arange(len(prompts)), prompts, ({},) * len(prompts)),
            sampling=sampling,
            samples_per_prompt=workload.samples,
            seed=common.SEED,
            step=number,
        )
        sampled = time.perf_counter()
        learner.learn(rollouts, number)
        times.append((sampled - start, time.perf_counter() - sampled))
        tokens.append(int(rollouts.lengths.sum()))
    steady = slice(min(2, len(times) - 1), None)
    line = common.report(
        first_s=sum(times[0]),
        rollouts=[rollout_s for rollout_s, _ in times][steady],
        updates=[update_s for _, update_s in times][steady],
        tokens=tokens[steady],
    )
    print(json.dumps(line))


if __name__ == "__main__":
    app.run(main)
