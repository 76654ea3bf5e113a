"""Lines of JSON with a checksum: a torn or damaged line is recognized."""

import json
import zlib
from collections.abc import Mapping

import numpy as np

from cnn_jax import schema
from cnn_jax.aliases import JsonObject

MAX_LINE = 2**24  # bytes


def encode(record: Mapping[str, object]) -> bytes:
    # JSON has no NaN or infinity: the losses of a diverged trial are null.
    body = json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def decode(line: bytes) -> JsonObject:
    """Return the object that a line holds. Raises ValueError if it is damaged, longer than MAX_LINE or not an object."""
    head, mark, tail = line.rpartition(b',"crc32":"')
    if len(line) > MAX_LINE or not mark or tail[8:] != b'"}' or tail[:8] != b"%08x" % zlib.crc32(head + b"}"):
        raise ValueError("damaged line")
    raw = schema.loads((head + b"}").decode())
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return raw


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
