"""What to train: axes, their product, equal cost, and the plan."""

from cnn_jax.sweep.axes import AXES, Axis, parse_list, parse_values
from cnn_jax.sweep.buckets import Bucket, buckets
from cnn_jax.sweep.grid import MOST_TRIALS, product
from cnn_jax.sweep.values import float32, non_negative_int, number, one_of, positive_int, scalar, stack, word

__all__ = [
    "AXES", "MOST_TRIALS", "Axis", "Bucket", "buckets", "float32", "non_negative_int", "number", "one_of", "parse_list",
    "parse_values", "positive_int", "product", "scalar", "stack", "word",
]  # fmt: skip
