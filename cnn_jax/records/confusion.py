"""Confusion matrices, and their text in a record. K classes, true ones as rows, answers as columns."""

import base64
import binascii
import math
import zlib

import numpy as np

MOST_CLASSES = 256  # of a matrix that is kept


def matrix(labels_N: np.ndarray, answers_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Count N images by label (rows) and answer (columns): int (K, K)."""
    counts = np.bincount(labels_N.astype(np.int64) * num_classes + answers_N, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def encode(matrix_KK: np.ndarray) -> str | None:
    """Encode the matrix as base64 of zlib of little-endian 32-bit counts; None for more classes than `MOST_CLASSES`."""
    if len(matrix_KK) > MOST_CLASSES:
        return None
    return base64.b64encode(zlib.compress(matrix_KK.astype("<u4").tobytes(), 9)).decode()


def decode(text: str) -> np.ndarray:
    """Decode the text of `encode` into a matrix (K, K) uint32.

    Raises:
      ValueError: the text is not an encoded matrix. At most `MOST_CLASSES` squared counts are unpacked.
    """
    try:
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(base64.b64decode(text, validate=True), 4 * MOST_CLASSES**2)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not a confusion matrix: {error}") from None
    classes = math.isqrt(len(raw) // 4)
    if not unpacking.eof or len(raw) != 4 * classes**2:
        raise ValueError("not a confusion matrix: too long, cut short, or not square")
    return np.frombuffer(raw, "<u4").reshape(classes, classes)


def class_accuracy(matrix_KK: np.ndarray) -> np.ndarray:
    """Accuracy of each class, (K,) float64; nan for a class without images."""
    images_K = matrix_KK.sum(1)
    return np.divide(np.diag(matrix_KK), images_K, out=np.full(len(images_K), np.nan), where=images_K > 0)
