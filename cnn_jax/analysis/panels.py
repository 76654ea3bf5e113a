"""Panels of a fork: custom views of a network, shown on the page of `launch.py inspect`.

A panel is a function `(network, images_NHWC) -> {name: array}`, named package.module:attribute; its arguments are a
`TrainedNetwork` and uint8 images. The first line of its docstring is the title. An array of shape (N, H, W), or (N, H, W, C)
with C of 1 or 3, is shown as a picture next to each image; one of shape (N,) as a number below it.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax import plugins
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import is_attribute


@dataclasses.dataclass(frozen=True)
class Panel:
    """Result of a panel's function. `name` is the function's name; `arrays` have the leading axis of `images_NHWC`."""

    name: str
    title: str
    images_NHWC: np.ndarray
    arrays: dict[str, np.ndarray]


def names_of(text: str | None) -> list[str]:
    """Parse the comma-separated names of --panel. Raises UsageError for a name that is not package.module:attribute."""
    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        if not is_attribute(name):
            raise UsageError(f"--panel: {name!r} is not legal: use package.module:attribute")
    return names


def panel(name: str, network: TrainedNetwork, images_NHWC: np.ndarray) -> Panel:
    """Call a panel's function and validate its result.

    Raises:
      UsageError: the function is missing, raised, or returned something other than arrays with an entry per image.
    """
    what = f"--panel: {name}"
    function = plugins.load_attribute(name, what)
    if not callable(function):
        raise UsageError(f"{what} is a {type(function).__name__}: it must be a function of a network and images")
    with plugins.reporting(f"{what} failed", function):
        found = function(network, images_NHWC)
    if not isinstance(found, Mapping):
        raise UsageError(f"{what} returned a {type(found).__name__}: it must return a dict of arrays")
    arrays = {str(key): np.asarray(value) for key, value in found.items()}
    for key, array in arrays.items():
        _check(what, key, array, len(images_NHWC))
    title = (inspect.getdoc(function) or name.rpartition(":")[2]).partition("\n")[0].rstrip(".")
    return Panel(name.rpartition(":")[2], title, images_NHWC, arrays)


def _check(what: str, key: str, array: np.ndarray, count: int) -> None:
    fits = array.shape[:1] == (count,) and (array.ndim in (1, 3) or (array.ndim == 4 and array.shape[-1] in (1, 3)))
    if not fits or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise UsageError(
            f"{what}: {key!r} is {array.dtype.name} of shape {array.shape}: must be numbers of shape ({count},), "
            f"({count}, H, W) or ({count}, H, W, 1 or 3)"
        )


def arrays_of(panels: Sequence[Panel]) -> dict[str, np.ndarray]:
    """Return the arrays of panels, named 'panel/FUNCTION/NAME', for a file."""
    return {f"panel/{each.name}/{key}": array for each in panels for key, array in each.arrays.items()}
