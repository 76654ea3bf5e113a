"""Image files to arrays, within bounds: what is decoded may come from anywhere.

Pillow is the decoder; it is imported on first use. Only the first frame of an animation is read, transparency is dropped,
and a rotation noted in EXIF is not applied (as in Keras, torchvision and TFDS).
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from cnn_jax.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
MAX_PIXELS = 2**24  # 4096 x 4096: no convnet reads more, and a few kilobytes of PNG can claim much more
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "RGBX": 3, "CMYK": 3, "YCbCr": 3}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def shape(file: Path | IO[bytes], what: str) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) from the file's header; palettes are colour. Raises UsageError, naming `what`."""
    with _opened(file, what) as image:
        return image.height, image.width, _CHANNELS[image.mode]


def decode(file: Path | IO[bytes], what: str, channels: int, size: int | None = None) -> np.ndarray:
    """Pixels, uint8 (H, W, channels); colour is turned to grey or grey to colour as `channels` (1, 3, 4) says.

    With `size`, the image is resized as by `resize`. Raises UsageError, naming `what`, if the file is broken, of another
    format, has 16 bits or more than `MAX_PIXELS`.
    """
    with _opened(file, what) as image:
        pixels_HWC = np.asarray(image.convert(_MODES[channels])).reshape(image.height, image.width, channels)
    return pixels_HWC if size is None else resize(pixels_HWC, size)


def resize(image_HWC: np.ndarray, size: int) -> np.ndarray:
    """The image, uint8, stretched to (size, size, C): bilinear, antialiased where it shrinks (Pillow's `Image.resize`)."""
    from PIL import Image

    height, width, channels = image_HWC.shape
    if (height, width) == (size, size):
        return image_HWC
    # Channel by channel: Pillow knows 1 and 3 channels, and would weight those of RGBA by its alpha.
    planes = [image_HWC] if channels == 3 else [image_HWC[..., c] for c in range(channels)]
    small = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)) for plane in planes]
    return small[0] if channels == 3 else np.stack(small, -1)


def resize_all(images_NHWC: np.ndarray, size: int) -> np.ndarray:
    """`resize` of every image: uint8 (N, size, size, C). Copies nothing if they have this size."""
    if images_NHWC.shape[1:3] == (size, size):
        return images_NHWC
    out_NHWC = np.empty((len(images_NHWC), size, size, images_NHWC.shape[-1]), np.uint8)
    for i, image_HWC in enumerate(images_NHWC):
        out_NHWC[i] = resize(image_HWC, size)
    return out_NHWC


@contextlib.contextmanager
def _opened(file: Path | IO[bytes], what: str) -> Iterator["Image.Image"]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
            opened = Image.open(file, formats=FORMATS)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise UsageError(f"{what} has {image.width} x {image.height} pixels: must have at most {MAX_PIXELS} in all")
            # Pillow cuts the 16-bit channels of a PNG to 8, except in grey images without alpha.
            mode = str(image.tile[0][3]) if image.format == "PNG" and image.tile else image.mode
            if image.mode not in _CHANNELS or ";16" in mode:
                raise UsageError(f"{what} has pixels of type {mode}: must be 8-bit grey or colour")
            yield image
    except (UsageError, GeneratorExit):
        raise
    except Image.DecompressionBombError as error:
        raise UsageError(f"{what} is a decompression bomb: must have at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # what Pillow raises on broken files is of every type
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{what} cannot be decoded as {', '.join(FORMATS)}: {reason}") from error
