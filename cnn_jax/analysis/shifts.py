"""Predictions on shifted images. N images, *S = (H, W), C channels."""

import itertools

import numpy as np

from cnn_jax.analysis.measures.position import position
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.padding_card import PaddingCard
from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError

IMAGES, LEAST = 200, 16  # maximum and minimum number of test images of a card
_SHIFTED = 50_000  # maximum shifted images of a card, unless `LEAST` images need more
_AT_ONCE = 2048  # minimum shifted images per evaluation


def padding_card(network: TrainedNetwork, dataset: Dataset, name: str | None = None) -> PaddingCard:
    """Measure the padding card of a network on the first test images: `IMAGES`, or fewer large ones.

    Raises:
      UsageError: the images do not have two spatial axes.
    """
    if len(network.input_shape) != 3:
        raise UsageError(f"{network.label}: a padding card needs two spatial axes, not {len(network.input_shape) - 1}")
    count = int(np.clip(_SHIFTED // np.prod(network.input_shape[:2]), LEAST, IMAGES))
    images, labels = dataset.test_images[:count], dataset.test_labels[:count]
    blank_C, answers = blank(dataset), network.logits(images).argmax(-1)
    margins = content_margins(images, blank_C)
    height, width = network.input_shape[:2]
    maps = np.full((3, height, width), np.nan)
    for row, dy in enumerate(range(-(height // 2), height - height // 2)):
        for column, dx in enumerate(range(-(width // 2), width - width // 2)):
            turned = network.logits(np.roll(images, (dy, dx), (1, 2))).argmax(-1)
            maps[1, row, column] = np.mean(turned == answers)
            if (inside := stays_inside(margins, dy, dx)).any():
                moved = network.logits(shifted(images[inside], dy, dx, blank_C)).argmax(-1)
                maps[0, row, column] = np.mean(moved != labels[inside])
                maps[2, row, column] = np.mean(moved == answers[inside])
    found = error_by_distance(network, images, labels, blank_C)
    padding = name or (network.trial and network.trial.model.padding) or ""
    return PaddingCard(padding, maps[0], found, maps[1], maps[2], position(network, dataset))


def blank(dataset: Dataset) -> np.ndarray:
    """Compute the background colour (C,): the median of the outermost pixels of the first 1,000 training images."""
    images = dataset.train_images[:1000]
    rim = np.ones(images.shape[1:3], bool)
    rim[1:-1, 1:-1] = False
    return np.median(images[:, rim], axis=(0, 1)).astype(images.dtype)


def content_margins(images_NHWC: np.ndarray, blank_C: np.ndarray) -> np.ndarray:
    """Count blank rows and columns around the content of each image: (N, 4) as top, bottom, left, right."""
    content_NHW = (images_NHWC != blank_C).any(axis=-1)
    margins = []
    for axis in (2, 1):  # over columns, then over rows
        used = content_NHW.any(axis=axis)
        empty = ~used.any(axis=1)
        low = np.where(empty, used.shape[1] // 2, used.argmax(axis=1))
        high = np.where(empty, used.shape[1] - used.shape[1] // 2, used[:, ::-1].argmax(axis=1))
        margins += [low, high]
    return np.stack(margins, axis=1)


def stays_inside(margins_N4: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Whether the content (N,) stays inside the image when it is shifted by (dy, dx)."""
    top, bottom, left, right = margins_N4.T
    return (top >= -dy) & (bottom >= dy) & (left >= -dx) & (right >= dx)


def shifted(images_NHWC: np.ndarray, dy: int, dx: int, blank_C: np.ndarray) -> np.ndarray:
    """Shift images down by dy and right by dx; blank pixels are shifted in."""
    height, width = images_NHWC.shape[1:3]
    out = np.broadcast_to(blank_C, images_NHWC.shape).astype(images_NHWC.dtype)
    to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    out[:, to_y, to_x] = images_NHWC[:, from_y, from_x]
    return out


def error_by_distance(
    network: TrainedNetwork, images_NHWC: np.ndarray, labels_N: np.ndarray, blank_C: np.ndarray
) -> dict[int, float]:
    """Measure the error rate by distance of the content from the nearest border, in pixels.

    Every image is shifted to every position at which its content stays inside. The distances are 0 to D, the largest reached by
    half of the images; only these images are used, each with its mean error over the positions at a distance, so that all
    distances are compared on the same images. Empty if most contents fill their image. After Alsallakh et al. 2021, "Mind the
    pad: CNNs can develop blind spots": activations near the border are suppressed, and objects there are missed.
    """
    margins_N4 = content_margins(images_NHWC, blank_C)
    free_N2 = margins_N4.reshape(-1, 2, 2).sum(axis=2)
    reach_N = (free_N2 // 2).min(axis=1)
    most = int(np.median(reach_N))
    if most < 1:
        return {}
    chosen = np.flatnonzero(reach_N >= most)
    images, labels, margins = images_NHWC[chosen], labels_N[chosen], margins_N4[chosen]
    wrong, places = np.zeros((len(chosen), most + 1)), np.zeros((len(chosen), most + 1))
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # image indices, distances, shifted images

    def answer() -> None:
        """Evaluate many shifts together, in batches of one size, which need one program."""
        index, distance, moved = (np.concatenate(part) for part in zip(*waiting, strict=True))
        np.add.at(wrong, (index, distance), network.logits(moved).argmax(-1) != labels[index])
        np.add.at(places, (index, distance), 1)
        waiting.clear()

    lowest, highest = -margins.max(axis=0)[[0, 2]], margins.max(axis=0)[[1, 3]]
    for dy, dx in itertools.product(range(lowest[0], highest[0] + 1), range(lowest[1], highest[1] + 1)):
        inside = np.flatnonzero(stays_inside(margins, dy, dx))
        distance = (margins[inside] + np.array([dy, -dy, dx, -dx])).min(axis=1)
        inside, distance = inside[distance <= most], distance[distance <= most]
        waiting.append((inside, distance, shifted(images[inside], dy, dx, blank_C)))
        if sum(len(index) for index, _, _ in waiting) >= _AT_ONCE:
            answer()
    if waiting:
        answer()
    rate = wrong / places  # every chosen image has a place at every distance up to `most`
    return {d: float(rate[:, d].mean()) for d in range(most + 1)}
