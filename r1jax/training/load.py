"""A policy back from its run's workdir, to sample from or to measure."""

import pathlib
from collections.abc import Mapping

from r1jax import config as config_lib
from r1jax import mesh as mesh_lib
from r1jax.errors import UserError
from r1jax.training import rl, sft
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import Setup, abstract_state, make_setup
from r1jax.training.workdir import read_json
from r1jax.types import Params


def load_policy(
    workdir: pathlib.Path, *, base: bool, overrides: Mapping[str, str]
) -> tuple[Setup, Params, int]:
    """(setup, parameters, step) of the newest good checkpoint; nothing in the workdir changes."""
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: no run here (no config.json); name a workdir of r1jax train")
    config = config_lib.override(read_json(workdir / "config.json"), overrides)
    setup = make_setup(config)
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
    raise UserError(f"{directory}: no checkpoint yet; let the run reach its first one{other}")
