"""Read what a model answers, as it answers: a run's policy, or any checkpoint.

r1jax sample runs/r1_zero_tiny --samples=4
r1jax sample runs/r1_zero_tiny --prompt=31415926 --temperature=0
r1jax sample runs/r1_zero_tiny --base          the same before reinforcement learning
r1jax sample --model=Qwen/Qwen2.5-0.5B-Instruct --prompt="What is 7 * 8?" --show_prompt
r1jax sample --model=exported --chat           talk to it; Ctrl-D ends
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from r1jax import config as config_lib
from r1jax import mesh as mesh_lib
from r1jax import models, rollout
from r1jax.cli.flags import parse
from r1jax.data import templates
from r1jax.data.detokenize import TextStream
from r1jax.data.tasks import Item
from r1jax.errors import UserError
from r1jax.models.hf.hub import find_folder
from r1jax.ops.sampling import SamplingParams
from r1jax.rollout.stream import stream
from r1jax.training.load import load_policy
from r1jax.training.setup import Setup, make_setup
from r1jax.training.start import is_run
from r1jax.types import PromptBatch

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "model", "", "a Hugging Face folder, a hub id, or a run's folder", flag_values=FLAGS
)
flags.DEFINE_bool("base", False, "the base model, before reinforcement learning", flag_values=FLAGS)
flags.DEFINE_string(
    "step", "", "a checkpoint by its number, or best; default: the newest", flag_values=FLAGS
)
flags.DEFINE_multi_string("prompt", [], "a question; repeat for more", flag_values=FLAGS)
flags.DEFINE_integer("prompts", 3, "held-out questions, without --prompt", flag_values=FLAGS)
flags.DEFINE_integer("samples", 1, "answers to each question", flag_values=FLAGS)
flags.DEFINE_float("temperature", 1.0, "0 = greedy", flag_values=FLAGS)
flags.DEFINE_float("top_p", 1.0, "1 = off", flag_values=FLAGS)
flags.DEFINE_integer(
    "max_tokens", 0, "of an answer; 0 = as the run has it, 512 for a checkpoint", flag_values=FLAGS
)
flags.DEFINE_integer("seed", 0, "another seed, other answers", flag_values=FLAGS)
flags.DEFINE_enum(
    "template",
    None,
    templates.TEMPLATES,
    "what is put around a question; default: the run's, or chat where the checkpoint has it",
    flag_values=FLAGS,
)
flags.DEFINE_string("system", "", "what a chat template is told first", flag_values=FLAGS)
flags.DEFINE_bool("chat", False, "a conversation on this terminal", flag_values=FLAGS)
flags.DEFINE_bool(
    "show_prompt", False, "print the whole prompt, template included", flag_values=FLAGS
)
USAGE = (
    "r1jax sample [WORKDIR | --model=DIR] [--prompt=QUESTION] [--samples=N] [--chat] "
    "[--base|--step=N|best]"
)


class Speaker(NamedTuple):
    """A model ready to answer."""

    setup: Setup
    decode_params: Any
    template: str
    system: str
    sampling: SamplingParams

    def prompt(self, item: Item, number: int = 0) -> tuple[str, PromptBatch]:
        """(text, tokens) of a question's prompt."""
        tokenizer = self.setup.tokenizer
        text = templates.prompt_text(self.template, item, tokenizer, system=self.system)
        try:
            tokens = templates.prompt_tokens(self.template, text, tokenizer)
        except ValueError as error:
            raise UserError(f"--prompt: {error}") from error
        if not tokens:
            raise UserError("--prompt: is empty, and a prompt needs a token")
        return text, PromptBatch(np.array([number]), (np.array(tokens, np.int32),), (item,))


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    sources = [*positional, *([FLAGS.model] if FLAGS.model else [])]
    if len(sources) != 1:
        raise UserError(f"give one folder: {USAGE}")
    if FLAGS.samples < 1 or FLAGS.prompts < 1 or FLAGS.temperature < 0 or FLAGS.max_tokens < 0:
        raise UserError(
            "--samples and --prompts must be 1 or more, --temperature and --max_tokens 0 or more"
        )
    speaker = open_speaker(sources[0], overrides)
    with mesh_lib.use(speaker.setup.mesh):
        if FLAGS.chat:
            converse(speaker)
        else:
            answer_questions(speaker)
    return 0


