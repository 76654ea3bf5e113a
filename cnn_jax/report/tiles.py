"""Arrays as small pictures: colours, montages, enlargement. Pictures are uint8 (H, W, 4); empty areas are transparent."""

from collections.abc import Sequence

import numpy as np

Tile = np.ndarray  # uint8 (H, W, 4)

# Viridis of Smith and van der Walt in ten steps, as in page.css; blue, white and vermilion of Okabe and Ito.
_SEQUENTIAL = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
_DIVERGING = ("0072b2", "f7f7f7", "d55e00")
_GAP, _GAP_COLOUR = 2, (128, 134, 142, 255)  # pixels between tiles


def palette(count: int) -> np.ndarray:
    """`count` colours (count, 3) uint8 from dark violet to yellow."""
    return _coloured(np.linspace(0, 1, count)[None], _SEQUENTIAL)[0, :, :3]


def mosaic(tiles_THWC: np.ndarray, columns: int, gap: float) -> np.ndarray:
    """Tiles in rows, one pixel of value `gap` between them: (height, width, C)."""
    count, height, width, channels = tiles_THWC.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    out = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), gap, tiles_THWC.dtype)
    for i, tile in enumerate(tiles_THWC):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        out[top : top + height, left : left + width] = tile
    return out


def image(pixels: np.ndarray, inside: np.ndarray | None = None) -> Tile:
    """Grey or colour pixels (H, W, C), uint8 or floats of 0..1, as a picture; transparent where `inside` (H, W) is False.

    Other numbers of channels than 1 and 3 are shown as their mean.
    """
    if pixels.shape[-1] not in (1, 3):
        pixels = pixels.mean(axis=-1, keepdims=True)
    if pixels.dtype != np.uint8:
        top = 255.0 if np.issubdtype(pixels.dtype, np.floating) and pixels.max(initial=0) <= 1 else 1.0
        pixels = np.rint(pixels * top).clip(0, 255).astype(np.uint8)
    out = np.full((*pixels.shape[:-1], 4), 255, np.uint8)
    out[..., :3] = pixels
    if inside is not None:
        out[..., 3] = np.where(inside, 255, 0)
    return out


def sequential(values: np.ndarray, top: float) -> Tile:
    """Values (H, W) of 0 to `top` as colours from dark violet to yellow."""
    return _coloured(values / (top or 1.0), _SEQUENTIAL)


def diverging(values: np.ndarray, top: float) -> Tile:
    """Values (H, W) of -top to top as colours from blue over white to orange."""
    return _coloured(0.5 + 0.5 * values / (top or 1.0), _DIVERGING)


def _coloured(share: np.ndarray, stops: Sequence[str]) -> Tile:
    colours = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in stops], float)
    place = np.nan_to_num(share).clip(0, 1) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    rest = (place - low)[..., None]
    out = np.full((*share.shape, 4), 255, np.uint8)
    out[..., :3] = np.rint(colours[low] * (1 - rest) + colours[low + 1] * rest)
    return out


def robust_top(values: np.ndarray) -> float:
    """The 99.5th percentile of absolute values, so that a few outliers do not darken the rest."""
    return float(np.percentile(np.abs(values), 99.5)) if values.size else 0.0


def fitted(tile: Tile, size: int) -> Tile:
    """Enlarged by a whole factor, or reduced, to a longer side of about `size` pixels."""
    longest = max(tile.shape[:2])
    if longest <= size:
        return np.kron(tile, np.ones((size // longest, size // longest, 1), np.uint8))
    from PIL import Image

    height, width = (max(1, round(n * size / longest)) for n in tile.shape[:2])
    return np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.BOX))


def montage(tiles: Sequence[Tile], columns: int) -> Tile:
    """Tiles of one size in rows, grey lines between them."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    out = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 4), _GAP_COLOUR, np.uint8)
    if len(tiles) % columns:
        out[-height:, (len(tiles) % columns) * (width + _GAP) - _GAP :] = 0
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + _GAP), i % columns * (width + _GAP)
        out[top : top + height, left : left + width] = tile
    return out
