"""Write a run's policy as a Hugging Face folder, which transformers and vLLM load.

r1jax convert runs/my_run --out=exported --dtype=bfloat16
r1jax convert runs/my_run --out=exported --like=Qwen2.5-0.5B      with that folder's tokenizer
r1jax convert runs/my_run --out=base --base      the same before reinforcement learning
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from r1jax import models
from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.training.load import load_policy

FLAGS = flags.FlagValues()
flags.DEFINE_bool("base", False, "the base model, before reinforcement learning", flag_values=FLAGS)
flags.DEFINE_string("out", "", "the new folder", flag_values=FLAGS)
flags.DEFINE_string(
    "like", "", "a Hugging Face folder whose tokenizer and token ids go along", flag_values=FLAGS
)
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"], "of the weights", flag_values=FLAGS
)
USAGE = "r1jax convert WORKDIR --out=DIR [--like=DIR] [--dtype=bfloat16] [--base]"


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1 or not FLAGS.out:
        raise UserError(f"give a run's folder and --out: {USAGE}")
    setup, params, step = load_policy(
        pathlib.Path(positional[0]), base=FLAGS.base, overrides=overrides
    )
    like = FLAGS.like or setup.start.folder
    models.save_hf(setup.module, params, FLAGS.out, like=like, dtype=FLAGS.dtype)
    print(f"{FLAGS.out}: step {step} of {positional[0]}, {FLAGS.dtype}")
    return 0
