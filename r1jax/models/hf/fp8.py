"""FP8 checkpoints with a scale per block, the form of DeepSeek-V3's own files, read as what they
stand for: `weight` (e4m3) times `weight_scale_inv` (float32), block by block.

Weights are rounded where they are stored, so nothing more is lost. An export is not FP8 again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError
from r1jax.models.hf.files import Tensor, listed

CODE = "F8_E4M3"
SCALE = "_scale_inv"


@dataclasses.dataclass(frozen=True)
class ScaledTensor(Tensor):
    scale: Tensor
    block: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        """What DeepSeek's own converter makes of it."""
        return jnp.dtype(jnp.bfloat16)

    def array(self) -> np.ndarray:
        """In float32: to be rounded once, to whatever is wanted."""
        kind = jnp.dtype(jnp.float8_e4m3fn)
        codes = np.memmap(self.path, kind, "r", offset=self.start, shape=self.shape)
        scale = np.asarray(self.scale.array(), np.float32)
        for axis, (step, size) in enumerate(zip(self.block, self.shape, strict=True)):
            scale = np.repeat(scale, step, axis=axis).take(range(size), axis=axis)
        return codes.astype(np.float32) * scale


def block_of(settings: Any, where: str) -> tuple[int, int]:
    """The block size of a `quantization_config`; a UserError where it is another quantisation."""
    said = settings if isinstance(settings, Mapping) else {}
    block = said.get("weight_block_size")
    known = (said.get("quant_method"), said.get("fmt", "e4m3")) == ("fp8", "e4m3")
    if not known or not isinstance(block, list) or len(block) != 2 or not all(block):
        raise UserError(
            f"{where}: quantization_config={settings!r} is not supported; only fp8 of fmt e4m3 "
            "with a weight_block_size of two numbers is"
        )
    return block[0], block[1]


def dequantized(tensors: Mapping[str, Tensor], block: tuple[int, int]) -> dict[str, Tensor]:
    """FP8 tensors joined with their scales; the others as they are."""
    found, wrong = {}, []
    for name, tensor in tensors.items():
        of = name.removesuffix(SCALE)
        if name.endswith(SCALE) and of in tensors and tensors[of].code == CODE:
            continue
        found[name] = tensor
        if tensor.code == CODE:
            scale = tensors.get(name + SCALE)
            blocks = tuple(-(-n // b) for n, b in zip(tensor.shape, block, strict=False))
            if scale is None or len(tensor.shape) != 2 or scale.shape != blocks:
                wrong.append(f"{name} ({list(blocks)})")
                continue
            about = {f.name: getattr(tensor, f.name) for f in dataclasses.fields(tensor)}
            found[name] = ScaledTensor(**about, scale=scale, block=block)
    if wrong:
        folder = next(iter(tensors.values())).path.parent
        raise UserError(
            f"{folder}: FP8 tensors without {SCALE} of the right shape: {listed(wrong)}"
        )
    return found
