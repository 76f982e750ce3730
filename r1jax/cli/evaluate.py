"""Measure the policy of a run on held-out prompts: greedy, pass@1, pass@k, maj@k, lengths.

The same numbers, from the same prompts and seeds, as the run's own summary.json.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from r1jax import mesh as mesh_lib
from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import evaluate
from r1jax.monitor.metrics import finite_or_none
from r1jax.training.load import load_policy

FLAGS = flags.FlagValues()
flags.DEFINE_bool("base", False, "the base model, before reinforcement learning", flag_values=FLAGS)
flags.DEFINE_string(
    "step", "", "a checkpoint by its number, or best; default: the newest", flag_values=FLAGS
)
USAGE = "r1jax evaluate WORKDIR [--base|--step=N|best] [--config.eval.KEY=VALUE ...]"


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1:
        raise UserError(f"give one folder: {USAGE}")
    workdir = pathlib.Path(positional[0])
    setup, params, step = load_policy(
        workdir, base=FLAGS.base, step=FLAGS.step, overrides=overrides
    )
    with setup.grader, mesh_lib.use(setup.mesh):
        numbers = finite_or_none(evaluate(setup, params))
    print(json.dumps({"workdir": str(workdir), "base": FLAGS.base, "step": step, **numbers}))
    return 0
