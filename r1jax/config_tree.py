"""Nested dicts to dataclasses: every field checked, one clear line for whatever is wrong."""

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from r1jax.errors import UserError


def parse_override(cls: type, key: str, text: str) -> Any:
    """The value a `--config.key=text` means, by the type of the field it names in `cls`."""
    hint = _hint_of(cls, key)
    if hint is str or _choices(hint):
        return text
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if hint == tuple[str, ...]:
            return text.split(",")
        return text  # `build` then says which type is wanted


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def put(tree: dict[str, Any], key: str, value: Any, default: Any) -> None:
    """Set `a.b.c` in nested dicts, whose defaults are the dataclass `default`."""
    *parents, last = key.split(".")
    for parent in parents:
        is_open = isinstance(default, Mapping)
        default = default.get(parent, {}) if is_open else getattr(default, parent)
        # Setting one weight keeps the other weights of the default.
        tree = tree.setdefault(parent, dict(default) if isinstance(default, Mapping) else {})
        if not isinstance(tree, dict):
            raise UserError(
                f"config.{key}: the config file gives {parent!r} a value, not a section"
            )
    tree[last] = value


def _hint_of(cls: type, key: str) -> Any:
    hint: Any = cls
    for name in key.split("."):
        if dataclasses.is_dataclass(hint):
            hints = typing.get_type_hints(hint)
            if name not in hints:
                raise _unknown(key, name, hints)
            hint = hints[name]
        elif typing.get_origin(hint) is Mapping:
            hint = typing.get_args(hint)[1]
        else:
            raise UserError(f"config.{key}: {name!r} is below a value, not a section")
    return hint


def _unknown(key: str, name: str, known: Mapping[str, Any]) -> UserError:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
    return UserError(f"config.{key}: unknown key {name!r}; {hint}")


def build(cls: type, tree: Any, default: Any, prefix: str) -> Any:
    """A dataclass from a mapping, each field checked against its type."""
    if not isinstance(tree, Mapping):
        raise UserError(
            f"config.{prefix.rstrip('.')}={tree!r}: this is a section; set one of its keys: "
            + ", ".join(f.name for f in dataclasses.fields(cls))
        )
    hints = typing.get_type_hints(cls)
    for name in tree:
        if name not in hints:
            raise _unknown(prefix + str(name), str(name), hints)
    values = {}
    for field in dataclasses.fields(cls):
        current = getattr(default, field.name)
        if field.name not in tree:
            values[field.name] = current
        elif dataclasses.is_dataclass(current):
            values[field.name] = build(
                type(current), tree[field.name], current, f"{prefix}{field.name}."
            )
        else:
            values[field.name] = _check(prefix + field.name, tree[field.name], hints[field.name])
    try:
        return cls(**values)
    except ValueError as error:
        section = prefix.rstrip(".")
        text = str(error)
        # Sections that check themselves start their message with the field, maybe with a section.
        raise UserError(f"config.{text if text.startswith(section) else prefix + text}") from error


def _choices(hint: Any) -> tuple[str, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _check(key: str, value: Any, hint: Any) -> Any:
    """The value as its field's type, or a UserError that says what would be right."""
    if hint is Any:  # settings of a reward part, which checks them itself
        return value
    choices = _choices(hint)
    if choices:
        if value not in choices:
            raise UserError(f"config.{key}={value!r}: must be one of {', '.join(choices)}")
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        # Array alternatives (a traced coefficient) are for code, not for configs.
        hint = next(a for a in args if a in (bool, int, float, str) or typing.get_origin(a))
        return _check(key, value, hint)
    if origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            inner = args[:1] * len(value) if args[-1] is Ellipsis else args
            if len(inner) == len(value):
                return tuple(_check(key, v, h) for v, h in zip(value, inner, strict=True))
        raise UserError(f"config.{key}={value!r}: must be a list such as (1, 2)")
    if origin is Mapping:
        if isinstance(value, Mapping):
            return {str(k): _check(f"{key}.{k}", v, args[1]) for k, v in value.items()}
        raise UserError(f"config.{key}={value!r}: must be a mapping such as {{'accuracy': 1.0}}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UserError(
            f"config.{key}={value!r}: must be of type {hint.__name__}, not {type(value).__name__}"
        )
    if hint is float and not math.isfinite(value):
        raise UserError(f"config.{key}={value!r}: must be a finite number")
    return value


Problem = tuple[bool, str]  # (is it one, what it says)


def not_one_of(key: str, value: str, known: Collection[str]) -> Problem:
    return value not in known, f"{key}={value!r}: must be one of {', '.join(known)}"


def below(key: str, value: int | float, lowest: int) -> Problem:
    return value < lowest, f"{key}={value}: must be {lowest} or more"


def not_above_0(key: str, value: float) -> Problem:
    return value <= 0, f"{key}={value}: must be above 0"
