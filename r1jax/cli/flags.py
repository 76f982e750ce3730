"""absl flags, a set for each command, with `--config.a.b=value` taken out first."""

import sys
import textwrap
from collections.abc import Sequence

from absl import flags, logging

from r1jax.errors import UserError


def parse(
    values: flags.FlagValues, argv: Sequence[str], *, usage: str, about: str | None
) -> tuple[list[str], dict[str, str]]:
    """(positional arguments, config overrides); fills `values`. `--help` prints and exits."""
    # Orbax logs with tracebacks what it also raises; what is raised reaches the person in one line.
    logging.set_verbosity(logging.FATAL)
    if any(arg in ("-h", "--help", "-help") for arg in argv):
        print(help_text(values, usage, about or ""), end="")
        sys.exit(0)
    overrides, rest = split_overrides(argv)
    for name in values:  # a command may be called again in one process
        values[name].unparse()
    try:
        positional = values([usage, *rest])[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    return positional, overrides


def split_overrides(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """`--config.a.b=value` and `--config.a.b value` as a dict, and everything else in order."""
    overrides, rest = {}, []
    args = iter(argv)
    for arg in args:
        name = arg.lstrip("-")
        if not arg.startswith("-") or not name.startswith("config."):
            rest.append(arg)
            continue
        key, equals, value = name.removeprefix("config.").partition("=")
        if not equals:
            value = next(args, None)
            if value is None:
                raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
        overrides[key] = value
    return overrides, rest


def help_text(values: flags.FlagValues, usage: str, about: str) -> str:
    usage = textwrap.fill(f"usage: {usage}", 100, subsequent_indent=" " * 7, break_on_hyphens=False)
    lines = [usage, "", about.strip(), "", "flags:"]
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default in (None, "", False) else f" (default: {flag.default})"
        text = textwrap.wrap(f"{flag.help}{default}", 76)
        lines += [f"  --{name}", *(f"      {line}" for line in text)]
    return "\n".join(lines) + "\n"


def no_positional(positional: Sequence[str]) -> None:
    if positional:
        raise UserError(f"unexpected argument {positional[0]!r}; flags start with --")
