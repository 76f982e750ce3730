"""The RoPE fields of a `config.json`, in the form before transformers 5 and in the one since."""

from collections.abc import Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.ops.rope import UNSCALED, RopeScaling, yarn_growth

_STRETCHED = ("factor", "original_max_position_embeddings")
_MSCALES = ("attention_factor", "mscale", "mscale_all_dim")
_KIND_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (*_STRETCHED, "low_freq_factor", "high_freq_factor"),
    "yarn": (*_STRETCHED, *_MSCALES, "beta_fast", "beta_slow", "truncate"),
}
_ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def read_rope(
    fields: Mapping[str, Any], *, where: str, max_positions: int
) -> tuple[float, RopeScaling]:
    """(theta, scaling) of `rope_parameters`, or of `rope_theta` and `rope_scaling`."""
    said = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(said, Mapping) or any(isinstance(v, Mapping) for v in said.values()):
        raise UserError(f"{where}: RoPE that differs between layers is not supported: {said!r}")
    said = {name: value for name, value in said.items() if value is not None}
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in _KIND_FIELDS:
        raise UserError(
            f"{where}: RoPE of type {kind!r} is not supported; supported: {', '.join(_KIND_FIELDS)}"
        )
    unknown = sorted(set(said).difference(_KIND_FIELDS[kind], _ALWAYS))
    # A plain RoPE has nothing to stretch, whatever is left behind in the file.
    if unknown and kind != "default":
        raise UserError(f"{where}: RoPE of type {kind!r} has unknown fields {', '.join(unknown)}")
    if said.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"{where}: partial_rotary_factor={said['partial_rotary_factor']} is not supported"
        )
    theta = float(said.get("rope_theta", fields.get("rope_theta") or 10_000.0))
    try:
        return theta, _READERS[kind](said, max_positions)
    except KeyError as error:
        raise UserError(f"{where}: RoPE of type {kind!r} needs {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: RoPE of type {kind!r}: {error}") from error


def _read_llama3(said: Mapping[str, Any], max_positions: int) -> RopeScaling:
    del max_positions
    return RopeScaling(
        kind="llama3",
        factor=float(said["factor"]),
        original_positions=said["original_max_position_embeddings"],
        low_freq_factor=float(said["low_freq_factor"]),
        high_freq_factor=float(said["high_freq_factor"]),
    )


def _read_yarn(said: Mapping[str, Any], max_positions: int) -> RopeScaling:
    original = said.get("original_max_position_embeddings", max_positions)
    factor = float(said.get("factor", max_positions / original))
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_positions=original,
        beta_fast=float(said.get("beta_fast") or 32),
        beta_slow=float(said.get("beta_slow") or 1),
        truncate=bool(said.get("truncate", True)),
        magnitude=_yarn_magnitude(said, factor),
        mscale=float(said.get("mscale") or 0),
        mscale_all_dim=float(said.get("mscale_all_dim") or 0),
    )


def _yarn_magnitude(said: Mapping[str, Any], factor: float) -> float:
    if "attention_factor" in said:
        return float(said["attention_factor"])
    if said.get("mscale") and said.get("mscale_all_dim"):
        return yarn_growth(factor, said["mscale"]) / yarn_growth(factor, said["mscale_all_dim"])
    return yarn_growth(factor, 1.0)


_READERS = {
    "default": lambda said, max_positions: UNSCALED,
    "linear": lambda said, max_positions: RopeScaling("linear", factor=float(said["factor"])),
    "llama3": _read_llama3,
    "yarn": _read_yarn,
}


def write_rope(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """The older form, which both read. What is a reader's default anyway is left out."""
    common = {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
    mscales = {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
    mscales = {name: value for name, value in mscales.items() if value}
    usual = scaling.magnitude == _yarn_magnitude(mscales, scaling.factor)
    said = {
        "none": None,
        "linear": {"rope_type": "linear", "factor": scaling.factor},
        "llama3": {
            **common,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
        },
        "yarn": {
            **common,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            **({} if scaling.truncate else {"truncate": False}),
            **mscales,
            **({} if usual else {"attention_factor": scaling.magnitude}),
        },
    }[scaling.kind]
    return {"rope_theta": theta, "rope_scaling": said}
