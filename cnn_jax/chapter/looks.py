"""Arrays of the page's pictures, from the trained networks of the sweep.

N images, H height, W width, C channels, F filters, T patches of a filter.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cnn_jax import stats
from cnn_jax.analysis.excitation import responses
from cnn_jax.analysis.measures.edges import edge_scores
from cnn_jax.analysis.measures.sample import untrained
from cnn_jax.analysis.measures.shift import rolled
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.patches import Patch, ReceptiveField, cut
from cnn_jax.analysis.trained import open_trial
from cnn_jax.nn import Conv
from cnn_jax.nn.functional import conv

FILTERS = 6  # filters per layer whose patches are shown
PADDINGS = ("valid", "same", "full")
STRIDES = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Filters:
    """Filters of one layer.

    Attributes:
      layer: name of the layer.
      patches: per filter, the patches of its nine top-activating images.
      before: the patches before training.
      channels: indices of the filters.
    """

    layer: str
    channels: tuple[int, ...]
    patches: list[list[Patch]]
    before: list[list[Patch]]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """First-layer kernels (F, K, K, C), best edges first, with their edge scores (F,), and those before training."""

    trained: np.ndarray
    scores: np.ndarray
    random: np.ndarray
    random_scores: np.ndarray

    @property
    def top(self) -> float:
        """The largest absolute weight, the scale of both."""
        return float(max(np.abs(self.trained).max(initial=0.0), np.abs(self.random).max(initial=0.0)))


@dataclasses.dataclass(frozen=True)
class Shifted:
    """An image (H, W, C) and a copy shifted by a pixel, maps of one filter for both, by layer, and the predictions."""

    images: tuple[np.ndarray, np.ndarray]
    maps: dict[str, tuple[np.ndarray, np.ndarray]]
    answers: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Map:
    """Output (H', W') of the first-layer filter with the highest edge score, for a stride and padding (before, after)."""

    values: np.ndarray
    pads: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Looks:
    """Data of the pictures. `kernel_size` and `maps`, by (padding, stride), are of the filter with the highest edge score."""

    image_HWC: np.ndarray
    label: str
    kernel_size: int
    maps: Mapping[tuple[str, int], Map]
    kernels: Kernels
    features: dict[str, np.ndarray]
    filters: list[Filters]
    shifted: Shifted


def best_of(folder: Path, cell: stats.Cell) -> TrainedNetwork:
    """Open the network of a cell's best run on validation."""
    metric = stats.compared_on(cell.done)
    return open_trial(folder, max(cell.runs(metric), key=lambda record: record[metric])["trial"])


def look(chapters: TrainedNetwork, deep: TrainedNetwork) -> Looks:
    """Compute the arrays.

    Args:
      chapters: the network closest to the chapter's.
      deep: the network whose first, middle and last convolutions are shown.
    """
    dataset = chapters.dataset()
    image, names = dataset.test_images[0], dataset.info.class_names
    layer = next(layer for layer in chapters.spec or () if isinstance(layer, Conv))
    kernels = _kernels(chapters, layer.name)
    kernel_KKC = kernels.trained[0]
    shifts = np.stack([image, rolled(image[None], 2, 1)[0]])
    features, answers = chapters.features(shifts), chapters.logits(shifts).argmax(-1)
    maps = {name: x for name, x in features.items() if x.ndim == 4}
    strongest = int(np.argmax(next(iter(maps.values()))[0].sum((0, 1))))
    pair = {name: (x[0, ..., strongest], x[1, ..., strongest]) for name, x in maps.items()}
    return Looks(
        image,
        names[dataset.test_labels[0]],
        kernel_KKC.shape[0],
        _maps(np.asarray(chapters.inputs(image[None])), kernel_KKC),
        kernels,
        {name: x[0] for name, x in features.items()},
        _filters(deep),
        Shifted((shifts[0], shifts[1]), pair, (names[answers[0]], names[answers[1]])),
    )


def _kernels(network: TrainedNetwork, layer: str) -> Kernels:
    trained, random = (np.asarray(one.variables["params"][layer]["kernel"]) for one in (network, untrained(network)))
    scores, random_scores = edge_scores(trained), edge_scores(random)
    order, random_order = np.argsort(-scores, kind="stable"), np.argsort(-random_scores, kind="stable")
    return Kernels(
        np.moveaxis(trained, -1, 0)[order], scores[order], np.moveaxis(random, -1, 0)[random_order], random_scores[random_order]
    )


def _maps(x_NHWC: np.ndarray, kernel_KKC: np.ndarray) -> dict[tuple[str, int], Map]:
    k, found = kernel_KKC.shape[0], {}
    for padding, stride in [*((p, 1) for p in PADDINGS), *(("valid", s) for s in STRIDES[1:])]:
        if padding == "valid" and k > min(x_NHWC.shape[1:3]):
            continue
        x, kernel = jnp.asarray(x_NHWC), jnp.asarray(kernel_KKC[..., None])
        values = np.asarray(conv(x, kernel, strides=stride, padding=padding))[0, ..., 0]
        added = {"valid": 0, "same": k - 1, "full": 2 * (k - 1)}[padding]
        found[padding, stride] = Map(values, (added // 2, added - added // 2))
    return found


def _filters(network: TrainedNetwork) -> list[Filters]:
    """Compute the patches of the first, the middle and the last convolution."""
    images, before = network.dataset().test_images, untrained(network)
    names = [layer.name for layer in network.spec or () if isinstance(layer, Conv)]
    chosen = list(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
    found = [responses(one, images, chosen) for one in (network, before)]
    out = []
    for name in chosen:
        channels = tuple(np.flatnonzero(~found[0][name].silent)[:FILTERS].tolist())
        field = ReceptiveField.of(network, name)
        shown: list[list[list[Patch]]] = []
        for by_layer in found:
            top = by_layer[name].most()
            shown.append(
                [
                    [
                        cut(images[i], field.window(at), field.seen(at))
                        for i, at in zip(top.images[c], top.positions[c], strict=True)
                    ]
                    for c in channels
                ]
            )
        out.append(Filters(name, channels, *shown))
    return out
