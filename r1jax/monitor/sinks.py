"""Where metrics go: JSON lines always; TensorBoard and W&B when asked for."""

import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.monitor.metrics import finite_or_none


class Sinks:
    """Every record goes to every sink; a line is on disk when `write` returns."""

    def __init__(
        self, workdir: pathlib.Path, *, tensorboard: bool = False, wandb_project: str = ""
    ) -> None:
        self.path = workdir / "metrics.jsonl"
        self._tensorboard = self._wandb = None
        if tensorboard:
            module = _import("tensorboardX", "logging.tensorboard", "tensorboard")
            self._tensorboard = module.SummaryWriter(str(workdir / "tensorboard"))
        if wandb_project:
            module = _import("wandb", "logging.wandb_project", "wandb")
            self._wandb = module.init(
                project=wandb_project, dir=str(workdir), name=workdir.name, resume="allow"
            )

    def write(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        append_json_line(self.path, {"phase": phase, "step": step, **finite_or_none(metrics)})
        for name, value in metrics.items():
            if self._tensorboard is not None:
                self._tensorboard.add_scalar(f"{phase}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{phase}/{k}": v for k, v in metrics.items()} | {"step": step})

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def append_json_line(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _import(module: str, key: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"config.{key} needs the package {module}: pip install 'r1jax[{extra}]'"
        ) from error
