"""Write WORKDIR/report.html: one page, no network, from what the run has logged so far."""

import pathlib
from collections.abc import Sequence

from absl import flags

from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.monitor.report import write_report

FLAGS = flags.FlagValues()
USAGE = "r1jax report WORKDIR"


def main(argv: Sequence[str]) -> int:
    positional, _ = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1:
        raise UserError(f"give one folder: {USAGE}")
    print(f"report: {write_report(pathlib.Path(positional[0]))}")
    return 0
