"""First-layer kernels and feature maps of each cell's best and median seed, on one test image."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax import stats
from cnn_jax.lowering import Op
from cnn_jax.report import pictures, svg, tiles, words
from cnn_jax.report.explorer import forward, kept

PICTURE_BYTES = 1_200_000  # of the page, for all cells of a data set
KERNELS, MAPS, LAYERS = 64, 32, 5  # of a network that are drawn
COLUMNS = 8
SIDE = 48  # pixels of a map at most; larger ones are reduced
SHADES = 48  # of a map
TILE = 26  # pixels of the page that a kernel or a map is about wide
WORK = 3e9  # multiply-accumulates of one network's maps at most


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network of a cell; `role` is 'best seed' or 'median seed'."""

    cell: stats.Cell
    role: str
    record: stats.Record
    ops: tuple[Op, ...]

    def logits(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Outputs (N, K) for uint8 images; non-finite values are 0."""
        with np.errstate(all="ignore"):
            return _finite(forward.run(self.ops, kept.normalization(self.record)(images_NHWC)))

    def outputs(self, image_HWC: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Name and output of each step for one image; non-finite values are 0."""
        with np.errstate(all="ignore"):
            x_NHWC = kept.normalization(self.record)(image_HWC[None])
            return [(op.name, _finite(y[0])) for op, y in forward.outputs(self.ops, x_NHWC)]


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


@dataclasses.dataclass(frozen=True)
class Shown:
    """The test image whose maps are drawn; `says` describes it."""

    pixels: np.ndarray
    says: str


def networks(
    folders: Sequence[Path], cell: stats.Cell, metric: str, images: pictures.Images, shape: tuple[int, ...]
) -> list[Network]:
    """The best and the median network of a cell; empty if no parameters were kept, or its model is a fork's."""
    found = []
    for role, record in kept.best_and_median(cell, metric):
        if (record.get("macs") or 0) <= WORK and (ops := kept.steps(folders, record, shape, len(images.class_names))):
            network = Network(cell, role, record, ops)
            with contextlib.suppress(ValueError):  # a record may claim a normalization that does not fit the images
                network.outputs(np.zeros(shape, np.uint8))
                found.append(network)
    return found


def pick(images: pictures.Images, shape: tuple[int, ...], share_right: dict[int, float]) -> Shown:
    """The stored test image on which runs disagree most, else the first training image."""
    stored = {i: one for i, one in (images.picked | images.test).items() if one[0].shape == shape}
    if not stored:
        label, examples = next(iter(images.examples.items()))
        return Shown(examples[0], f"a training image of class {label}")
    index = min(stored, key=lambda i: (abs(share_right.get(i, 1.0) - 0.5), i))
    image, label = stored[index]
    right = f", right in {100 * share_right[index]:.0f} % of runs" if index in share_right else ""
    return Shown(image, f"test image {index} of class {label}{right}")


def block(networks: Sequence[Network], shown: Shown, names: Sequence[str], analysis: stats.Analysis, *, unfold: bool) -> str:
    """A cell's pictures, drawn when they are unfolded."""
    outputs = [network.outputs(shown.pixels) for network in networks]
    shape = shown.pixels.shape
    columns = []
    seen = [kept.first_kernels(network.ops, shape) for network in networks]
    kernels = [(found[0], _finite(found[1])) if found else None for found in seen]
    largest = max((float(np.abs(found[1]).max(initial=0.0)) for found in kernels if found), default=0.0)
    layers = _layers(outputs[0])
    tops = {i: tiles.robust_top(np.concatenate([out[i][1].ravel() for out in outputs])) for i in layers}
    for network, out, found in zip(networks, outputs, kernels, strict=True):
        parts = [svg.tag("h4", svg.escape(_title(network))), svg.tag("p", svg.escape(_says(network, out, names, analysis)))]
        parts += [_kernels(*found, largest)] if found else []
        parts += [_maps(*out[i], tops[i]) for i in layers]
        columns.append(svg.tag("div", "".join(parts)))
    cell = networks[0].cell
    values = [f"{n.role} {words.units(analysis).value(n.record[analysis.metric])}" for n in networks]
    summary = svg.tag("summary", svg.escape(f"{cell.label}: {', '.join(values)}"))
    opened = " open" if unfold else ""
    return f'<details class="cell-inside as-it-is"{opened}>{summary}<div class="seeds">{"".join(columns)}</div></details>'


def _title(network: Network) -> str:
    return f"{network.role}: {network.record['config']['seed']}"


def _says(network: Network, out: list[tuple[str, np.ndarray]], names: Sequence[str], analysis: stats.Analysis) -> str:
    logits_K = out[-1][1]
    exponent_K = np.exp(logits_K - logits_K.max())
    answer = int(logits_K.argmax())
    units = words.units(analysis)
    measured = f"{units.noun} {units.value(network.record[analysis.metric])}"
    return f"{measured}; takes the image for {names[answer]} ({100 * exponent_K[answer] / exponent_K.sum():.0f} %)"


def _layers(out: Sequence[tuple[str, np.ndarray]]) -> list[int]:
    """Indices of the outputs with maps: at most `LAYERS`, at even distances."""
    spatial = [i for i, (_, y) in enumerate(out) if y.ndim == 3]
    return [spatial[round(i)] for i in np.unique(np.linspace(0, len(spatial) - 1, LAYERS).round())] if spatial else []


def _kernels(layer: str, kernel_FHWC: np.ndarray, largest: float) -> str:
    """All kernels on one scale: mid-grey is 0; in colour where they see three channels."""
    count, height, width, channels = kernel_FHWC.shape
    shown = kernel_FHWC[:KERNELS] if channels in (1, 3) else kernel_FHWC[:KERNELS].mean(axis=-1, keepdims=True)
    pixels = np.rint(255 * (0.5 + 0.5 * shown / (largest or 1.0))).clip(0, 255).astype(np.uint8)
    pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)  # opaque; the gaps are transparent
    picture = tiles.mosaic(pixels, COLUMNS, 0)
    of = f" of {count}" if count > len(shown) else ""
    mean = f", means over {channels} channels" if channels not in (1, 3) else ""
    caption = f"{layer}: {len(shown)}{of} kernels of {height}×{width}{mean}, up to {largest:.2g}"
    return _figure(pictures.png(picture), picture.shape, width, f"kernels of {layer}", caption)


