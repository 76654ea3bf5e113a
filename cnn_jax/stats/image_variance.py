"""Variance of cell means over images: the uncertainty due to new images. Shape suffixes: S seeds, N images, K cells."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

GRAM_UP_TO = 1000  # cells whose (K, K) covariance over images is kept


@dataclasses.dataclass(frozen=True)
class Images:
    """Answers of K cells to the same N images.

    Attributes:
        rate_KN: The share of each cell's runs that classify each image correctly.
        residual_K: Variance of one run's answer to one image that neither the run nor the image explains; 0 where a cell
            has a single run.
        runs_K: Runs per cell.
    """

    rate_KN: np.ndarray
    residual_K: np.ndarray
    runs_K: np.ndarray

    @classmethod
    def of(cls, correct: Sequence[np.ndarray]) -> "Images":
        """From the answers of each cell, (runs, N) bool."""
        rate_KN = np.stack([bits.mean(axis=0, dtype=np.float32) for bits in correct])
        return cls(rate_KN, np.array([_residual(bits) for bits in correct]), np.array([len(bits) for bits in correct]))

    @property
    def count(self) -> int:
        """N, the number of images."""
        return self.rate_KN.shape[1]

    @functools.cached_property
    def _centered_KN(self) -> np.ndarray:
        return self.rate_KN - self.rate_KN.mean(axis=1, keepdims=True)

    @functools.cached_property
    def _gram_KK(self) -> np.ndarray:
        return (self._centered_KN @ self._centered_KN.T).astype(np.float64)

    @functools.cached_property
    def _squares_K(self) -> np.ndarray:
        return np.einsum("kn,kn->k", self._centered_KN, self._centered_KN, dtype=np.float64)

    @functools.cached_property
    def _spent_K(self) -> np.ndarray:
        """Part of a cell's variance over images that is due to seeds, less one image that any cell may answer differently."""
        return (self.residual_K * (self.count - 1) - 1) / self.runs_K

    def variance(self, weight_RK: np.ndarray) -> np.ndarray:
        """(R,) variance of each contrast of cell means that a new draw of N images adds to that of new seeds.

        Answers have a variance over seeds, over images and a residual (Brennan 2001, "Generalizability theory", chapter 2).
        The spread of cell means between images, over N, includes that of images and a share of the residual that the spread
        between seeds includes as well: that share is subtracted. One additional discordant image per cell keeps the coverage
        where few or no images are answered differently (Bonett and Price 2012, "Adjusted Wald confidence interval for a
        difference of binomial proportions based on paired data").
        """
        if len(self.rate_KN) <= GRAM_UP_TO:
            squares_R = np.einsum("rk,kl,rl->r", weight_RK, self._gram_KK, weight_RK, optimize=True)
        else:
            squares_R = np.array([((w.astype(np.float32) @ self._centered_KN) ** 2).sum() for w in weight_RK])
        return np.maximum(squares_R - weight_RK**2 @ self._spent_K, 0) / (self.count * max(self.count - 1, 1))

    def variance_of_pairs(self, weight_LK: np.ndarray) -> np.ndarray:
        """(L, L) `variance` of the differences between each two of L weighted means."""
        rate_LN = weight_LK.astype(np.float32) @ self._centered_KN
        squares_LL = differences((rate_LN @ rate_LN.T).astype(np.float64))
        spent_LL = differences((weight_LK * self._spent_K) @ weight_LK.T)
        return np.maximum(squares_LL - spent_LL, 0) / (self.count * max(self.count - 1, 1))

    def pair_variance(self, i: np.ndarray | int, j: np.ndarray | int) -> np.ndarray:
        """`variance` of the differences between cells i and cells j, or of the grid of i, (R, 1), and j, (1, C)."""
        i, j = np.asarray(i), np.asarray(j)
        if len(self.rate_KN) <= GRAM_UP_TO:
            products = self._gram_KK[i, j]
        else:  # a few rows of the covariance suffice; all of them would not fit in memory
            products = (self._centered_KN[i.ravel()] @ self._centered_KN[j.ravel()].T).reshape(i.size, j.size)
        squares = self._squares_K[i] + self._squares_K[j] - 2 * products
        return np.maximum(squares - self._spent_K[i] - self._spent_K[j], 0) / (self.count * max(self.count - 1, 1))

    def only(self, index: Sequence[int]) -> "Images":
        """The answers of these cells only."""
        at = list(index)
        return Images(self.rate_KN[at], self.residual_K[at], self.runs_K[at])


def _residual(bits_SN: np.ndarray) -> float:
    runs, images = bits_SN.shape
    if runs < 2 or images < 2:
        return 0.0
    # Sums of squares of a two-way layout of zeros and ones.
    right = float(bits_SN.sum())
    total = right - right**2 / bits_SN.size
    by_run = float((bits_SN.sum(axis=1) ** 2.0).sum() / images - right**2 / bits_SN.size)
    by_image = float((bits_SN.sum(axis=0) ** 2.0).sum() / runs - right**2 / bits_SN.size)
    return max(0.0, total - by_run - by_image) / ((runs - 1) * (images - 1))


def differences(gram_LL: np.ndarray) -> np.ndarray:
    """Squared distances from inner products."""
    squares_L = np.diag(gram_LL)
    return squares_L[:, None] + squares_L[None] - 2 * gram_LL
