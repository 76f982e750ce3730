"""What evaluation may cost: a step budget, and static bounds on sizes before anything is computed.

The step count is what ends a long evaluation, so that a result never depends on how busy the
machine is; the clock is the thread's own processor time and only a backstop.
"""

from __future__ import annotations

import time

from r1jax.rewards.math.nodes import TooCostly

MAX_BITS = 1 << 17  # of an exact integer: about 39,000 decimal digits
MAX_LOG2 = 1 << 40  # magnitude of a floating value
MAX_TERMS = 1_000  # of an explicit sum or product
MAX_STEPS = 20_000


class Budget:
    """Steps left for one comparison. A step is one node evaluated on small numbers, some
    microseconds.
    """

    def __init__(self, *, steps: int = MAX_STEPS, seconds: float = 2.0) -> None:
        self.left = steps
        self.deadline = time.thread_time() + seconds
        self._next_look = steps

    def charge(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooCostly("step budget spent")
        if self.left < self._next_look:
            self._next_look = self.left - 64
            if time.thread_time() > self.deadline:
                raise TooCostly("time budget spent")

    def charge_bits(self, bits: int) -> None:
        """Exact arithmetic on integers of this many bits; multiplication and gcd grow with the
        square.
        """
        if bits > MAX_BITS:
            raise TooCostly("integer too large")
        self.charge(1 + (bits >> 10) ** 2 // 8)
