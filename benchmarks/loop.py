"""What the steps of `r1jax train` spend outside of rollout and update, on a workload's shape.

    python benchmarks/loop.py --workload=small [--steps=14]

The whole command, from random parameters: sampling, grading, packing, updates, metrics on disk.
Nobody waits for an update before the next rollout, whose seconds therefore hold the update's. The
last step is left out: its update is waited for. Prints one JSON line.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import common
from absl import app
from peers.workloads import WORKLOADS

UNCOUNTED = 2  # steps at the start
WORK = ("rollout", "update")


def config(steps: int) -> dict[str, Any]:
    workload = WORKLOADS[common.WORKLOAD.value]
    names = ("layers", "width", "heads", "kv_heads", "head_dim", "ffn")
    model = {name: getattr(workload, name) for name in names}
    length = workload.prompt_len
    return {
        "model": {**model, "vocab_size": workload.vocab, "qk_norm": True},
        "data": {"task": "running_sum", "size": length - 4, "max_prompt_tokens": length},
        "rl": {
            "steps": steps,
            "prompts_per_step": workload.prompts,
            "samples_per_prompt": workload.samples,
        },
        "sampling": {"max_tokens": workload.response_len},
        "eval": {"prompts": 2, "samples": 2, "k": 2},
        "mesh": {"data": 1},
    }


def main(_: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        values = config(common.STEPS.value)
        (folder / "config.py").write_text(f"def get_config():\n    return {values}\n")
        command = [sys.executable, "-m", "r1jax", "train", f"--config={folder / 'config.py'}"]
        command.append(f"--workdir={folder / 'run'}")
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        log = (folder / "run/metrics.jsonl").read_text().splitlines()
    steps = [step for step in map(json.loads, log) if step["phase"] == "rl"][UNCOUNTED:-1]
    if not steps:
        raise SystemExit(f"--steps={common.STEPS.value}: give at least {UNCOUNTED + 2}")
    seconds = {
        key.removeprefix("time/"): statistics.median(step[key] for step in steps)
        for key in steps[0]
        if key.startswith("time/")
    }
    shares = [
        1 - sum(step[f"time/{phase}"] for phase in WORK) / step["step_time"] for step in steps
    ]
    line = {
        "workload": common.WORKLOAD.value,
        "steps": len(steps),
        "step_s": round(statistics.median(step["step_time"] for step in steps), 3),
        "seconds": {phase: round(value, 5) for phase, value in seconds.items()},
        "outside_share": round(statistics.median(shares), 5),
        "outside_share_most": round(max(shares), 5),
        "compiled": steps[-1]["compiles"] - steps[0]["compiles"],
    }
    print(json.dumps(line | common.machine()))


if __name__ == "__main__":
    app.run(main)
