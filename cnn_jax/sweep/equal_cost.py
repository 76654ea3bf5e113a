"""Equal cost: filters that give a network as many parameters, or MACs, as another one. No JAX for models with a spec.

When a sweep changes the kernel, the number of parameters changes with it; equal cost separates the two.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

from cnn_jax import description, zoo
from cnn_jax.errors import UsageError
from cnn_jax.trial import ModelConfig, Stack, format_stack

# Relative deviation from the target above which a cell is an error.
TOLERANCE = 0.05


def match(
    config: ModelConfig, input_shape: Sequence[int], num_classes: int, *, measure: Literal["params", "macs"], target: int
) -> ModelConfig:
    """The same model with its filters scaled, all by one factor, so that its parameters or MACs are nearest to `target`.

    Filters are integers, so the target is met only approximately. Raises UsageError naming the cell if the model has no filters
    to scale, or if it misses by more than 5 %.
    """
    return _match(zoo.resolve(config), tuple(input_shape), num_classes, measure, target)


@functools.lru_cache(maxsize=4096)
def _match(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int, measure: str, target: int) -> ModelConfig:
    filters = config.filters
    if filters is None:
        raise UsageError(f"--iso: model {config.name} has no filters to scale: leave out --iso, or choose another model")

    def scaled(scale: float) -> Stack:
        return tuple(max(1, round(f * scale)) for f in filters)

    @functools.cache
    def cost(stack: Stack) -> int:
        return getattr(description.describe(dataclasses.replace(config, filters=stack), input_shape, num_classes), measure)

    low, high = 0.0, 1.0
    while cost(scaled(high)) < target:
        low, high = high, 2 * high
        if high > target:  # a filter costs at least one
            break
    # Rounding to whole filters makes steps: stop once the stacks at both ends are the two sides of one.
    while high - low > 1e-6 * high and scaled(low) != scaled(high):
        middle = (low + high) / 2
        if cost(scaled(middle)) < target:
            low = middle
        else:
            high = middle
    best = min(scaled(low), scaled(high), key=lambda stack: abs(cost(stack) - target))
    if abs(cost(best) - target) > TOLERANCE * target:
        fixed = ", ".join(
            f"{name}={format_stack(value) if isinstance(value, tuple) else value}"
            for name in ("kernel_size", "strides", "padding")
            if (value := getattr(config, name)) is not None
        )
        raise UsageError(
            f"--iso={measure}: model {config.name} with {fixed} cannot come closer to {target:,} than {cost(best):,} "
            f"(filters={format_stack(best)}), more than {TOLERANCE:.0%} off: start from more --filters"
        )
    return dataclasses.replace(config, filters=best)
