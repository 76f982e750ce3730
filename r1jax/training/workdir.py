"""The folder of a run: its config, its logs, and who may write there."""

import fcntl
import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Callable
from typing import IO, Any

from r1jax import config as config_lib
from r1jax.config import Config
from r1jax.errors import UserError

# What may change between two runs in one workdir: none of it changes what is learned. Of what
# `init_from` and the files of questions hold, the checkpoints keep fingerprints.
FREE_SECTIONS: tuple[str, ...] = ("mesh.", "checkpoint.", "logging.", "watchdog.", "batch.")
MOVABLE = ("init_from", "data.train", "data.eval")
# Files and folders a run makes; --overwrite removes these and nothing else.
OURS = (
    "config.json",
    "metrics.jsonl",
    "completions.jsonl",
    "completions",
    "summary.json",
    "report.html",
    "checkpoints",
    "start",
    "replay",
    "tensorboard",
    "stacks",
)
LOCK = ".lock"
LOCK_WAIT_S = 5.0  # so long a process that was killed may take to be gone


def hold(path: pathlib.Path) -> IO[str]:
    """Make or enter a workdir, and let nobody else write there until what this returns is closed,
    or this process gone in whatever way: the lock is the kernel's, the file only says whose."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / LOCK, "a+")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise UserError(
            f"--workdir={path}: cannot be written ({error.strerror}); name a folder you may write"
        ) from error
    deadline = time.monotonic() + LOCK_WAIT_S
    while not _locked(file):
        if time.monotonic() > deadline:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"--workdir={path}: {owner} is at work there; wait until it has ended, or name "
                "another workdir"
            )
        time.sleep(0.1)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(
            f"{file.name}: this file system has no locks ({error.strerror}); see to it that no "
            "other run writes there",
            flush=True,
        )
    return True


def open_workdir(path: pathlib.Path, config: Config, *, overwrite: bool) -> None:
    """Begin or go on in a workdir that this process holds; refuse one of another config."""
    if overwrite:
        clear(path)
    saved = path / "config.json"
    if saved.exists():
        refuse_other_config(path, read_json(saved), config_lib.to_dict(config))
    write_json(saved, config_lib.to_dict(config))


def require_run(path: pathlib.Path) -> None:
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: no run here (no config.json); name a workdir of r1jax train")


def go_back(path: pathlib.Path, phase: str, step: int) -> None:
    """Let a phase go on at an earlier checkpoint. Later ones are moved to checkpoints/later."""
    folder, best = path / "checkpoints" / phase, path / "checkpoints" / "best" / str(step)
    found = sorted(int(each.name) for each in folder.glob("*") if each.name.isdecimal())
    if step not in found and best.is_dir():
        shutil.copytree(best, folder / str(step))
        found.append(step)
    if step not in found:
        known = ", ".join(map(str, found)) or "none"
        raise UserError(f"--resume={step}: no such checkpoint in {folder}; there are: {known}")
    for later in (other for other in found if other > step):
        aside = path / "checkpoints" / "later"
        aside.mkdir(exist_ok=True)
        names = (f"{phase}-{later}{mark}" for mark in ("", *(f".{n}" for n in range(1, 1000))))
        target = next(aside / name for name in names if not (aside / name).exists())
        (folder / str(later)).rename(target)
    summary = path / "summary.json"
    if summary.exists():  # what was measured at the end is of another end
        write_json(summary, {**read_json(summary), "after": None})


def clear(path: pathlib.Path) -> None:
    for name in OURS:
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def refuse_other_config(path: pathlib.Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    old, new = config_lib.flatten(saved), config_lib.flatten(wanted)
    # At a constant rate the steps of a shorter run are the first steps of a longer one.
    free = FREE_SECTIONS
    optims = [wanted["optim"], wanted["critic"]["optim"], wanted["reward_model"]["optim"]]
    if {optim["schedule"] for optim in optims} == {"constant"}:
        free = (*free, "rl.steps")
    differing = [
        f"{key} ({old.get(key, 'unset')!r} there, {new.get(key, 'unset')!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(free) and not _moved(key, old, new)
    ]
    if differing:
        raise UserError(
            f"--workdir={path} holds a run of another config; it differs in "
            f"{', '.join(differing)}. Name another workdir, or use --overwrite to delete that run"
        )


def _moved(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Another name for a file is no other config; naming one where there was none is."""
    return key in MOVABLE and bool(old.get(key)) and bool(new.get(key))


def read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); mend or remove it") from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Whole or not at all: a reader never sees half a file."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(draft, path)


def keep_lines(path: pathlib.Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the records of a JSON-lines file that a resumed run will write again.

    A last line cut short by a kill goes too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if keep(record):
            kept.append(line + "\n")
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text("".join(kept))
    os.replace(draft, path)
