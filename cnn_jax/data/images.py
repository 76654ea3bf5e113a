"""Decoding of image files to arrays, with limits because files are untrusted.

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
MAX_PIXELS = 2**24  # 4096 x 4096: a PNG of a few kilobytes can declare far more
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "RGBX": 3, "CMYK": 3, "YCbCr": 3}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def shape(file: Path | IO[bytes], what: str) -> tuple[int, int, int]:
    """Read height, width and channels (1 or 3) from the header; palettes are colour. Raises UsageError, naming `what`."""
    with _opened(file, what) as image:
        return image.height, image.width, _CHANNELS[image.mode]


def decode(file: Path | IO[bytes], what: str, channels: int, size: int | None = None) -> np.ndarray:
    """Decode pixels, uint8 (H, W, channels), converting between grey and colour according to `channels` (1, 3, 4).

    With `size`, the image is resized as in `resize`. Raises UsageError, naming `what`, if the file is damaged, has an
    unsupported format, 16 bits, or more than `MAX_PIXELS`.
    """
    with _opened(file, what) as image:
        pixels_HWC = np.asarray(image.convert(_MODES[channels])).reshape(image.height, image.width, channels)
    return pixels_HWC if size is None else resize(pixels_HWC, size)


def resize(image_HWC: np.ndarray, size: int) -> np.ndarray:
    """Resize a uint8 image to (size, size, C): bilinear, antialiased when shrinking (Pillow's `Image.resize`)."""
    from PIL import Image

    height, width, channels = image_HWC.shape
    if (height, width) == (size, size):
        return image_HWC
    # Channel by channel: Pillow supports 1 and 3 channels, and would weight RGBA by alpha.
    planes = [image_HWC] if channels == 3 else [image_HWC[..., c] for c in range(channels)]
    small = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)) for plane in planes]
    return small[0] if channels == 3 else np.stack(small, -1)


def resize_all(images_NHWC: np.ndarray, size: int) -> np.ndarray:
    """Resize every image: uint8 (N, size, size, C). No copy if they already have this size."""
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
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is lower
            opened = Image.open(file, formats=FORMATS)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise UsageError(f"{what} has {image.width} x {image.height} pixels: must have at most {MAX_PIXELS} in total")
            # Pillow truncates 16-bit channels of a PNG to 8, except in grey images without alpha.
            mode = str(image.tile[0][3]) if image.format == "PNG" and image.tile else image.mode
            if image.mode not in _CHANNELS or ";16" in mode:
                raise UsageError(f"{what} has pixels of type {mode}: must be 8-bit grey or colour")
            yield image
    except (UsageError, GeneratorExit):
        raise
    except Image.DecompressionBombError as error:
        raise UsageError(f"{what} is a decompression bomb: must have at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow raises exceptions of many types for damaged files
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{what} cannot be decoded as {', '.join(FORMATS)}: {reason}") from error
