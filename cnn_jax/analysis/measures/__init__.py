"""Measures: properties of a trained network, as one number per layer. Imports no JAX until a measure is loaded.

A measure is a function `(network, dataset) -> {name: {layer: value}}`. A fork's measure is named `package.module:attribute`.
A name that ends in `_untrained` is the same quantity of the network before training, with the trial's own initial values.
For a quantity that belongs to no layer, the key is another label, such as 'shift 1' or 'window 6'.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from cnn_jax import plugins
from cnn_jax.errors import UsageError

if TYPE_CHECKING:
    from cnn_jax.analysis.network import TrainedNetwork
    from cnn_jax.data import Dataset

UNTRAINED = "_untrained"  # suffix of the names of baselines
Values = Mapping[str, float]


class Measure(Protocol):
    """A function of a trained network and its data set."""

    def __call__(self, network: "TrainedNetwork", dataset: "Dataset", /) -> Mapping[str, Values]:
        """Return values by name, then by layer; nan where undefined."""
        ...


MEASURES = {
    name: f"cnn_jax.analysis.measures.{name}:{name}"
    for name in (
        "probe", "edges", "dead", "duplicates", "sparsity", "effective_field", "used_field", "cka", "shift", "position",
        "border", "border_units", "pruning", "patterns",
    )
}  # fmt: skip


def check_names(names: Sequence[str]) -> None:
    """Raise UsageError for a name that is neither a measure nor package.module:attribute."""
    for name in names:
        if name not in MEASURES and ":" not in name:
            raise UsageError(
                f"--measures: unknown measure {name!r}: must be one of {', '.join(MEASURES)}, or package.module:attribute"
            )


def load(name: str) -> Measure:
    """Import a measure. Raises UsageError for an unknown name, or if a fork's measure cannot be imported."""
    check_names([name])
    found = plugins.load_attribute(MEASURES.get(name, name), f"--measures: {name}")
    if not callable(found):
        raise UsageError(f"--measures: {name} is a {type(found).__name__}: it must be a function (network, dataset)")
    return found