def open_speaker(source: str, overrides: Mapping[str, str]) -> Speaker:
    folder = pathlib.Path(source).expanduser()
    # What is named without --model is a run, unless it plainly is a checkpoint.
    if is_run(folder) or not (FLAGS.model or any(folder.glob("*.safetensors"))):
        setup, params, _ = load_policy(
            folder, base=FLAGS.base, step=FLAGS.step, overrides=overrides
        )
        template, system = setup.config.data.template, setup.config.data.system
        max_tokens = setup.config.sampling.max_tokens
    else:
        setup, params = _open_checkpoint(source, overrides)
        template = "chat" if getattr(setup.tokenizer, "has_chat", False) else "raw"
        system, max_tokens = "", 512
    if FLAGS.chat:
        template = "chat"
    try:
        sampling = dataclasses.replace(
            setup.sampling,
            temperature=FLAGS.temperature,
            top_p=FLAGS.top_p,
            max_tokens=FLAGS.max_tokens or max_tokens,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    with mesh_lib.use(setup.mesh):
        decode_params = rollout.prepare_params(setup.module.config, params)
    return Speaker(
        setup, decode_params, FLAGS.template or template, FLAGS.system or system, sampling
    )


def _open_checkpoint(source: str, overrides: Mapping[str, str]) -> tuple[Setup, Any]:
    """A Hugging Face folder, in the dtype of its files."""
    if FLAGS.base or FLAGS.step:
        raise UserError(f"{source}: --base and --step are for a run's folder; this is a checkpoint")
    folder = find_folder(source)
    setup = make_setup(config_lib.override({"init_from": str(folder)}, overrides))
    module, params = models.load(
        folder, compute_dtype=overrides.get("model.dtype"), mesh=setup.mesh
    )
    return dataclasses.replace(setup, module=module), params


def answer_questions(speaker: Speaker) -> None:
    """Every question, then its answers; how fast that was goes to standard error."""
    setup = speaker.setup
    if FLAGS.prompt:
        items: list[Item] = [{"question": question} for question in FLAGS.prompt]
    elif setup.config.init_from and not setup.config.data.has_files:
        raise UserError("give --prompt=QUESTION, or --chat")
    else:
        items = [setup.item("eval", index) for index in range(FLAGS.prompts)]
    speed = Speed()
    for number, item in enumerate(items):
        text, prompt = speaker.prompt(item, number)
        print(f"question: {text if FLAGS.show_prompt else item['question']}", flush=True)
        show_answers(speaker, prompt, FLAGS.samples, speed)
    print(speed, file=sys.stderr)


def converse(speaker: Speaker) -> None:
    """Turns of a conversation until the person's input ends."""
    messages: list[dict[str, str]] = []
    speed = Speed()
    while True:
        try:
            said = input("> ")
        except EOFError:
            break
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        text, prompt = speaker.prompt({"messages": messages, "question": said}, len(messages))
        if FLAGS.show_prompt:
            print(text)
        (answer,) = show_answers(speaker, prompt, 1, speed)
        messages.append({"role": "assistant", "content": answer})
    print()
    print(speed, file=sys.stderr)


class Speed:
    """Tokens and seconds, without each answer's first tokens: those wait for a compiler."""

    def __init__(self) -> None:
        self.tokens, self.counted, self.seconds = 0, 0, 0.0

    def __str__(self) -> str:
        rate = f"{self.counted / self.seconds:.1f}" if self.seconds else "-"
        return f"{self.tokens} tokens; {rate} tokens/s after the first of each answer"


def show_answers(speaker: Speaker, prompt: PromptBatch, samples: int, speed: Speed) -> list[str]:
    """Print all answers, one after another, the first as its tokens come; their texts."""
    setup = speaker.setup
    texts, shown = [""] * samples, [0] * samples
    streams = [TextStream(_decoder(setup)) for _ in range(samples)]
    row, total, first, start = 0, 0, 0, 0.0
    print("  ", end="")
    for progress in stream(
        setup.module,
        speaker.decode_params,
        prompt,
        sampling=speaker.sampling,
        samples=samples,
        seed=FLAGS.seed,
    ):
        total = int(progress.lengths.sum())
        if not start:
            first, start = total, time.perf_counter()
        while row < samples:
            new = progress.tokens[row, shown[row] : progress.lengths[row]].tolist()
            piece = streams[row].push(new)
            shown[row] += len(new)
            done = bool(progress.done[row])
            piece += streams[row].finish() if done else ""
            texts[row] += piece
            print(piece, end="", flush=True)
            if not done:
                break
            row += 1
            cut = "" if progress.finished[row - 1] else "  (cut off)"
            print(cut, end="\n  " if row < samples else "\n", flush=True)
    speed.tokens += total
    speed.counted += total - first
    speed.seconds += time.perf_counter() - start
    return texts


def _decoder(setup: Setup) -> Any:
    return lambda tokens: setup.tokenizer.decode(tokens, skip_special_tokens=True)
