"""Images of the data that a sweep stored in its folder, as pictures for the page."""

import base64
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn_jax import stats
from cnn_jax.records import store

if TYPE_CHECKING:
    from PIL import Image as pillow

PICTURE_BYTES = 200_000  # of the page, for images behind the table of disagreements
Image = np.ndarray  # uint8 (H, W, 1) or (H, W, 3)


@dataclasses.dataclass(frozen=True)
class Images:
    """Stored images of one data set: some training images of each class, test images by index with their labels, all classes.

    `test` holds test images that no run got right, `picked` those on which runs disagree and some that all got right.
    """

    examples: dict[str, list[Image]]
    test: dict[int, tuple[Image, str]]
    class_names: tuple[str, ...] = ()
    picked: dict[int, tuple[Image, str]] = dataclasses.field(default_factory=dict)


def load(dirs: Sequence[str | Path], records: Iterable[stats.Record]) -> dict[str, Images]:
    """The stored images of the data sets in `records`, by checksum. Without a readable file, a data set has no entry."""
    found: dict[str, Images] = {}
    for checksum in {r["data"]["checksum"] for r in records if r.get("data")}:
        for dir in dirs:
            images = _images(store.images(dir, checksum))
            if images and checksum in found:
                found[checksum].test.update(images.test)
                found[checksum].picked.update(images.picked)
            elif images:
                found[checksum] = images
    return found


def addresses(images: dict[str, Images], records: Iterable[stats.Record]) -> dict[int, str]:
    """Stored test images by index as data: addresses, if all records are of one test set; at most `PICTURE_BYTES` of them."""
    sets = {r["data"]["checksum"] for r in records if r.get("data")}
    found = images.get(sets.pop()) if len(sets) == 1 else None
    out, size = {}, 0
    for index, (image, _) in (found.picked | found.test).items() if found else ():
        address = png(image)
        size += len(address)
        if size > PICTURE_BYTES:
            break
        out[index] = address
    return out


def _images(arrays: dict[str, np.ndarray]) -> Images | None:
    """None if the arrays are not those that a sweep stores: the file is untrusted."""
    try:
        examples, missed = _checked(arrays, "example"), _checked(arrays, "missed")
        names, indices = arrays["class_names"], arrays["missed_indices"]
        if names.ndim != 1 or names.dtype.kind != "U" or indices.shape != (len(missed),) or indices.dtype.kind not in "iu":
            return None
        picked = arrays.get("picked_indices", indices[:0]), _checked(arrays, "picked") if "picked_images" in arrays else []
        if picked[0].shape != (len(picked[1]),) or picked[0].dtype.kind not in "iu":
            return None
    except (KeyError, ValueError):
        return None

    def name(label: int) -> str:
        return str(names[label]) if 0 <= label < len(names) else str(label)

    by_class: dict[str, list[Image]] = {}
    for image, label in examples:
        by_class.setdefault(name(label), []).append(image)

    def numbered(indices: np.ndarray, images: list[tuple[Image, int]]) -> dict[int, tuple[Image, str]]:
        return {int(i): (image, name(label)) for i, (image, label) in zip(indices, images, strict=True)}

    return Images(by_class, numbered(indices, missed), tuple(map(str, names)), numbered(*picked))


def _checked(arrays: dict[str, np.ndarray], kind: str) -> list[tuple[Image, int]]:
    images, labels = arrays[f"{kind}_images"], arrays[f"{kind}_labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError("not images")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError("not labels")
    return [(image, int(label)) for image, label in zip(images, labels, strict=True)]


def strip(images: Sequence[Image]) -> Image:
    """Images of one height side by side, a grey column of pixels between them."""
    gap = np.full_like(images[0][:, :1], 128)
    parts = [part for image in images for part in (image, gap)][:-1]
    return np.concatenate(parts, axis=1)


def png(image: Image) -> str:
    """The image as a data: address; of two channels the second is opacity."""
    from PIL import Image as pillow

    return _address(pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image))


def paletted(indices: np.ndarray, colours: np.ndarray) -> str:
    """A picture of colours (K, 3) by their indices (H, W) uint8, as a data: address; index K is transparent."""
    from PIL import Image as pillow

    picture = pillow.fromarray(indices)
    picture.putpalette(np.concatenate([colours, np.zeros((1, 3), np.uint8)]).tobytes())
    return _address(picture, transparency=len(colours))


def _address(picture: "pillow.Image", **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
