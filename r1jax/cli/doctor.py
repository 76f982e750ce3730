"""Say what is wrong with a run, since when, and what to do: docs/doctor.md explains each finding.

Exit code 1 where something still holds that should stop the run, 0 otherwise.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from r1jax.cli.flags import parse
from r1jax.errors import UserError
from r1jax.monitor import doctor
from r1jax.monitor.report_data import read_rows

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "print the findings as one JSON list", flag_values=FLAGS)
USAGE = "r1jax doctor WORKDIR [--json]"


def main(argv: Sequence[str]) -> int:
    positional, _ = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    if len(positional) != 1:
        raise UserError(f"give one folder: {USAGE}")
    workdir = pathlib.Path(positional[0])
    if not (workdir / "metrics.jsonl").is_file():
        raise UserError(f"{workdir}: holds no metrics.jsonl; name the workdir of a run")
    rows = read_rows(workdir)
    if not rows:
        raise UserError(f"{workdir}/metrics.jsonl: holds no step of RL yet; try again later")
    findings = doctor.examine(rows)
    if FLAGS.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    elif not findings:
        print(f"healthy: nothing found in steps {rows[0]['step']} to {rows[-1]['step']}")
    else:
        for finding in findings:
            print(f"{finding.text}\n  {finding.advice}")
    return int(doctor.is_ill(findings))
