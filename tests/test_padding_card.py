"""Padding card, and the equivariance to shifts that circular and full padding promise."""

import hand_made
import jax
import numpy as np
import optax
import pytest

from cnn_jax import nn
from cnn_jax.analysis import padding_card, shifts
from cnn_jax.analysis.network import TrainedNetwork

STRIDE = 4  # of the networks below, in all


def global_pooled(pool: nn.Layer, **settings: object) -> TrainedNetwork:
    """Three convolutions with a total stride of 4, a global pool and a dense layer, on images of 16 x 16."""
    spec = tuple(nn.Conv(8, 3, s, activation="relu", kernel_init="he_uniform", **settings) for s in (1, 2, 2))
    return hand_made.network((*spec, pool, nn.Dense(3)), (16, 16, 1))


def trained(network: TrainedNetwork, images: np.ndarray, labels: np.ndarray, steps: int = 20) -> TrainedNetwork:
    optimizer = optax.adam(1e-2)
    x, variables = network.inputs(images), jax.device_put(network.variables)

    @jax.jit
    def step(variables, state):
        def loss(variables):
            return optax.softmax_cross_entropy_with_integer_labels(network.apply(variables, x)[0], labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for _ in range(steps):
        variables, state = step(variables, state)
    return network.with_variables(jax.device_get(variables))


@pytest.fixture(scope="module")
def blobs() -> hand_made.Dataset:
    """Images of 16 x 16 with noise of 5 x 5 pixels in the middle, blank elsewhere."""
    images = np.zeros((60, 16, 16, 1), np.uint8)
    images[:, 5:10, 6:11] = 1 + hand_made.noise(60, 5, 5, 1) // 2
    return hand_made.dataset(images, np.arange(60) % 3)


POOLS = [nn.GlobalMaxPool(), nn.GlobalAvgPool()]
CIRCULAR = {"padding": "same", "padding_mode": "circular"}
FULL = {"padding": "full", "use_bias": False}


@pytest.mark.parametrize("pool", POOLS, ids=["max", "mean"])
@pytest.mark.parametrize("steps", [0, 20], ids=["untrained", "trained"])
def test_circular_padding_is_equivariant_to_circular_shifts_by_the_total_stride(pool: nn.Layer, steps: int) -> None:
    images = hand_made.noise(24, 16, 16, 1)
    network = trained(global_pooled(pool, **CIRCULAR), images, np.arange(24) % 3, steps)
    logits = network.logits(images)
    scale = np.abs(logits).max()
    for dy, dx in ((STRIDE, 0), (0, -STRIDE), (2 * STRIDE, STRIDE)):
        np.testing.assert_allclose(network.logits(np.roll(images, (dy, dx), (1, 2))), logits, atol=2e-6 * max(scale, 1))
    assert np.abs(network.logits(np.roll(images, 1, 1)) - logits).max() > 1e-3 * scale  # a shift by 1 is none of them


@pytest.mark.parametrize("pool", POOLS, ids=["max", "mean"])
@pytest.mark.parametrize("steps", [0, 20], ids=["untrained", "trained"])
def test_full_padding_without_biases_is_equivariant_while_the_content_stays_inside(
    pool: nn.Layer, steps: int, blobs: hand_made.Dataset
) -> None:
    images, blank = blobs.test_images, np.zeros(1, np.uint8)
    network = trained(global_pooled(pool, **FULL), blobs.train_images, blobs.train_labels, steps)
    logits = network.logits(images)
    scale = np.abs(logits).max()
    for dy, dx in ((STRIDE, 0), (-STRIDE, -STRIDE), (STRIDE, -STRIDE)):
        moved = shifts.shifted(images, dy, dx, blank)
        np.testing.assert_allclose(network.logits(moved), logits, atol=2e-6 * max(scale, 1))
    cut = shifts.shifted(images, 2 * STRIDE, 0, blank)  # two rows of the content leave
    assert np.abs(network.logits(cut) - logits).max() > 1e-3 * scale


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_other_paddings_are_not_equivariant(padding: str, blobs: hand_made.Dataset) -> None:
    network, images = global_pooled(nn.GlobalAvgPool(), padding=padding), blobs.test_images
    params = {name: layer | {"bias": layer["bias"] + 0.5} for name, layer in network.variables["params"].items()}
    network = network.with_variables({"params": params})  # without biases, 'same' sees no border around blank pixels
    logits = network.logits(images)
    moved = shifts.shifted(images, STRIDE, STRIDE, np.zeros(1, np.uint8))
    assert np.abs(network.logits(moved) - logits).max() > 1e-3 * np.abs(logits).max()


def test_card_of_circular_padding_has_every_multiple_of_the_stride(blobs: hand_made.Dataset) -> None:
    card = shifts.padding_card(global_pooled(nn.GlobalMaxPool(), **CIRCULAR), blobs, "circular")
    assert card.circular_HW.shape == card.error_HW.shape == (16, 16)
    np.testing.assert_array_equal(card.circular_HW[::STRIDE, ::STRIDE], 1.0)
    assert card.circular_HW.min() < 1
    assert card.blank_HW[8, 8] == 1.0  # no shift
    # The content has 5 to 6 blank rows and columns around it: no shift further than that.
    known = np.isfinite(card.error_HW)
    assert known[8 - 5 : 8 + 7, 8 - 6 : 8 + 6].all()
    assert known.sum() == 12 * 12
    np.testing.assert_array_equal(known, np.isfinite(card.blank_HW))
    answers = global_pooled(nn.GlobalMaxPool(), **CIRCULAR).logits(blobs.test_images).argmax(-1)
    assert card.error_HW[8, 8] == np.mean(answers != blobs.test_labels)
    assert set(card.error_by_distance) == {0, 1, 2, 3, 4, 5}


def test_cards_are_averaged_by_padding(blobs: hand_made.Dataset) -> None:
    networks = [global_pooled(nn.GlobalMaxPool(), padding="valid").randomized(seed) for seed in range(2)]
    cards = [shifts.padding_card(network, blobs, "valid") for network in networks]
    mean = padding_card.by_padding(cards)["valid"]
    assert mean.networks == 2
    np.testing.assert_allclose(mean.circular_HW, (cards[0].circular_HW + cards[1].circular_HW) / 2)
    assert mean.error_by_distance[0] == pytest.approx(np.mean([card.error_by_distance[0] for card in cards]))
    assert mean.position["border_noise"]["conv1"] == pytest.approx(
        np.mean([card.position["border_noise"]["conv1"] for card in cards])
    )


def test_shifts_and_margins() -> None:
    image = np.zeros((1, 4, 5, 1), np.uint8)
    image[0, 1, 2:4] = 7
    blank = np.zeros(1, np.uint8)
    np.testing.assert_array_equal(shifts.content_margins(image, blank), [[1, 2, 2, 1]])
    for dy, dx in ((-1, -2), (2, 1), (0, 0)):
        assert shifts.stays_inside(np.array([[1, 2, 2, 1]]), dy, dx).all()
        np.testing.assert_array_equal(shifts.shifted(image, dy, dx, blank), np.roll(image, (dy, dx), (1, 2)))
    assert not shifts.stays_inside(np.array([[1, 2, 2, 1]]), -2, 0).any()
    assert shifts.shifted(image, -2, 0, blank).sum() == 0
    grey = np.full(1, 9, np.uint8)
    assert shifts.shifted(image, 3, 0, grey)[0, :3].min() == 9
