"""Procedural tasks by name."""

from collections.abc import Callable

from r1jax.data.tasks.base import Item, Task, documents_at, item_at
from r1jax.data.tasks.countdown import countdown
from r1jax.data.tasks.digits import parity, running_sum

__all__ = ["TASKS", "Item", "Task", "documents_at", "item_at", "make_task"]

TASKS: dict[str, Callable[..., Task]] = {
    "running_sum": running_sum,
    "parity": parity,
    "countdown": countdown,
}


def make_task(name: str, size: int = 0) -> Task:
    """The named task; `size` 0 is the task's own default."""
    return TASKS[name](size) if size else TASKS[name]()
