"""Write a run's policy as a Hugging Face folder, which transformers and vLLM load.

r1jax convert runs/my_run --out=exported --dtype=bfloat16
r1jax convert runs/my_run --out=exported --like=Qwen2.5-0.5B      with that folder's tokenizer
r1jax convert runs/my_run --out=base --base      the same before reinforcement learning
r1jax convert runs/my_run --out=adapter --adapter      LoRA alone, as peft reads it
"""

import pathlib
from collections.abc import Mapping, Sequence

from absl import flags

from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.models.hf.peft import save_adapter
from r1jax.training.load import load_config, load_policy, load_trained
from r1jax.training.setup import make_setup

FLAGS = flags.FlagValues()
flags.DEFINE_bool("base", False, "the base model, before reinforcement learning", flag_values=FLAGS)
flags.DEFINE_bool("adapter", False, "the LoRA adapters alone", flag_values=FLAGS)
flags.DEFINE_string("out", "", "the new folder", flag_values=FLAGS)
flags.DEFINE_string(
    "like", "", "a Hugging Face folder whose tokenizer and token ids go along", flag_values=FLAGS
)
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"], "of the weights", flag_values=FLAGS
)
USAGE = "r1jax convert WORKDIR --out=DIR [--like=DIR] [--dtype=bfloat16] [--base|--adapter]"


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1 or not FLAGS.out:
        raise UserError(f"give a run's folder and --out: {USAGE}")
    workdir = pathlib.Path(positional[0])
    if FLAGS.adapter:
        return write_adapter(workdir, overrides)
    setup, params, step = load_policy(workdir, base=FLAGS.base, overrides=overrides)
    like = FLAGS.like or setup.start.folder
    models.save_hf(setup.module, params, FLAGS.out, like=like, dtype=FLAGS.dtype)
    print(f"{FLAGS.out}: step {step} of {positional[0]}, {FLAGS.dtype}")
    return 0


def write_adapter(workdir: pathlib.Path, overrides: Mapping[str, str]) -> int:
    setup = make_setup(load_config(workdir, overrides), workdir)
    wanted = setup.config.lora
    if not setup.trains_adapters:
        raise UserError(f"{workdir}: has no adapters, it trained every parameter")
    with mesh_lib.use(setup.mesh):
        step, adapters, _ = load_trained(setup, workdir)
    base = setup.config.init_from
    save_adapter(
        *(setup.module, adapters, FLAGS.out), rank=wanted.rank, alpha=wanted.alpha, base=base
    )
    print(f"{FLAGS.out}: adapters of step {step} of {workdir}")
    return 0
