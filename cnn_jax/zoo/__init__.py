"""Named models, and the resolution of a ModelConfig into a network."""

from cnn_jax.zoo.models import MODELS, PUBLISHED_FOR
from cnn_jax.zoo.resolve import FLAGS, omitted_options, options, resolve, spec

__all__ = ["FLAGS", "MODELS", "PUBLISHED_FOR", "omitted_options", "options", "resolve", "spec"]
