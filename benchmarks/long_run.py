"""Host memory over many tiny steps: of the trainer and of its workers, by step, with a plot.

    python benchmarks/long_run.py [--rl_steps=2000]

A run with what could keep something from step to step: dynamic sampling with leftovers, grading in
workers, evaluations, checkpoints, completions on disk. Looks at /proc every tenth of a second, so
Linux only. Prints one JSON line; writes it and the plot to --out.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import app, flags

from r1jax.monitor import charts
from r1jax.monitor.report_style import CHART_CSS

ROOT = pathlib.Path(__file__).parent.parent
EVERY_S = 0.1
SETTLED = 600  # steps after which caches of verdicts are full
PART = """
def part(sample):
    return sample.n_tokens / 10
"""
RUN = {
    "seed": 1,
    "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32},
    "data": {"task": "parity", "size": 3, "max_prompt_tokens": 4},
    "pretrain": {"steps": 60, "reasoning_share": 0.5},
    "rl": {
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "updates_per_step": 2,
        "dynamic": {"mode": "refill", "carry": True},
    },
    "objective": {"kl": "k3", "kl_coef": 0.01},
    "reward_weights": {"accuracy": 1.0, "own_part:part": 0.01},
    "sampling": {"max_tokens": 10},
    "mesh": {"data": 1},
    "eval": {"every": 50, "prompts": 8, "samples": 4, "k": 2},
    "checkpoint": {"every": 50},
    "logging": {"completions_every": 5},
}
FIELDS = {"file": "RssFile", "own": "RssAnon"}  # of /proc/PID/status
LINES = (("trainer, own", "own"), ("trainer, with mapped files", "all"), ("workers", "workers"))

RL_STEPS = flags.DEFINE_integer("rl_steps", 2000, "steps of reinforcement learning")
OUT = flags.DEFINE_string("out", str(ROOT / "benchmarks/results/long_run"), "no suffix; '' = none")


def main(_: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        log = folder / "run/metrics.jsonl"
        seen = watch(start(folder), log)
        lines = [json.loads(text) for text in log.read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "rl"]
    table = by_step(seen, len(steps))
    result = {
        "steps": len(steps),
        "settled_at": SETTLED,
        "megabytes": {name: summary(values) for name, values in table.items()},
        "peak_gb": ends([step["memory/process_peak_gb"] for step in steps]),
        "programs": changes([step["compiles"] for step in steps]),
    }
    print(json.dumps(result))
    if OUT.value:
        path = pathlib.Path(OUT.value)
        path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".svg").write_text(plot(table))


def start(folder: pathlib.Path) -> subprocess.Popen[bytes]:
    (folder / "own_part.py").write_text(PART)
    (folder / "config.py").write_text(f"def get_config():\n    return {RUN}\n")
    command = [sys.executable, "-m", "r1jax", "train", f"--config={folder / 'config.py'}"]
    command += [f"--workdir={folder / 'run'}", f"--config.rl.steps={RL_STEPS.value}"]
    paths = [str(folder), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def watch(process: subprocess.Popen[bytes], log: pathlib.Path) -> list[tuple[int, dict[str, int]]]:
    """(steps done, kilobytes held) at many moments of the run."""
    seen: list[tuple[int, dict[str, int]]] = []
    at = steps = 0
    while process.poll() is None:
        if log.exists():
            with log.open("rb") as file:
                file.seek(at)
                new = file.read()
            at, steps = at + len(new), steps + new.count(b'"phase": "rl"')
        if steps:
            trainer = held(process.pid)
            workers = sum(sum(held(pid).values()) for pid in below(process.pid))
            if trainer:
                kinds = {"own": trainer["own"], "all": sum(trainer.values()), "workers": workers}
                seen.append((steps, kinds))
        time.sleep(EVERY_S)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return seen


def held(pid: int) -> dict[str, int]:
    """Kilobytes of a process; nothing of one that is over."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    status = dict(line.split(":", 1) for line in lines)
    if FIELDS["own"] not in status:
        return {}
    return {name: int(status[field].split()[0]) for name, field in FIELDS.items()}


def below(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    found: list[int] = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [each for child in children for each in (child, *below(child))]
    return found


def by_step(seen: list[tuple[int, dict[str, int]]], steps: int) -> dict[str, np.ndarray]:
    """Megabytes when each step was first seen done, [steps] by kind."""
    place = np.searchsorted([step for step, _ in seen], np.arange(1, steps + 1))
    return {
        kind: np.array([kilobytes[kind] for _, kilobytes in seen])[place] / 1024
        for kind in seen[0][1]
    }


def changes(values: list[float]) -> list[tuple[int, float]]:
    """(step, value) wherever it is another than before."""
    pairs = zip(values, [None, *values], strict=False)
    return [(step, new) for step, (new, old) in enumerate(pairs, 1) if new != old]


def summary(megabytes: np.ndarray) -> dict[str, float]:
    """What it is at the ends, and how it grows once all has happened that happens in a run."""
    late = megabytes[SETTLED:]
    slope = np.polyfit(np.arange(len(late)), late, 1)[0] * 1000
    first, last = ends(megabytes.tolist())
    settled = float(late[0])
    named = {"first": first, "settled": settled, "last": last, "most": float(megabytes.max())}
    return {name: round(value, 2) for name, value in {**named, "per_1000_steps": slope}.items()}


def ends(values: list[float]) -> tuple[float, float]:
    return values[0], values[-1]


def plot(table: dict[str, np.ndarray]) -> str:
    series = [charts.Series(label, table[kind], n) for n, (label, kind) in enumerate(LINES)]
    x = np.arange(1, len(table["own"]) + 1)
    left = charts.Axis("megabytes", 0.0)
    return charts.standalone(
        charts.line_chart(x, series, left=left, size=(760.0, 320.0)), CHART_CSS
    )


if __name__ == "__main__":
    app.run(main)
