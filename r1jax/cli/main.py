"""The `r1jax` command: one table of subcommands, one way for errors to reach a person."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from r1jax.errors import in_one_line

# name -> (module, one line). Imported when asked for: `--help` should not wait for jax.
COMMANDS = {
    "train": (
        "r1jax.cli.train",
        "pre-train a tiny base, run R1-Zero on it; goes on with a stopped run",
    ),
    "evaluate": ("r1jax.cli.evaluate", "measure a run's policy on held-out prompts"),
    "sample": ("r1jax.cli.sample", "read what a run's policy answers"),
    "convert": ("r1jax.cli.convert", "write a run's policy as a Hugging Face folder"),
    "lint-data": ("r1jax.cli.lint_data", "verify the references of a file of questions"),
    "presets": ("r1jax.cli.presets", "what each published objective is, in words"),
    "doctor": ("r1jax.cli.doctor", "say what is wrong with a run, and what to do about it"),
    "report": ("r1jax.cli.report", "write a run's page: curves, evidence, completions"),
}

HELP = """r1jax: the DeepSeek-R1 and DAPO recipes as pure JAX functions.

usage: r1jax COMMAND [flags]        r1jax COMMAND --help explains a command

{commands}

a first run:
  r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/r1_zero_tiny
"""


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; the process's exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<10} {line}" for name, (_, line) in COMMANDS.items()]
        print(HELP.format(commands="\n".join(lines)), end="")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"commands: {', '.join(COMMANDS)}"
        return _complain("r1jax", f"no command {name!r}; {hint}", 2)
    try:
        return importlib.import_module(COMMANDS[name][0]).main(rest)
    except BaseException as error:
        said = in_one_line(error)
        if said is None:
            raise
        return _complain(f"r1jax {name}", *said)


def _complain(who: str, message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"{who}: {message}", file=sys.stderr)
    return code
