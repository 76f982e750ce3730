"""Rotary position embedding, the half-split form of Llama and Qwen, and its stretched forms."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

KINDS = ("none", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How frequencies are lowered to reach past the `original_positions` of the first training.

    linear: all by `factor`. llama3: those that turn fewer than `low_freq_factor` times within the
    original positions by `factor`, those that turn more than `high_freq_factor` times not at all.
    yarn: the same idea between `beta_slow` and `beta_fast` turns (arXiv 2309.00071).
    """

    kind: str = "none"
    factor: float = 1.0
    original_positions: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # yarn: the ramp starts and ends at whole planes
    magnitude: float = 1.0  # yarn: queries and keys grow by this
    # yarn, DeepSeek: what `magnitude` was made from; the second also makes the scores of latent
    # attention grow. 0 = not said
    mscale: float = 0.0
    mscale_all_dim: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: must be one of {', '.join(KINDS)}")
        if self.factor <= 0 or self.original_positions < 1:
            raise ValueError(
                f"factor={self.factor}, original_positions={self.original_positions}: "
                "both must be above 0"
            )
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor}: must lie between 0 and high_freq_factor="
                f"{self.high_freq_factor}"
            )
        if self.kind == "yarn" and not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow={self.beta_slow}: must lie between 0 and beta_fast={self.beta_fast}"
            )

    @property
    def score_gain(self) -> float:
        """What DeepSeek's attention multiplies its scores by, all of them, not the turned part."""
        return yarn_growth(self.factor, self.mscale_all_dim) ** 2


def yarn_growth(factor: float, by: float) -> float:
    """How much longer vectors become that attend over `factor` times as many positions."""
    return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0


UNSCALED = RopeScaling()


def frequencies(head_dim: int, theta: float, scaling: RopeScaling = UNSCALED) -> np.ndarray:
    """Radians per position of each of the `head_dim / 2` planes, rounded where torch rounds.

    Checkpoints were trained with float32 powers and float32 inverses of them. Rounding once from
    float64 would be nearer to the formula, and move logits at 2048 positions by 3e-4.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.float32(1) / (theta ** exponents.astype(np.float64)).astype(np.float32)
    if scaling.kind == "none":
        return plain
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor)
    kept = _share_kept(plain, head_dim, theta, scaling)
    return kept * plain + (1 - kept) * plain / np.float32(scaling.factor)


def _share_kept(plain: np.ndarray, head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """1 where a frequency stays as it is, 0 where it is divided by `factor`, a ramp between."""
    if scaling.kind == "llama3":
        turns = scaling.original_positions * plain / (2 * math.pi)
        width = scaling.high_freq_factor - scaling.low_freq_factor
        return np.clip((turns - scaling.low_freq_factor) / width, 0, 1)

    def plane_of(turns: float) -> float:
        """The plane, a real number, that turns so often within the original positions."""
        ratio = scaling.original_positions / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(theta))

    first, last = plane_of(scaling.beta_fast), plane_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    planes = np.arange(head_dim // 2, dtype=np.float32)
    return 1 - np.clip((planes - first) / width, 0, 1)


def halves(x: Float[Array, "*rows H"]) -> Float[Array, "*rows H"]:
    """Planes of neighbours, as DeepSeek has them, to planes of places half a head apart."""
    return jnp.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)


def rotate(
    x: Float[Array, "B T heads H"],
    positions_BT: Int[Array, "B T"],
    inv_freq: np.ndarray,
    magnitude: float = 1.0,
) -> Float[Array, "B T heads H"]:
    """Turn plane i of each head by `position * inv_freq[i]`; angles and turning in float32."""
    angles = (
        positions_BT[:, :, None].astype(jnp.float32)
        * jnp.asarray(inv_freq, jnp.float32)[None, None]
    )
    sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return (turned * jnp.float32(magnitude)).astype(x.dtype)
