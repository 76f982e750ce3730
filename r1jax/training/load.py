"""Parameters from where they are: a checkpoint that a run starts from, a run's own workdir."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import config as config_lib
from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.config import Config
from r1jax.errors import UserError
from r1jax.models import Transformer, lora
from r1jax.models.axes import logical_axes
from r1jax.models.hf.hub import find_folder
from r1jax.training import rl, sft
from r1jax.training.checkpoint import Checkpoints, fingerprint
from r1jax.training.optimizer import make_optimizer
from r1jax.training.setup import (
    Setup,
    abstract_state,
    fresh_params,
    make_setup,
    require_same_origin,
)
from r1jax.training.start import is_run
from r1jax.training.workdir import read_json, require_run
from r1jax.types import Params

BASE = "base"  # checkpoints of a workdir that `r1jax convert` made


def initial_params(setup: Setup) -> Params:
    """What a run starts from: a checkpoint's parameters, or fresh ones.

    In float32 where they are trained; under adapters, which they lie frozen beside, as they are.
    """
    if not setup.config.init_from:
        return fresh_params(setup)
    folder = find_folder(setup.config.init_from)
    if is_run(folder):
        return _of_run(folder, setup)
    dtype = None if setup.trains_adapters else "float32"
    _, params = models.load(folder, dtype=dtype, mesh=setup.mesh)
    return params


def _of_run(folder: pathlib.Path, setup: Setup) -> Params:
    """The newest policy of another run, its adapters merged."""
    mesh = dataclasses.asdict(setup.config.mesh)
    overrides = {f"mesh.{name}": str(size) for name, size in mesh.items()}
    try:
        other, params, _ = load_policy(folder, base=False, overrides=overrides)
    except NoCheckpoint:
        other, params, _ = load_policy(folder, base=True, overrides=overrides)
    _require_same_model(folder, other.module, setup.module)
    return jax.jit(_merged_float32)(params)


def _merged_float32(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), lora.merge(params))


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
    workdir: pathlib.Path, *, base: bool = False, step: str = "", overrides: Mapping[str, str]
) -> tuple[Setup, Params, int]:
    """(setup, parameters, step) of a run's checkpoint; nothing in the workdir changes.

    `step`: which one, by its number or as `best`; the newest good one without it.
    """
    if base and step:
        raise UserError("--base and --step: give one of them, the base has no steps")
    setup = make_setup(load_config(workdir, overrides), workdir)
    with mesh_lib.use(setup.mesh):
        if base:
            return setup, *load_base(setup, workdir)
        found, trained, books = load_trained(setup, workdir, step)
        if not setup.trains_adapters:
            return setup, trained, found
        base_params, _ = load_base(setup, workdir)
        require_same_origin({"weights": int(fingerprint(base_params))}, books["origin"])
        return setup, setup.policy(base_params, trained), found


def load_base(setup: Setup, workdir: pathlib.Path) -> tuple[Params, int]:
    """(parameters before reinforcement learning, steps of their pre-training)"""
    pretrain = setup.config.pretrain
    if (workdir / "checkpoints" / BASE).is_dir():
        like = _abstract_base(setup)
        _, params, _ = _restore(workdir / "checkpoints" / BASE, like)
        return params, 0
    if not pretrain.steps:
        return initial_params(setup), 0
    optimizer = make_optimizer(pretrain.optim, pretrain.steps)
    directory = workdir / "checkpoints" / sft.PHASE
    step, state, _ = _restore(directory, abstract_state(setup, optimizer))
    return state.params, step


def save_base(params: Params, workdir: pathlib.Path) -> None:
    """Keep float32 parameters as what a workdir starts from."""
    checkpoints = Checkpoints(workdir / "checkpoints" / BASE, keep=1)
    checkpoints.save(0, params, {})
    checkpoints.wait()
    checkpoints.close()


def _abstract_base(setup: Setup) -> Params:
    shapes = jax.eval_shape(functools.partial(models.init_params, setup.module), 0)
    shardings = mesh_lib.param_shardings(setup.mesh, shapes, logical_axes(shapes))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def load_trained(
    setup: Setup, workdir: pathlib.Path, step: str = ""
) -> tuple[int, Params, dict[str, Any]]:
    """(step, what the run trains: parameters or adapters, the run's books)"""
    optimizer = make_optimizer(setup.config.optim, setup.config.rl.steps)
    like = rl.abstract_rl_state(setup, optimizer)
    if step and step != rl.BEST and not step.isdecimal():
        raise UserError(f"--step={step}: must be the number of a checkpoint, or {rl.BEST}")
    folder = rl.BEST if step == rl.BEST else rl.PHASE
    only = int(step) if step.isdecimal() else None
    found, state, books = _restore(
        workdir / "checkpoints" / folder, like, "; --base takes the base model", only
    )
    return found, state.params, books


def _restore(
    directory: pathlib.Path, like: Any, otherwise: str = "", only: int | None = None
) -> tuple[int, Any, dict[str, Any]]:
    """The newest good checkpoint, or one of them."""
    if directory.is_dir():
        # `keep` counts for a writer only.
        checkpoints = Checkpoints(directory, keep=1, read_only=True)
        restored = checkpoints.restore(like, only)
        checkpoints.close()
        if restored is not None:
            return restored
    raise NoCheckpoint(
        f"{directory}: no checkpoint yet; let the run reach its first one{otherwise}"
    )


def load_config(workdir: pathlib.Path, overrides: Mapping[str, str]) -> Config:
    """The config of a run's workdir, changed."""
    require_run(workdir)
    return config_lib.override(read_json(workdir / "config.json"), overrides)
