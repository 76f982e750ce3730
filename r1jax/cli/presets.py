"""Say what a published objective is, every semantic choice in words, with the source of each number.

r1jax presets               the names
r1jax presets dapo          one of them
"""

from collections.abc import Sequence

from absl import flags

from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.objectives import presets

FLAGS = flags.FlagValues()
USAGE = "r1jax presets [NAME]"


def main(argv: Sequence[str]) -> int:
    positional, _ = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if not positional:
        print("\n".join(sorted(presets.PRESETS)))
        return 0
    if len(positional) > 1:
        raise UserError(f"give one name: {USAGE}")
    try:
        print(presets.describe(positional[0]))
    except (KeyError, ValueError) as error:
        raise UserError(str(error.args[0])) from error
    return 0
