"""Networks as JSON and base64 for the page."""

import base64
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from cnn_jax.aliases import JsonObject
from cnn_jax.lowering import Op


@dataclasses.dataclass(frozen=True)
class Packed:
    """Steps as JSON, whose arrays are [offset, *shape] into the parameters, and these in base64, `bytes` a value."""

    steps: list[JsonObject]
    parameters: str
    bytes: int


def values(ops: Iterable[Op]) -> int:
    """The number of parameters of all steps."""
    return sum(sum(a.size for a in op.arrays.values()) + sum(values(path) for path in op.paths) for op in ops)


def pack(ops: Sequence[Op], bytes: int = 4) -> Packed:
    """Pack steps with parameters of 4 or 2 bytes, little-endian."""
    arrays: list[np.ndarray] = []
    steps = _steps(ops, arrays)
    flat = np.concatenate([a.ravel() for a in arrays]) if arrays else np.zeros(0, np.float32)
    raw = flat.astype("<f4" if bytes == 4 else "<f2").tobytes()
    return Packed(steps, base64.b64encode(raw).decode(), bytes)


def halved(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The same steps with the values that half precision has."""
    return tuple(
        dataclasses.replace(
            op,
            arrays={name: a.astype(np.float16).astype(np.float32) for name, a in op.arrays.items()},
            paths=tuple(halved(path) for path in op.paths),
        )
        for op in ops
    )


def _steps(ops: Sequence[Op], arrays: list[np.ndarray]) -> list[JsonObject]:
    out = []
    for op in ops:
        references = {}
        for name, array in op.arrays.items():
            references[name] = [sum(a.size for a in arrays), *array.shape]
            arrays.append(array)
        out.append(
            {
                "kind": op.kind, "name": op.name, "shape": op.shape, "settings": op.settings, "arrays": references,
                "fields": op.fields, "paths": [_steps(path, arrays) for path in op.paths],
            }
        )  # fmt: skip
    return out
