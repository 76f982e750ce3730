"""Checkpoints: orbax underneath, a seal on top, and a way back when one is damaged.

A checkpoint is the training state and the run's own bookkeeping (a small JSON). Orbax writes it in
the background and makes it appear whole or not at all. It does not notice a flipped bit, so the
JSON holds a seal over all arrays and over itself, and what does not match it counts as damaged.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from r1jax import cluster
from r1jax.errors import UserError

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
    """One uint32 over all bits of a tree; the same on any sharding, since integer sums commute."""
    total = jnp.uint32(0)
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        bits = jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])
        weighed = bits.astype(jnp.uint32) * (2 * _flat_index(leaf.shape) + 1)
        total += jnp.sum(weighed, dtype=jnp.uint32) * jnp.uint32(2 * index + 1)
    return total


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
    """Each element's place, so that exchanged elements do not look alike."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index


def seal(state: Any, run: dict[str, Any]) -> list[int]:
    """What a checkpoint must still say of itself when it is read: of its arrays, of its books."""
    books = json.dumps(run, sort_keys=True).encode()
    return [int(fingerprint(state)), zlib.crc32(books)]


# Besides the arrays, orbax writes a dozen small files and indices.
SMALL_FILES = 1 << 20


class Checkpoints:
    """The checkpoints of one phase of a run, by step, under one directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        milestone: int = 0,
        say: Callable[[str], None] = print,
        read_only: bool = False,
    ) -> None:
        """The newest `keep` are kept, and those at multiples of `milestone`.

        `read_only` leaves everything as it is, for a reader beside a run that is writing.
        """
        self.directory = directory.absolute()
        self._say = say
        self._read_only = read_only
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=milestone or None,
                create=not read_only,
                read_only=read_only,
                # Two managers may be writing the same step at a time, each from a thread: without
                # names of their own the processes' barriers for one would be taken for the other's.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    barrier_sync_key_prefix=directory.name
                ),
            ),
        )

    def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        """Start writing; returns once the arrays are safe from being overwritten."""
        self.wait()  # what is still being written takes room too
        cluster.require_none(self._lacks_room(step, state), "room for a checkpoint")
        run = {**run, "seal": seal(state, run)}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)
                ),
            )
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
            if cluster.is_of_peers(error):
                raise
            raise self._unwritten(step, _first_line(error)) from error

    def wait(self) -> None:
        """Block until everything saved is on disk."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            if cluster.is_of_peers(error):
                raise
            raise self._unwritten(self._manager.latest_step() or 0, _first_line(error)) from error

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def restore(self, like: Any, only: int | None = None) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, run) of the newest good checkpoint, or of `only` one; None without any.

        `like` gives shapes and shardings. A damaged checkpoint is named, put aside and passed over.
        """
        damaged, steps = [], self.steps()
        if only is not None and only not in steps:
            raise UserError(
                f"{self.directory}: no checkpoint {only}; there are: "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        with _no_stray_errors():
            for step in reversed(steps) if only is None else [only]:
                found = self._read(step, like)
                if not isinstance(found, str):
                    return step, *found
                damaged.append(step)
                moved = "" if self._read_only else f" moved to {self._put_aside(step)},"
                self._say(f"checkpoint {step} is damaged ({found});{moved} trying the one before")
        if damaged:
            raise UserError(
                f"{self.directory}: every checkpoint is damaged ({damaged}): restore a copy of "
                "one, or start anew with --overwrite"
            )
        return None

    def close(self) -> None:
        self._manager.close()

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]] | str:
        """(state, run), or what is wrong with the checkpoint, in all processes alike."""
        read, problem = None, None
        try:
            read = self._read_here(step, like)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # the machine's trouble, not the file's
        # What a broken file makes orbax, tensorstore, json and asyncio raise has no common type
        # narrower than this.
        except Exception as error:
            if cluster.is_of_peers(error):
                raise
            problem = _first_line(error)
        # Each process has read its own shards. The seal is over all: nobody waits there alone.
        problems = [each for each in cluster.gather(problem, "checkpoint") if each is not None]
        if problems:
            return problems[0]
        assert read is not None
        state, run, sealed = read
        return (state, run) if sealed == seal(state, run) else "it does not hold what was saved"

    def _read_here(self, step: int, like: Any) -> tuple[Any, dict[str, Any], list[int]]:
        """(state, run, its seal), by orbax's handlers: its manager waits for all processes to read,
        and one that cannot would leave the others there."""
        folder, asked = self._manager.directory / str(step), self._asked(step, like)
        state = ocp.StandardCheckpointHandler().restore(
            folder / "state", args=ocp.args.StandardRestore(asked)
        )
        if asked is not like:
            state = dataclasses.replace(like, **state)
        run = dict(ocp.JsonCheckpointHandler().restore(folder / "run", args=ocp.args.JsonRestore()))
        return state, run, run.pop("seal")

    def _asked(self, step: int, like: Any) -> Any:
        """`like`, without the fields that nothing is asked of and that were not known when the
        checkpoint was written: one of an earlier version is as good as any."""
        if not dataclasses.is_dataclass(like):
            return like
        metadata = ocp.StandardCheckpointer().metadata(self.directory / str(step) / "state")
        written = getattr(metadata.item_metadata, "tree", {})
        fields = {field.name: getattr(like, field.name) for field in dataclasses.fields(like)}
        wanted = [name for name, value in fields.items() if value is not None]
        if missing := [name for name in wanted if written.get(name) is None]:
            raise ValueError(f"it has no {' and no '.join(missing)}")
        return {name: value for name, value in fields.items() if name in written}

    def _put_aside(self, step: int) -> pathlib.Path:
        target = cluster.from_first(lambda: str(self._move_aside(step)), "damaged")
        self._manager.reload()
        return pathlib.Path(target)

    def _move_aside(self, step: int) -> pathlib.Path:
        aside = self.directory.parent / "damaged"
        aside.mkdir(exist_ok=True)
        target = aside / f"{self.directory.name}-{step}"
        for copy in range(1, 1000):
            if not target.exists():
                break
            target = aside / f"{self.directory.name}-{step}.{copy}"
        (self.directory / str(step)).rename(target)
        return target

    def _lacks_room(self, step: int, state: Any) -> str | None:
        """Look before writing: a disk that fills up under orbax ends in pages of tracebacks."""
        arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        needed, free = arrays + SMALL_FILES, shutil.disk_usage(self.directory).free
        if free >= needed:
            return None
        reason = f"needs up to {needed / 1e6:.1f} MB of space, {free / 1e6:.1f} MB is free"
        return str(self._unwritten(step, reason))

    def _unwritten(self, step: int, reason: str) -> UserError:
        kept = [s for s in self.steps() if s != step]
        return UserError(
            f"{self.directory}: checkpoint {step} was not written: {reason}. Good checkpoints: "
            f"{', '.join(map(str, kept)) or 'none'}; make room, then the same command goes on"
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:160]}"


@contextlib.contextmanager
def _no_stray_errors() -> Iterator[None]:
    """Drop the pages of 'exception ignored in coroutine' and 'task exception was never retrieved'
    that a failed orbax restore leaves behind.

    The failure itself has already been raised; what remains is collected here, silently.
    """
    hook, logger = sys.unraisablehook, logging.getLogger("asyncio")
    level = logger.level
    sys.unraisablehook = lambda _: None
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        gc.collect()
        logger.setLevel(level)
        sys.unraisablehook = hook
