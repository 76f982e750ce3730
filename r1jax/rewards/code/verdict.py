"""The verdict about one program."""

import dataclasses
from typing import Literal

Status = Literal["pass", "fail", "timeout", "memory", "error", "infra"]


@dataclasses.dataclass(frozen=True)
class CodeVerdict:
    """`infra` says that we failed, not the program: the sample must be masked, not punished.

    `reason` never repeats what the program printed: it may hold anything, terminal codes included.
    """

    status: Status
    passed: int
    total: int
    reason: str
    seconds: float
    cases: tuple[bool, ...] = ()  # of the cases that ran, in order
