"""A run's policy as a Hugging Face folder, which transformers and vLLM load; and the way back.

r1jax convert runs/my_run --out=exported --dtype=bfloat16
r1jax convert runs/my_run --out=exported --like=Qwen2.5-0.5B      with that folder's tokenizer
r1jax convert runs/my_run --out=base --base      the same before reinforcement learning
r1jax convert runs/my_run --out=adapter --adapter      LoRA alone, as peft reads it
r1jax convert Qwen2.5-0.5B --out=runs/qwen      float32 in orbax's form: --init_from=runs/qwen
"""

import pathlib
from collections.abc import Mapping, Sequence

from absl import flags

from r1jax import config as config_lib
from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.models.hf.hub import find_folder
from r1jax.models.hf.peft import save_adapter
from r1jax.models.hf.save import appearing_whole, new_folder
from r1jax.training.load import (
    initial_params,
    load_config,
    load_policy,
    load_trained,
    save_base,
)
from r1jax.training.setup import make_setup
from r1jax.training.start import is_run, keep_start
from r1jax.training.workdir import write_json

FLAGS = flags.FlagValues()
flags.DEFINE_bool("base", False, "the base model, before reinforcement learning", flag_values=FLAGS)
flags.DEFINE_string(
    "step", "", "a checkpoint by its number, or best; default: the newest", flag_values=FLAGS
)
flags.DEFINE_bool("adapter", False, "the LoRA adapters alone", flag_values=FLAGS)
flags.DEFINE_string("out", "", "the new folder", flag_values=FLAGS)
flags.DEFINE_string(
    "like", "", "a Hugging Face folder whose tokenizer and token ids go along", flag_values=FLAGS
)
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"], "of the weights", flag_values=FLAGS
)
USAGE = (
    "r1jax convert WORKDIR|MODEL --out=DIR [--like=DIR] [--dtype=bfloat16] [--base|--adapter] "
    "[--step=N|best]"
)


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1 or not FLAGS.out:
        raise UserError(f"give a run's folder and --out: {USAGE}")
    workdir = pathlib.Path(positional[0]).expanduser()
    if not is_run(workdir) and not (workdir / "metrics.jsonl").exists():
        return write_workdir(positional[0], overrides)
    if FLAGS.adapter:
        return write_adapter(workdir, overrides)
    setup, params, step = load_policy(
        workdir, base=FLAGS.base, step=FLAGS.step, overrides=overrides
    )
    like = FLAGS.like or setup.start.folder
    models.save_hf(setup.module, params, FLAGS.out, like=like, dtype=FLAGS.dtype)
    print(f"{FLAGS.out}: step {step} of {positional[0]}, {FLAGS.dtype}")
    return 0


def write_workdir(source: str, overrides: Mapping[str, str]) -> int:
    """A Hugging Face checkpoint as a workdir that has a base and no run yet."""
    if FLAGS.base or FLAGS.step or FLAGS.adapter or FLAGS.dtype != "float32":
        raise UserError(
            f"{source}: is no run; a checkpoint becomes float32 parameters, without further choice"
        )
    folder, target = find_folder(source), new_folder(FLAGS.out)
    tree = {"name": target.name, "init_from": str(folder.absolute()), "data": {"template": "raw"}}
    config = config_lib.override(tree, overrides)
    setup = make_setup(config)
    with mesh_lib.use(setup.mesh), appearing_whole(target) as draft:
        keep_start(config, draft)
        write_json(draft / "config.json", config_lib.to_dict(config))
        save_base(initial_params(setup), draft)
    print(f"{target}: {source}, float32; start from it with --init_from={target}")
    return 0


def write_adapter(workdir: pathlib.Path, overrides: Mapping[str, str]) -> int:
    setup = make_setup(load_config(workdir, overrides), workdir)
    wanted = setup.config.lora
    if not setup.trains_adapters:
        raise UserError(f"{workdir}: has no adapters, it trained every parameter")
    with mesh_lib.use(setup.mesh):
        step, adapters, _ = load_trained(setup, workdir, FLAGS.step)
    base = setup.config.init_from
    save_adapter(
        *(setup.module, adapters, FLAGS.out), rank=wanted.rank, alpha=wanted.alpha, base=base
    )
    print(f"{FLAGS.out}: adapters of step {step} of {workdir}")
    return 0
