"""Images of a red and a green box: is red left of green? The task of Kayhan and van Gemert, CVPR 2020, section 3.

Class 0 (red left of green) is in the upper half, class 1 in the lower one: the location predicts the class. In the *dissimilar*
test images the halves are swapped, so a network that uses the location is wrong, and one that ignores it is as accurate as on
the *similar* ones. 32 x 32 x 3, boxes of 4 x 4 on black; the left box starts in columns 0 to 9, the other at least 5 columns to
the right and up to column 27; rows vary by 8.

The published program (github.com/oskyhn/CNNs-Without-Borders) draws training, validation and test images with the same seed, so
its validation and similar test images are the first 1,000 of its 2,000 training images. `published` returns those; `similar`
draws separate ones of the same distribution.
"""

import numpy as np

from cnn_jax.data.order import order

SIDE, BOX = 32, 4
CLASS_NAMES = ("red left of green", "green left of red")
_TOP, _BOTTOM = 3, 19  # first of the eight rows at which a box may start
_COLUMNS, _ROWS = 10, 8
_TRAIN, _VALIDATION, _TEST = 2000, 1000, 1000
_PUBLISHED_SEED = 1988

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def similar() -> Arrays:
    """Generate 3,000 training images (a third for validation in the paper) and 1,000 separate test images."""
    return *_draw(0, _TRAIN + _VALIDATION), *_draw(1, _TEST)


def dissimilar() -> Arrays:
    """Generate `similar` with the test images shifted by 16 rows."""
    return *_draw(0, _TRAIN + _VALIDATION), *_draw(1, _TEST, swap=True)


def published() -> Arrays:
    """Generate the images of the published program, with its validation images for --validation_fraction=1/3 --split_seed=0.

    The first third of the shuffled training images is held out, so the 1,000 validation images are placed there.
    """
    return *_published_training(), *_published(_TEST)


def published_dissimilar() -> Arrays:
    """Generate `published` with the test images shifted by 16 rows."""
    return *_published_training(), *_published(_TEST, swap=True)


def _draw(seed: int, n: int, swap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw n images and labels; class 0 at the top and class 1 at the bottom, or swapped."""
    u = (np.random.Philox(key=seed).random_raw((n, 4)) >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
    left_N = (u[:, 0] * _COLUMNS).astype(int)
    right_N = left_N + BOX + 1 + (u[:, 1] * (SIDE - 2 * BOX - 1 - left_N)).astype(int)
    return _images(left_N, right_N, (u[:, 2] * _ROWS).astype(int), (u[:, 3] * _ROWS).astype(int), swap)


def _published(n: int, swap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first n images of the published program, with the same sequence of calls to NumPy's generator."""
    rng = np.random.RandomState(_PUBLISHED_SEED)
    drawn = np.empty((n, 4), int)
    for i in range(n):
        left, left_row = rng.randint(_COLUMNS), rng.randint(_ROWS)
        right = left
        while right - left < BOX + 1:
            right, right_row = rng.randint(left, SIDE - BOX), rng.randint(_ROWS)
        drawn[i] = left, right, left_row, right_row
    left_N, right_N, left_row_N, right_row_N = drawn.T
    return _images(left_N, right_N, left_row_N, right_row_N, swap)


def _published_training() -> tuple[np.ndarray, np.ndarray]:
    images, labels = _published(_TRAIN)
    source = np.concatenate([np.arange(_VALIDATION), np.arange(_TRAIN)])
    placed = np.empty_like(source)
    placed[order(0, len(source))] = source
    return images[placed], labels[placed]


def _images(
    left_N: np.ndarray, right_N: np.ndarray, left_row_N: np.ndarray, right_row_N: np.ndarray, swap: bool
) -> tuple[np.ndarray, np.ndarray]:
    n = len(left_N)
    label_N = np.arange(n) % 2
    first_row_N = np.where((label_N == 0) ^ swap, _TOP, _BOTTOM)
    images_NHWC = np.zeros((n, SIDE, SIDE, 3), np.uint8)
    for column_N, row_N, colour_N in ((left_N, left_row_N, label_N), (right_N, right_row_N, 1 - label_N)):
        rows_NB = (first_row_N + row_N)[:, None] + np.arange(BOX)
        columns_NB = column_N[:, None] + np.arange(BOX)
        images_NHWC[np.arange(n)[:, None, None], rows_NB[:, :, None], columns_NB[:, None, :], colour_N[:, None, None]] = 255
    return images_NHWC, label_N
