"""Receptive patches: the exact pixels that an output depends on, padding included. *S spatial axes, C channels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.nn import Field, LayerInfo, Spec, layer_table

Bounds = tuple[tuple[int, int], ...]  # first and last (exclusive) pixel per axis


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """Receptive field of the outputs of a layer in the image.

    `sizes` and `fields` have an entry per axis for the image and for every layer on the path to this one, the last; a block
    counts as one layer. If an output depends on the whole image or on an unknown part (after a flatten or a global pooling, and
    in a linen module without a spec), there is only the entry of the image.
    """

    sizes: tuple[tuple[int, ...], ...]
    fields: tuple[tuple[Field, ...], ...]

    @classmethod
    def of(cls, network: TrainedNetwork, layer: str) -> "ReceptiveField":
        """Compute the receptive field of the outputs of a layer."""
        image = network.input_shape[:-1]
        start = (image,), ((Field(),) * len(image),)
        if network.spec is None:
            return cls(*start)
        rows = {row.name: row for row in layer_table(network.spec, network.input_shape).layers}
        way = _way(network.spec, layer, rows)
        known = [(row.output_shape[:-1], row.fields) for row in way if row.fields is not None]
        if len(known) < len(way):
            return cls(*start)
        return cls((*start[0], *(size for size, _ in known)), (*start[1], *(fields for _, fields in known)))

    @property
    def is_whole(self) -> bool:
        """Whether outputs depend on the whole image."""
        return len(self.sizes) == 1

    @property
    def last(self) -> tuple[Field, ...] | None:
        """Field of the layer per axis, borders ignored; None for the whole image."""
        return None if self.is_whole else self.fields[-1]

    def window(self, position: Sequence[int]) -> Bounds:
        """Compute the window of the output at `position`; pixels below 0 and beyond the image are padding."""
        if self.is_whole:
            return tuple((0, n) for n in self.sizes[0])
        starts = [field.start + field.jump * int(p) for field, p in zip(self.fields[-1], position, strict=True)]
        return tuple((start, start + field.size) for start, field in zip(starts, self.fields[-1], strict=True))

    def seen(self, position: Sequence[int]) -> Bounds:
        """Compute the image pixels that the output at `position` depends on; (0, 0) per axis if there are none.

        This is the window without the padding of any layer on the path. Pixels repeated by a padding mode, such as circular,
        are not counted.
        """
        if self.is_whole:
            return self.window(position)
        out = []
        for axis, place in enumerate(position):
            low, high = int(place), int(place)
            for i in range(len(self.sizes) - 1, 0, -1):
                after, before = self.fields[i][axis], self.fields[i - 1][axis]
                start = (after.start - before.start) // before.jump
                span = (after.size - before.size) // before.jump
                stride = after.jump // before.jump
                low, high = max(low * stride + start, 0), min(high * stride + start + span, self.sizes[i - 1][axis] - 1)
            out.append((low, high + 1) if low <= high else (0, 0))
        return tuple(out) if all(low < high for low, high in out) else ((0, 0),) * len(out)


def _way(spec: Spec, name: str, rows: dict[str, LayerInfo]) -> list[LayerInfo]:
    """Return the rows of the layers from the input of `spec` to the layer `name`; [] if it is not in `spec`."""
    way: list[LayerInfo] = []
    for layer in spec:
        for part in layer.nested:
            if inside := _way(part, name, rows):
                return way + inside
        way.append(rows[layer.name])
        if layer.name == name:
            return way
    return []


@dataclasses.dataclass(frozen=True)
class Patch:
    """Pixels (*S', C) in an output's window, and a mask (*S') of those inside the image; the others are padding, 0."""

    pixels: np.ndarray
    inside: np.ndarray


def cut(image_SC: np.ndarray, window: Bounds, seen: Bounds) -> Patch:
    """Cut the patch `window` out of an image; `seen` are the pixels that the output depends on.

    A window larger than the image is clipped to it.
    """
    spans = [(0, n) if high - low > n else (low, high) for (low, high), n in zip(window, image_SC.shape, strict=False)]
    pixels = np.zeros((*(high - low for low, high in spans), image_SC.shape[-1]), image_SC.dtype)
    inside = np.zeros(pixels.shape[:-1], bool)
    target = tuple(slice(low - start, high - start) for (low, high), (start, _) in zip(seen, spans, strict=True))
    if all(low < high for low, high in seen):
        pixels[target] = image_SC[tuple(slice(low, high) for low, high in seen)]
        inside[target] = True
    return Patch(pixels, inside)
