"""From numbers to places on paper: ranges, round ticks, and numbers as text."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scale:
    """A range of values, linear or logarithmic, with labelled ticks."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def place(self, values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
        """Where values lie between two places; NaN for what the scale cannot show."""
        values, bounds = np.asarray(values, float), np.array([self.low, self.high])
        if self.log:
            values = np.log10(np.where(values > 0, values, np.nan))
            bounds = np.log10(bounds)
        share = (values - bounds[0]) / (bounds[1] - bounds[0])
        return np.asarray(ends[0] + share * (ends[1] - ends[0]))


def make_scale(
    arrays: Sequence[np.ndarray],
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    tight: bool = False,
    ticks: int = 5,
) -> Scale:
    """A scale for all the values, with bounds at round numbers unless they are given.

    `tight` keeps to the data's own ends and whole-numbered ticks, as an axis of steps wants it.
    """
    values = np.concatenate([np.asarray(array, float).ravel() for array in arrays] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if log:
        values = values[values > 0]
    if log and len(values):
        return _log_scale(values)
    least = _first(low, float(values.min()) if len(values) else 0.0)
    most = _first(high, float(values.max()) if len(values) else 1.0)
    if low is None and not tight and 0 < least < 0.6 * most:
        least = 0.0  # a line's height then says how large it is
    if not most > least:
        pad = 0.5 if tight else max(abs(least) * 0.1, 0.5 if least else 1.0)
        least, most = least - pad * (least != 0 or tight), most + pad
    gap = round_step(least, most, ticks, whole=tight)
    if not tight:
        least = least if low is not None else math.floor(least / gap + 1e-9) * gap
        most = most if high is not None else math.ceil(most / gap - 1e-9) * gap
    places = np.arange(math.ceil(least / gap - 1e-9), math.floor(most / gap + 1e-9) + 1) * gap
    marks = tuple(float(place) for place in places)
    return Scale(least, most, False, marks, tick_labels(marks, gap))


def _log_scale(values: np.ndarray) -> Scale:
    first = math.floor(math.log10(values.min()) + 1e-9)
    last = max(math.ceil(math.log10(values.max()) - 1e-9), first + 1)
    every = math.ceil((last - first) / 6)
    marks = tuple(10.0**power for power in range(first, last + 1, every))
    return Scale(10.0**first, 10.0**last, True, marks, tuple(map(number_text, marks)))


def round_step(low: float, high: float, count: int, *, whole: bool = False) -> float:
    """The 1, 2, 2.5 or 5 times a power of ten that gives about `count` gaps between the ends."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    if whole:
        return max(1.0, 2.0 if step == 2.5 else step)
    return step


def tick_labels(ticks: Sequence[float], gap: float) -> tuple[str, ...]:
    """All with the same decimals; thousands as k, millions as M; powers where numbers are tiny."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if 0 < largest < 1e-3:
        return tuple(number_text(tick if abs(tick) > gap / 2 else 0.0, 2) for tick in ticks)
    unit, suffix = next(
        ((u, s) for u, s in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if largest >= u), (1.0, "")
    )
    unit = 1e3 if suffix == "k" else unit
    relative = gap / unit
    decimals = max(0, -math.floor(math.log10(relative) + 1e-9))
    if round(relative * 10**decimals, 6) % 1:  # 2.5, 0.25
        decimals += 1
    texts = (f"{tick / unit:.{decimals}f}{suffix}".replace("-", "−") for tick in ticks)
    return tuple(
        "0" if abs(tick) < gap / 2 else text for tick, text in zip(ticks, texts, strict=True)
    )


def number_text(value: float | None, digits: int = 3, *, bare: bool = True) -> str:
    """A number for reading: about `digits` digits, thousands parted, a dash where there is none.

    `bare` writes whole numbers without decimals.
    """
    if value is None or not math.isfinite(value):
        return "–"
    size, sign = abs(value), "−" if value < 0 else ""
    if value == 0:
        return "0"
    if not 1e-3 <= size < 1e9:
        mantissa, power = f"{size:.1e}".split("e")
        return f"{sign}{mantissa.removesuffix('.0')}e{int(power)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{sign}{size:,.{0 if bare and size == round(size) else decimals}f}"


def signed_text(value: float, digits: int = 3) -> str:
    """A change, with its sign."""
    return ("+" if value > 0 else "") + number_text(value, digits)


def share_text(value: float | None, decimals: int = 3) -> str:
    """A share between 0 and 1 that says 1 or 0 only where it is."""
    if value is None or not math.isfinite(value):
        return "–"
    edge = 10.0**-decimals
    if 1 - edge / 2 < value < 1:
        return f">{1 - edge:.{decimals}f}"
    if 0 < value < edge / 2:
        return f"<{edge:.{decimals}f}"
    return f"{value:.{decimals}f}"


def _first(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given
