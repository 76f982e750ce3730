"""Parameters from where they are: a checkpoint that a run starts from, a run's own workdir."""

import pathlib
from collections.abc import Mapping

import jax

from r1jax import config as config_lib
from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.config import Config
from r1jax.errors import UserError
from r1jax.models import Transformer
from r1jax.models.hf.hub import find_folder
from r1jax.training import rl, sft
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import Setup, abstract_state, fresh_params, make_setup
from r1jax.training.start import is_run
from r1jax.training.workdir import read_json
from r1jax.types import Params


def initial_params(setup: Setup) -> Params:
    """What a run trains: the checkpoint's parameters in float32, or fresh ones."""
    if not setup.config.init_from:
        return fresh_params(setup)
    folder = find_folder(setup.config.init_from)
    if is_run(folder):
        return _of_run(folder, setup)
    _, params = models.load(folder, dtype="float32", mesh=setup.mesh)
    return params


def _of_run(folder: pathlib.Path, setup: Setup) -> Params:
    """The newest policy of another run, as the float32 parameters it was trained in."""
    mesh = setup.config.mesh
    overrides = {f"mesh.{name}": str(getattr(mesh, name)) for name in ("data", "fsdp", "tensor")}
    try:
        other, params, _ = load_policy(folder, base=False, overrides=overrides)
    except NoCheckpoint:
        other, params, _ = load_policy(folder, base=True, overrides=overrides)
    _require_same_model(folder, other.module, setup.module)
    return params


def _require_same_model(folder: pathlib.Path, there: Transformer, here: Transformer) -> None:
    shapes = [jax.eval_shape(lambda m=m: models.init_params(m, 0)) for m in (there, here)]
    if jax.tree.map(lambda leaf: leaf.shape, shapes[0]) != jax.tree.map(
        lambda leaf: leaf.shape, shapes[1]
    ):
        raise UserError(
            f"{folder}: its parameters do not have the shapes of this run's model; leave "
            "config.model as that run has it"
        )


class NoCheckpoint(UserError):
    """A run that has not come to its first checkpoint."""


def load_policy(
    workdir: pathlib.Path, *, base: bool, overrides: Mapping[str, str]
) -> tuple[Setup, Params, int]:
    """(setup, parameters, step) of the newest good checkpoint; nothing in the workdir changes."""
    setup = make_setup(load_config(workdir, overrides), workdir)
    config = setup.config
    if base and not config.pretrain.steps:
        with mesh_lib.use(setup.mesh):
            return setup, initial_params(setup), 0
    phase = sft.PHASE if base else rl.PHASE
    directory = workdir / "checkpoints" / phase
    optim, steps = (
        (config.pretrain.optim, config.pretrain.steps) if base else (config.optim, config.rl.steps)
    )
    if directory.is_dir():
        checkpoints = Checkpoints(directory, keep=config.checkpoint.keep, read_only=True)
        with mesh_lib.use(setup.mesh):
            restored = checkpoints.restore(abstract_state(setup, make_optimizer(optim, steps)))
        checkpoints.close()
        if restored is not None:
            return setup, restored[1].params, restored[0]
    other = "" if base else "; --base takes the base model"
    raise NoCheckpoint(f"{directory}: no checkpoint yet; let the run reach its first one{other}")


def load_config(workdir: pathlib.Path, overrides: Mapping[str, str]) -> Config:
    """The config of a run's workdir, changed."""
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: no run here (no config.json); name a workdir of r1jax train")
    return config_lib.override(read_json(workdir / "config.json"), overrides)
