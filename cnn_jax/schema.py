"""Decode JSON into dataclasses by the types of their fields. Invalid values raise ValueError; no code runs.

Types that a field may have: bool, int (64 bits), float (finite; an int fits), str, None, Any, Literal, unions, tuple[X, ...],
tuple[X, Y], dict[str, X] and dataclasses. A missing field takes its default.
"""

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union

from cnn_jax.aliases import Value

T = TypeVar("T")
Decoder = Callable[[object], Value]

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class UnknownField(ValueError):
    """A field that the dataclass does not have, as from a later version."""


def loads(text: str | bytes) -> Value:
    """Parse strict JSON (RFC 8259): NaN and infinities, which Python accepts, raise ValueError like any invalid text."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def decode(cls: Callable[..., T], value: object, *, ignore_unknown: bool = False) -> T:
    """Return `value`, as `loads` gives it, as an instance of the dataclass `cls`.

    Args:
      ignore_unknown: leave out fields that `cls` does not have, at the top level; else they raise UnknownField.
    """
    if ignore_unknown and isinstance(value, dict):
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        value = {name: entry for name, entry in value.items() if name in names}
    return _decoder(cls)(value)


@functools.cache
def _decoder(kind: object) -> Decoder:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(tuple(map(_decoder, arguments)))
    if origin is Literal:
        return _check(lambda value: isinstance(value, str) and value in arguments, f"one of {arguments}")
    if origin is tuple and arguments[1:] == (...,):
        return _tuple_of(_decoder(arguments[0]))
    if origin is tuple:
        return _tuple(tuple(map(_decoder, arguments)))
    if origin is dict:
        return _dict(_decoder(arguments[1]))
    return _PLAIN[kind]


def _check(fits: Callable[[Value], bool], name: str) -> Decoder:
    def decoder(value: object) -> object:
        if not fits(value):
            raise ValueError(f"{str(value)[:40]!r} is not {name}")
        return value

    return decoder


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or not math.isfinite(value):
        raise ValueError("not a finite number")
    return value  # an integer stays one: the id of a trial is a hash of its JSON


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    # A lone surrogate is a byte of a path that is not UTF-8.
    value = value.encode(errors="backslashreplace").decode()
    return value if value.isprintable() else _CONTROL.sub("\ufffd", value)  # such as a terminal's escape sequences


_PLAIN: dict[object, Decoder] = {
    bool: _check(lambda value: isinstance(value, bool), "true or false"),
    int: _check(lambda v: isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63, "an integer of 64 bits"),
    float: _float,
    str: _text,
    type(None): _check(lambda value: value is None, "null"),
    Any: lambda value: value,
}


def _union(decoders: tuple[Decoder, ...]) -> Decoder:
    def decoder(value: object) -> object:
        unknown = None
        for one in decoders:
            try:
                return one(value)
            except UnknownField as error:
                unknown = error
            except ValueError:
                continue
        raise unknown or ValueError("none of the types of the field")

    return decoder


def _sequence(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _tuple_of(one: Decoder) -> Decoder:
    return lambda value: tuple(map(one, _sequence(value)))


def _tuple(decoders: tuple[Decoder, ...]) -> Decoder:
    return lambda value: tuple(one(entry) for one, entry in zip(decoders, _sequence(value), strict=True))


def _dict(one: Decoder) -> Decoder:
    def decoder(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return {_text(name): one(entry) for name, entry in value.items()}

    return decoder


def _dataclass(cls: type) -> Decoder:
    hints = typing.get_type_hints(cls)
    decoders = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(cls) if field.init}

    def decoder(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"not a {cls.__name__}")
        if unknown := value.keys() - decoders.keys():
            raise UnknownField(f"unknown field {_text(min(unknown))!r}")
        try:
            return cls(**{name: decoders[name](entry) for name, entry in value.items()})
        except TypeError as error:  # a field without default is missing
            raise ValueError(str(error)) from None
        except UnknownField:
            raise
        except ValueError as error:
            raise ValueError(f"{cls.__name__}: {error}") from None

    return decoder
