"""Write WORKDIR/report.html: one page, no network, from what the run has logged so far."""

import pathlib
from collections.abc import Sequence

from absl import flags

from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.monitor.report import write_figure, write_report

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "figure", "", "also write accuracy and length over the steps to this .svg", flag_values=FLAGS
)
USAGE = "r1jax report WORKDIR [--figure=FILE.svg]"


def main(argv: Sequence[str]) -> int:
    positional, _ = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1:
        raise UserError(f"give one folder: {USAGE}")
    workdir = pathlib.Path(positional[0])
    print(f"report: {write_report(workdir)}")
    if FLAGS.figure:
        print(f"figure: {write_figure(workdir, pathlib.Path(FLAGS.figure))}")
    return 0
