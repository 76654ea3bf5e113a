"""A convolution as a dense layer: equal outputs, and both parameter counts."""

import itertools

import numpy as np
import pytest

from cnn_jax import conv
from cnn_jax.analysis.equal_dense import equal_dense
from cnn_jax.errors import UsageError

PADDINGS = ("valid", "same", "same_lower", "full", 1, ((1, 2), (0, 1)))
MODES = ("zeros", "reflect", "symmetric", "replicate", "circular")
SETTINGS = [
    *({"padding": p, "padding_mode": m} for p, m in itertools.product(PADDINGS, MODES)),
    *({"padding": "same", "strides": s, "dilation": d} for s, d in itertools.product((1, 2, (3, 2)), (1, 2, (1, 3)))),
    *({"padding": "same", "padding_mode": m, "strides": 2, "dilation": 2, "groups": 2} for m in MODES),
    {"groups": 4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_outputs_equal_those_of_the_convolution(settings: dict) -> None:
    rng = np.random.default_rng(0)
    groups = settings.get("groups", 1)
    x = rng.normal(size=(3, 7, 8, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 2, 4 // groups, 8)).astype(np.float32)
    bias = rng.normal(size=8).astype(np.float32)
    dense = equal_dense(kernel, (7, 8, 4), bias, **settings)
    expected = np.asarray(conv(x, kernel, bias, **settings))
    assert dense(x).shape == expected.shape
    np.testing.assert_allclose(dense(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same", "full", "causal"])
def test_one_spatial_axis(padding: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 3)).astype(np.float32), rng.normal(size=(4, 3, 5)).astype(np.float32)
    dense = equal_dense(kernel, (9, 3), padding=padding)
    np.testing.assert_allclose(dense(x), np.asarray(conv(x, kernel, padding=padding)), rtol=1e-5, atol=1e-5)


def test_counts_of_the_chapters_layer() -> None:
    # 32 filters of 3 x 3 on one channel of 14 x 14, a quarter of the chapter's image: 12 x 12 windows.
    dense = equal_dense(np.zeros((3, 3, 1, 32)), (14, 14, 1), np.zeros(32))
    assert dense.conv_params == 320
    assert dense.dense_params == (14 * 14 + 1) * 12 * 12 * 32
    assert dense.connections == 12 * 12 * 32 * 9
    assert dense.output_shape == (12, 12, 32)


def test_groups_and_padding_take_connections_away() -> None:
    kernel = np.ones((3, 3, 2, 4))
    whole = equal_dense(np.ones((3, 3, 4, 4)), (5, 5, 4), padding="same").connections
    assert equal_dense(kernel, (5, 5, 4), padding="same", groups=2).connections == whole / 2
    assert whole == 16 * (3 * 5 - 2) ** 2  # windows at the border lose a tap per axis
    assert equal_dense(np.ones((3, 3, 4, 4)), (5, 5, 4), padding="same", padding_mode="circular").connections == 16 * 15**2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit images of shape"):
        equal_dense(np.zeros((3, 3, 2, 4)), (5, 5, 3))
    with pytest.raises(UsageError, match="larger than its input"):
        equal_dense(np.zeros((6, 6, 1, 4)), (5, 5, 1))
    with pytest.raises(UsageError, match="unknown padding_mode 'mirror': must be one of zeros"):
        equal_dense(np.zeros((3, 3, 1, 4)), (5, 5, 1), padding_mode="mirror")
    with pytest.raises(UsageError, match="the limit is"):
        equal_dense(np.zeros((3, 3, 3, 64)), (224, 224, 3), padding="same")
