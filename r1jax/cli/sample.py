"""Read what a run's policy answers, on prompts of its task or on yours.

r1jax sample runs/r1_zero_tiny --samples=4
r1jax sample runs/r1_zero_tiny --prompt=31415926 --temperature=0
r1jax sample runs/r1_zero_tiny --base          the same before reinforcement learning
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from r1jax import mesh as mesh_lib
from r1jax import rollout
from r1jax.cli.flags import parse
from r1jax.data.templates import render
from r1jax.errors import UserError
from r1jax.training.load import load_policy
from r1jax.training.setup import Setup
from r1jax.types import PromptBatch

FLAGS = flags.FlagValues()
flags.DEFINE_bool("base", False, "the base model, before reinforcement learning", flag_values=FLAGS)
flags.DEFINE_multi_string("prompt", [], "a question; repeat for more", flag_values=FLAGS)
flags.DEFINE_integer("prompts", 3, "held-out questions, without --prompt", flag_values=FLAGS)
flags.DEFINE_integer("samples", 1, "answers to each question", flag_values=FLAGS)
flags.DEFINE_float("temperature", 1.0, "0 = greedy", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "another seed, other answers", flag_values=FLAGS)
flags.DEFINE_bool(
    "show_prompt", False, "print the whole prompt, template included", flag_values=FLAGS
)
USAGE = "r1jax sample WORKDIR [--prompt=QUESTION] [--samples=N] [--temperature=T] [--base]"


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1:
        raise UserError(f"give one folder: {USAGE}")
    if FLAGS.samples < 1 or FLAGS.prompts < 1 or FLAGS.temperature < 0:
        raise UserError("--samples and --prompts must be 1 or more, --temperature 0 or more")
    setup, params, _ = load_policy(
        pathlib.Path(positional[0]), base=FLAGS.base, overrides=overrides
    )
    prompts = typed_prompts(setup, FLAGS.prompt) if FLAGS.prompt else None
    prompts = prompts or setup.prompts("eval", 0, FLAGS.prompts)
    with mesh_lib.use(setup.mesh):
        rollouts = rollout.generate(
            setup.module,
            params,
            prompts,
            sampling=dataclasses.replace(setup.sampling, temperature=FLAGS.temperature),
            samples_per_prompt=FLAGS.samples,
            seed=FLAGS.seed,
        )
    for row in range(len(rollouts.lengths)):
        item = prompts.items[row // FLAGS.samples]
        if row % FLAGS.samples == 0:
            shown = render(setup.config.data.template, item["question"])
            print(f"question: {shown if FLAGS.show_prompt else item['question']}")
        text = setup.tokenizer.decode(rollouts.response(row).tolist(), skip_special_tokens=True)
        cut = "" if rollouts.finished[row] else "  (cut off)"
        print(f"  {text}{cut}")
    return 0


def typed_prompts(setup: Setup, questions: Sequence[str]) -> PromptBatch:
    template = setup.config.data.template
    try:
        tokens = tuple(
            np.array(setup.tokenizer.encode(render(template, question)), np.int32)
            for question in questions
        )
    except ValueError as error:
        raise UserError(f"--prompt: {error}") from error
    items = tuple({"question": question} for question in questions)
    return PromptBatch(np.arange(len(tokens)), tokens, items)
