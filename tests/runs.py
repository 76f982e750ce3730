"""A run small enough to be killed many times, in processes of its own; and what makes two equal."""

import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Sequence

from forks import Fork, ForkServer

from r1jax.pipeline.replay import VOLATILE

MICRO = """
def get_config():
    return {
        "name": "micro",
        "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32},
        "data": {"size": 3, "max_prompt_tokens": 4},
        "pretrain": {"steps": 20, "documents_per_step": 16, "reasoning_share": 0.5},
        "rl": {"steps": 12, "prompts_per_step": 4, "samples_per_prompt": 4, "updates_per_step": 2},
        "objective": {"kl": "k3", "kl_coef": 0.01},
        "sampling": {"max_tokens": 10},
        "optim": {"lr": 1e-3},
        "batch": {"tokens_per_device": 64},  # micro-batches enough for two lanes
        "mesh": {"data": 1},
        "eval": {"every": 4, "prompts": 8, "samples": 4, "k": 2},
        "checkpoint": {"every": 4},
        "logging": {"completions_every": 3},
    }
"""


class Runs:
    """Starts `r1jax` on the micro config; the processes share a compilation cache."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.config = folder / "micro.py"
        self.config.write_text(MICRO)
        self.env = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # half the compile time
        }
        self._servers: dict[str, ForkServer] = {}  # by environment
        self._lock = threading.Lock()

    def __enter__(self) -> "Runs":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()

    def arguments(self, workdir: pathlib.Path, *flags: str) -> list[str]:
        return ["train", f"--config={self.config}", f"--workdir={workdir}", *flags]

    def start(self, workdir: pathlib.Path, *flags: str) -> Fork:
        return self.fork(*self.arguments(workdir, *flags))

    def start_anew(
        self, folder: pathlib.Path, workdir: pathlib.Path, *flags: str
    ) -> subprocess.Popen[str]:
        """As a person who is in a folder starts it."""
        return subprocess.Popen(
            self.command(workdir, *flags),
            env=self.env,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, workdir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
        return self.r1jax(*self.arguments(workdir, *flags))

    def fork(self, *arguments: str) -> Fork:
        """Any command of `r1jax`, without the seconds of its imports."""
        key = json.dumps(self.env, sort_keys=True)
        with self._lock:
            if key not in self._servers:
                self._servers[key] = ForkServer(self.env)
        return self._servers[key].start(list(arguments))

    def r1jax(self, *arguments: str) -> subprocess.CompletedProcess:
        process = self.fork(*arguments)
        try:
            code = process.wait(timeout=300)
        finally:
            process.kill()  # if it is not over
            out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, code, out, err)

    def command(self, workdir: pathlib.Path, *flags: str) -> list[str]:
        """What a person would type."""
        return [sys.executable, "-m", "r1jax", *self.arguments(workdir, *flags)]

    def finish(self, command: Sequence[str]) -> subprocess.CompletedProcess:
        """In a process begun anew."""
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=300
        )


# One CPU device decodes in two lanes, eight of a mesh in one: more steps, of fewer slots each.
BY_LANES = {"rollout/steps", "rollout/busy_share"}


def records(workdir: pathlib.Path) -> list[dict]:
    """What was logged, by phase and step, without what differs from process to process."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith(VOLATILE)} for line in lines]
    return sorted(kept, key=lambda line: (line["phase"], line["step"]))


def assert_same_run(left: pathlib.Path, right: pathlib.Path) -> None:
    """Bit for bit: parameters, optimizer and bookkeeping of the end, logs, samples, evaluations."""
    assert records(left) == records(right)
    samples = [sorted((w / "completions.jsonl").read_text().splitlines()) for w in (left, right)]
    assert samples[0] == samples[1]
    ends = [json.loads((w / "summary.json").read_text()) for w in (left, right)]
    for when in ("before", "after"):
        assert ends[0][when] == ends[1][when]
    books = [json.loads((w / "checkpoints/rl/12/run/metadata").read_text()) for w in (left, right)]
    assert books[0] == books[1]  # the fingerprint of every array is part of it