def _maps(layer: str, y_HWC: np.ndarray, top: float) -> str:
    """Maps of a layer for one image: violet is 0 and less, yellow the largest."""
    count = y_HWC.shape[-1]
    maps = np.moveaxis(_reduced(y_HWC[..., :MAPS]), -1, 0)
    indices = np.rint((SHADES - 1) * (maps / (top or 1.0)).clip(0, 1)).astype(np.uint8)[..., None]
    picture = tiles.mosaic(indices, COLUMNS, SHADES)[..., 0]
    of = f" of {count}" if count > MAPS else ""
    caption = f"{layer}: {len(maps)}{of} maps of {y_HWC.shape[0]}×{y_HWC.shape[1]}, up to {top:.2g}"
    address = pictures.paletted(picture, tiles.palette(SHADES))
    return _figure(address, picture.shape, maps.shape[2], f"maps of {layer}", caption)


def _reduced(y_HWC: np.ndarray) -> np.ndarray:
    """Means over squares, so that no side is longer than `SIDE`; incomplete squares at the edges are left out."""
    step = -(-max(y_HWC.shape[:2]) // SIDE)
    height, width = (n // step for n in y_HWC.shape[:2])
    if step == 1 or not height or not width:
        return y_HWC
    return y_HWC[: height * step, : width * step].reshape(height, step, width, step, -1).mean(axis=(1, 3))


def _figure(address: str, shape: tuple[int, ...], tile: int, what: str, caption: str) -> str:
    height, width = (n * max(1, round(TILE / tile)) for n in shape[:2])  # their place is kept free until they are drawn
    image = svg.tag("img", src=address, alt=what, width=width, height=height, loading="lazy", decoding="async")
    return svg.tag("figure", image + svg.tag("figcaption", svg.escape(caption)))
