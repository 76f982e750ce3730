"""DAPO's Table 1 on mini-Countdown: every rung of configs/dapo_progressive.py, for several seeds.

python benchmarks/dapo_progressive.py --seeds=0,1,2 --workdir=runs/dapo_progressive

Runs one after the other, each in a process of its own; what is done is not done again, and a run
that was stopped goes on. After each one `dapo_progressive.json` says all that is known, and the
table is printed: mean over seeds and the half width of its 95 % interval (Student's t).
"""

import json
import math
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parent / "configs" / "dapo_progressive.py"

# The rungs, and what the paper measured: AIME24 avg@32, Qwen2.5-32B.
PAPER = {
    "naive": 30,
    "overlong_filter": 36,
    "clip_higher": 38,
    "soft_punishment": 41,
    "token_loss": 42,
    "dynamic_sampling": 50,
}
# 97.5 % quantiles of Student's t with so many degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "which seeds")
WORKDIR = flags.DEFINE_string("workdir", "runs/dapo_progressive", "folder of all runs")
STEPS = flags.DEFINE_integer("steps", 200, "RL steps of a run")
OUT = flags.DEFINE_string("out", str(HERE / "dapo_progressive.json"), "where the numbers go")


def main(_: Any) -> None:
    folder = pathlib.Path(WORKDIR.value)
    runs = [(seed, rung) for seed in SEEDS.value for rung in PAPER]
    results: dict[str, dict[str, Any]] = {rung: {} for rung in PAPER}
    for number, (seed, rung) in enumerate(runs, 1):
        base = folder / f"base_{seed}"
        train("naive", base, seed, 0)
        start = time.perf_counter()
        train(f"{rung},{base}", folder / f"{rung}_{seed}", seed, STEPS.value)
        results[rung][seed] = read(folder / f"{rung}_{seed}")
        say = f"{number}/{len(runs)}  {rung} seed {seed}  {time.perf_counter() - start:.0f} s"
        print(f"{say}  accuracy {results[rung][seed]['accuracy']:.3f}", flush=True)
        write(results)
    print(table(results))


def train(argument: str, workdir: pathlib.Path, seed: str, steps: int) -> None:
    command = [sys.executable, "-m", "r1jax", "train", f"--config={CONFIG}:{argument}"]
    command += [f"--workdir={workdir}", f"--config.seed={seed}", f"--config.rl.steps={steps}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (workdir / "summary.json").is_file():
        raise SystemExit(f"{workdir}: the run failed\n{done.stdout[-500:]}{done.stderr[-500:]}")


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """What one run came to: the numbers of its end, and its held-out accuracy on the way."""
    summary = json.loads((workdir / "summary.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "rl"]
    after = summary["after"]
    return {
        "before": summary["before"]["accuracy"],
        **{name: after[name] for name in ("accuracy", "greedy_accuracy", "mean_length")},
        "cut": statistics.fmean(line.get("completions/clipped_ratio", 0) for line in steps[-20:]),
        "entropy": statistics.fmean(line.get("entropy") or 0 for line in steps[-20:]),
        "sampled_tokens": steps[-1]["num_tokens"],
        "curve": {line["step"]: line["accuracy"] for line in lines if line["phase"] == "evaluate"},
        "seconds": summary["seconds"],
    }


def write(results: dict[str, dict[str, Any]]) -> None:
    path = pathlib.Path(OUT.value)
    rungs = {
        rung: {**interval([run["accuracy"] for run in seeds.values()]), "seeds": seeds}
        for rung, seeds in results.items()
        if seeds
    }
    text = {"steps": STEPS.value, "paper": PAPER, "rungs": rungs}
    path.with_suffix(".draft").write_text(json.dumps(text, indent=1) + "\n")
    path.with_suffix(".draft").replace(path)


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and half width; no width from a single run."""
    count = len(values)
    half = T[count - 1] * statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return {"mean": statistics.fmean(values), "half_width": half}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':<18}{'accuracy':>10}{'+-':>8}{'length':>8}{'paper':>7}"]
    for rung, seeds in results.items():
        found = interval([run["accuracy"] for run in seeds.values()])
        half = "-" if found["half_width"] is None else f"{found['half_width']:.3f}"
        length = statistics.fmean(run["mean_length"] for run in seeds.values())
        lines.append(f"{rung:<18}{found['mean']:>10.3f}{half:>8}{length:>8.1f}{PAPER[rung]:>7}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
