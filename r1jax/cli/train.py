"""Train as a config says: a base model or a checkpoint, reinforcement learning, evaluation, report.

The same command again goes on where the run stopped: after Ctrl-C (exit 130), SIGTERM (exit 0), a
kill or a crash. A workdir of another config is refused.

Any setting of the config can be given as --config.KEY=VALUE:

  r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/a --config.seed=1
  r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/control --config.reward=random
  r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/b --config.rl.steps=100

The workdir then holds config.json (every setting), metrics.jsonl, completions.jsonl,
checkpoints/, summary.json and report.html.
"""

import contextlib
import pathlib
from collections.abc import Sequence

from absl import flags

from r1jax import cluster
from r1jax import config as config_lib
from r1jax.cli.flags import no_positional, parse
from r1jax.config import Config
from r1jax.errors import UserError
from r1jax.pipeline import r1_zero
from r1jax.pipeline.replay import replay
from r1jax.training.interrupts import Interrupted

FLAGS = flags.FlagValues()
flags.DEFINE_string("config", "", "config file, path.py or path.py:ARGUMENT", flag_values=FLAGS)
flags.DEFINE_string(
    "workdir", "", "folder of the run; default runs/NAME of the config", flag_values=FLAGS
)
flags.DEFINE_string(
    "init_from",
    "",
    "start from this: a Hugging Face folder, a hub id, a run's workdir (config.init_from)",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "overwrite", False, "delete the run that is in the workdir and start anew", flag_values=FLAGS
)
flags.DEFINE_integer(
    "resume",
    None,
    "go back to the checkpoint of this step; later ones are moved to checkpoints/later",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "replay",
    None,
    "do this step of the run in --workdir again, and compare it with what was logged",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first of several processes (JAX_COORDINATOR_ADDRESS): docs/training.md",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "num_processes", None, "how many there are (JAX_NUM_PROCESSES)", flag_values=FLAGS
)
flags.DEFINE_integer(
    "process_id", None, "which of them this is, from 0 (JAX_PROCESS_ID)", flag_values=FLAGS
)
flags.DEFINE_bool(
    "distributed",
    False,
    "several processes, of a TPU pod, Slurm, Open MPI or Kubernetes, which say the rest themselves",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "heartbeat_s",
    cluster.HEARTBEAT_S,
    "a process that was silent for so many seconds is gone, and the others end",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_bool("show_config", False, "print every setting and stop", flag_values=FLAGS)

USAGE = "r1jax train --config=FILE.py [--workdir=DIR] [--init_from=DIR] [--config.KEY=VALUE ...]"


def main(argv: Sequence[str]) -> int:
    positional, overrides = parse(FLAGS, argv, usage=USAGE, about=__doc__)
    no_positional(positional)
    if FLAGS.replay is not None:
        if not FLAGS.workdir or FLAGS.config or overrides:
            raise UserError(
                "--replay takes --workdir of a run, and no config: that of the run counts"
            )
        with joined():
            return replay_step(pathlib.Path(FLAGS.workdir), FLAGS.replay)
    if not FLAGS.config:
        raise UserError("--config is missing: name a file such as configs/r1_zero_tiny.py")
    if FLAGS.init_from:
        overrides["init_from"] = FLAGS.init_from
    config = config_lib.load(FLAGS.config, overrides)
    if FLAGS.show_config:
        for key, value in config_lib.flatten(config_lib.to_dict(config)).items():
            print(f"{key} = {value!r}")
        return 0
    name = config.name or pathlib.Path(FLAGS.config.partition(":")[0]).stem
    workdir = pathlib.Path(FLAGS.workdir or f"runs/{name}")
    with joined():
        return train(config, workdir)


def joined() -> contextlib.AbstractContextManager[None]:
    """With the other processes of the run, as the flags say."""
    return cluster.joined(
        FLAGS.coordinator_address,
        FLAGS.num_processes,
        FLAGS.process_id,
        detect=FLAGS.distributed,
        heartbeat_s=FLAGS.heartbeat_s,
    )


def train(config: Config, workdir: pathlib.Path) -> int:
    try:
        r1_zero.run(config, workdir, overwrite=FLAGS.overwrite, resume=FLAGS.resume)
    except Interrupted as stop:
        print(f"{stop}: saved in {workdir}; the same command goes on from there", flush=True)
        return stop.exit_code
    return 0


def replay_step(workdir: pathlib.Path, step: int) -> int:
    """0 where every number is the same, 1 where one is not."""
    differences = replay(workdir, step)
    if cluster.is_first():
        for name, logged, now in differences:
            print(f"{name}: {logged!r} was logged, {now!r} now")
        same = "differs in what is above" if differences else "is the same, bit for bit"
        print(f"rl step {step} {same}")
    return 1 if differences else 0
