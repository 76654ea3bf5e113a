"""A choice between two functions by the platform that a program is lowered for."""

from collections.abc import Callable
from typing import TypeVar

import jax

Result = TypeVar("Result")


def by_platform(*arrays: jax.Array, cpu: Callable[..., Result], default: Callable[..., Result]) -> Result:
    """Return `cpu(*arrays)` where the program is lowered for CPU, `default(*arrays)` elsewhere.

    Outside of a trace that is known at once. There `lax.platform_dependent` would compile a program at every call, as the
    functions are new each time.
    """
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return jax.lax.platform_dependent(*arrays, cpu=cpu, default=default)
    platforms = {device.platform for array in arrays if isinstance(array, jax.Array) for device in array.devices()}
    return (cpu if (platforms or {jax.default_backend()}) == {"cpu"} else default)(*arrays)
