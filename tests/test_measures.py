"""Measures on hand-made networks whose right answer is known."""

import itertools
import math

import flax.linen
import hand_made
import jax
import numpy as np
import pytest

from cnn_jax import nn
from cnn_jax.analysis import measures
from cnn_jax.analysis.measures import (
    border,
    border_units,
    cka,
    dead,
    duplicates,
    edges,
    effective_field,
    patterns,
    position,
    probe,
    pruning,
    sample,
    shift,
    sparsity,
    used_field,
)
from cnn_jax.errors import UsageError

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)


# --------------------------------------------------------------------------------------------------------------- patterns


def test_patches_of_a_filter_and_of_different_filters() -> None:
    up, down, across = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 0]), np.array([0.0, 1, 0, 1])
    flat = np.full(4, 7.0)  # has no correlation
    # up with up is 1, up with down -1, across with both 0.
    assert patterns.alike(np.array([[up, up], [5 * up + 3, 2 * up]])) == pytest.approx((1.0, 1.0))
    assert patterns.alike(np.array([[up, up], [down, down]])) == pytest.approx((1.0, -1.0))
    assert patterns.alike(np.array([[up, down], [across, across]])) == pytest.approx((0.0, 0.0))
    assert patterns.alike(np.array([[up, up, flat], [across, flat, flat]])) == pytest.approx((1.0, 0.0))
    assert all(map(math.isnan, patterns.alike(np.array([[flat, flat]]))))
    assert patterns.purity(np.array([[1, 1, 1, 2], [0, 1, 2, 3]])) == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_patterns_of_a_filter_that_finds_its_kernel() -> None:
    # A horizontal and a vertical edge of 2 x 2 pixels on black images of two classes; a filter for each.
    images = np.zeros((90, 6, 6, 1), np.uint8)
    labels = np.arange(90) % 2
    images[labels == 0, 2:4, 2:4, 0] = [[255, 255], [0, 0]]
    images[labels == 1, 2:4, 2:4, 0] = [[255, 0], [255, 0]]
    kernel = np.zeros((2, 2, 1, 3))
    kernel[..., 0, 0], kernel[..., 0, 1], kernel[..., 0, 2] = [[1, 1], [-1, -1]], [[1, -1], [1, -1]], -1  # the third is silent
    network = hand_made.network(
        (nn.Conv(3, 2, activation="relu"), nn.Flatten(), nn.Dense(2)), (6, 6, 1), 2, conv1={"kernel": kernel}
    )
    found = patterns.patterns(network, hand_made.dataset(images, labels))
    assert found["alike"]["conv1"] == pytest.approx(1.0)
    assert found["alike_others"]["conv1"] == pytest.approx(0.0, abs=1e-9)
    assert found["purity"] == {"conv1": 1.0}
    assert set(found) == {"alike", "alike_others", "purity", "alike_untrained", "purity_untrained"}


# ------------------------------------------------------------------------------------------------------------------ probe


def three_values() -> tuple[np.ndarray, np.ndarray]:
    """Images of one value each, black, grey or white in turn; grey ones are class 1."""
    level = np.arange(360) % 3
    images = np.broadcast_to(np.array([0, 128, 255], np.uint8)[level][:, None, None, None], (360, 4, 4, 1))
    return np.ascontiguousarray(images), (level == 1).astype(np.int64)


def test_probe_needs_the_layer_that_makes_classes_linear() -> None:
    # Grey lies between black and white: no threshold on the pixel separates it, the distance from grey does.
    spec = (nn.Conv(2, 1, activation="relu"), nn.Flatten(), nn.Dense(2))
    network = hand_made.network(spec, (4, 4, 1), 2, conv1={"kernel": [[[[1, -1]]]], "bias": [-0.5, 0.5]})
    found = measures.load("probe")(network, hand_made.dataset(*three_values()))
    assert found["probe"]["pixels"] == pytest.approx(2 / 3)
    assert found["probe"]["conv1"] == 1.0
    assert set(found["probe_untrained"]) == {"conv1", "dense1"}


def test_probe_of_noise_is_chance_on_new_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 900)
    x = rng.normal(size=(900, 400)).astype(np.float32)
    found = probe.fit(x[:300], labels[:300], x[300:600], labels[300:600], 2)
    assert np.mean(found(x[:300]) == labels[:300]) > 0.9  # it has learned these by heart
    assert abs(np.mean(found(x[600:]) == labels[600:]) - 0.5) < 0.1


def test_probe_is_ridge_regression_whichever_system_is_solved() -> None:
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(30, 50)).astype(np.float32), rng.integers(0, 3, 30)
    narrow = x[:, :20]
    for values in (x, narrow):
        found = probe.fit(values, labels, values, labels, 3)
        centred, onehot = values - values.mean(0), np.eye(3)[labels]
        scale = np.trace(centred.T @ centred) / len(values)
        expected = [
            np.linalg.solve(centred.T @ centred + s * scale * np.eye(values.shape[1]), centred.T @ (onehot - onehot.mean(0)))
            for s in probe.STRENGTHS
        ]
        assert min(np.abs(found.weight_DK - weight).max() for weight in expected) < 1e-4


@pytest.mark.parametrize("noise", [0.0, 3.0], ids=["weak", "strong"])
def test_the_penalty_is_the_best_one_on_held_out_images(noise: float) -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(240) % 3
    x = np.concatenate([np.eye(3)[labels] * 0.5, rng.normal(size=(240, 120))], 1).astype(np.float32)
    x[:, 3:6] += noise * rng.normal(size=(240, 3))
    fitted, held = slice(0, 120), slice(120, 240)
    found = probe.fit(x[fitted], labels[fitted], x[held], labels[held], 3)
    centred, onehot = x[fitted] - x[fitted].mean(0), np.eye(3)[labels[fitted]]
    gram = centred.T @ centred
    accuracies = []
    for s in probe.STRENGTHS:
        penalty = s * np.trace(gram) / 120 * np.eye(123)
        weight = np.linalg.solve(gram + penalty, centred.T @ (onehot - onehot.mean(0)))
        answers = ((x[held] - x[fitted].mean(0)) @ weight + onehot.mean(0)).argmax(1)
        accuracies.append(np.mean(answers == labels[held]))
    assert min(accuracies) < max(accuracies) - 0.05
    assert np.mean(found(x[held]) == labels[held]) == pytest.approx(max(accuracies), abs=0.02)  # float32 and float64


def test_large_outputs_are_averaged_over_blocks() -> None:
    x = np.arange(2 * 6 * 6 * 1, dtype=np.float32).reshape(2, 6, 6, 1)
    np.testing.assert_allclose(probe.flattened(x, 9), x.reshape(2, 3, 2, 3, 2, 1).mean((2, 4)).reshape(2, 9))
    assert probe.flattened(x, 36).shape == (2, 36)
    assert probe.flattened(x, 1).shape == (2, 1)


# ------------------------------------------------------------------------------------------------------- first-layer kernels


def scores(*kernels: np.ndarray) -> np.ndarray:
    return edges.edge_scores(np.stack(kernels, -1)[:, :, None])


def test_edges_score_one() -> None:
    prewitt = np.sign(SOBEL)
    found = scores(SOBEL, SOBEL.T, -3 * SOBEL + 5, prewitt)
    np.testing.assert_allclose(found, 1, atol=1e-9)
    y, x = np.mgrid[-2:3, -2:3]
    gabor = np.exp(-(x**2 + y**2) / 8) * np.cos(2 * math.pi * x / 4)
    np.testing.assert_allclose(scores(gabor), 1, atol=0.05)


def test_what_is_no_edge_scores_less() -> None:
    y, x = np.mgrid[-2:3, -2:3]
    checkers = (-1.0) ** (x + y)
    spot = np.exp(-(x**2 + y**2) / 2)
    constant = np.ones((5, 5))
    found = scores(checkers, spot, constant, 0 * constant)
    assert (found[:2] < 0.6).all()
    np.testing.assert_array_equal(found[2:], 0)


def test_a_pattern_in_colour_is_one_pattern() -> None:
    colour = SOBEL[:, :, None, None] * np.array([1.0, -2.0, 0.5])[:, None]
    np.testing.assert_allclose(edges.edge_scores(colour), 1, atol=1e-9)
    # Two patterns at right angles in two channels: no template explains more than half.
    both = np.stack([SOBEL, SOBEL.T], -1)[..., None]
    assert edges.edge_scores(both)[0] < 0.6


def test_edge_score_of_a_network_stands_beside_random_kernels() -> None:
    spec = (nn.Conv(8, 3), nn.Flatten(), nn.Dense(3))
    network = hand_made.network(spec, (8, 8, 1), conv1={"kernel": SOBEL[:, :, None, None]})
    found = edges.edges(network, hand_made.dataset(hand_made.noise(9, 8, 8, 1), np.arange(9) % 3))
    assert found["edges"] == {"conv1": pytest.approx(1)}
    rng = np.random.default_rng(0)
    random = edges.edge_scores(rng.uniform(-1, 1, (3, 3, 1, 20_000))).mean()
    assert found["edges_untrained"]["conv1"] == pytest.approx(random, abs=0.03)
    assert random < 0.8


def test_a_network_without_kernels_has_no_edges() -> None:
    network = hand_made.network((nn.Flatten(), nn.Dense(3)), (8, 8, 1))
    data = hand_made.dataset(hand_made.noise(30, 8, 8, 1), np.arange(30) % 3)
    assert edges.edges(network, data) == {}
    assert pruning.pruning(network, data)["pruned_50"] == {}


def test_duplicates_share_a_direction() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 3, 1))
    assert duplicates.duplicate_share(np.stack([a, 2 * a, b, -a], -1)) == 1 / 4
    assert duplicates.duplicate_share(np.stack([a, a, a, a], -1)) == 3 / 4
    assert duplicates.duplicate_share(np.zeros((3, 3, 1, 4))) == 0


# ------------------------------------------------------------------------------------------------------------------ units


def two_signs(bias: float = 0.0) -> tuple[hand_made.TrainedNetwork, hand_made.Dataset]:
    """Positive pixels, of which half of the four filters give the negative."""
    spec = (nn.Conv(4, 1, activation="relu"), nn.Flatten(), nn.Dense(3))
    network = hand_made.network(spec, (4, 4, 1), conv1={"kernel": [[[[1, -1, 2, -1]]]], "bias": [0, 2, bias, 0]})
    images = 1 + hand_made.noise(30, 4, 4, 1) // 2
    return network, hand_made.dataset(images, np.arange(30) % 3)


def test_a_filter_that_is_never_positive_is_dead() -> None:
    network, data = two_signs(bias=-9)
    assert dead.dead(network, data) == {"dead": {"conv1": 0.5}}  # the last by its sign, the third by its bias
    assert dead.dead_share(np.ones((5, 2, 2, 3))) == 1.0
    rounding = np.array([[1.0, 0.0], [1.0 + 1e-9, 1.0]])  # of an activation that is never exactly constant
    assert dead.dead_share(rounding) == 0.5


def test_sparsity_is_the_share_of_zeros() -> None:
    network, data = two_signs()
    assert sparsity.sparsity(network, data) == {"sparsity": {"conv1": 1 / 4}}


def test_an_activation_of_its_own_stands_for_its_layer() -> None:
    spec = (nn.Conv(4), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten(), nn.Dense(5, activation="relu"), nn.Dense(3))
    network = hand_made.network(spec, (8, 8, 1))
    assert sample.hidden_units(network) == ("conv1", "activation1", "dense1")


# ------------------------------------------------------------------------------------------------------ receptive fields


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 3), (3, 3), (4, 3), (2, 5), (3, 4)])
def test_ones_have_the_n_fold_box_as_effective_field(n: int, k: int) -> None:
    spec = (*(nn.Conv(2, k, activation="relu") for _ in range(n)), nn.GlobalAvgPool(), nn.Dense(3))
    ones = {f"conv{i + 1}": {"kernel": 1.0} for i in range(n)}
    network = hand_made.network(spec, (19, 19, 1), **ones)
    data = hand_made.dataset(hand_made.noise(30, 19, 19, 1), np.arange(30) % 3)
    found = effective_field.effective_field(network, data)
    for i in range(1, n + 1):
        assert found["field_std"][f"conv{i}"] == pytest.approx(math.sqrt(i * (k**2 - 1) / 12), rel=1e-4)
        share = math.sqrt(i * (k**2 - 1) + 1) / (i * (k - 1) + 1)
        assert found["field_share"][f"conv{i}"] == pytest.approx(share, rel=1e-4)
    assert set(found["field_std_untrained"]) == set(found["field_std"])


def test_a_kernel_of_one_tap_has_a_field_of_one_pixel() -> None:
    tap = np.zeros((5, 5, 1, 1))
    tap[1, 3] = 1
    network = hand_made.network((nn.Conv(1, 5), nn.Flatten(), nn.Dense(3)), (9, 9, 1), conv1={"kernel": tap})
    found = effective_field.effective_field(network, hand_made.dataset(hand_made.noise(9, 9, 9, 1), np.arange(9) % 3))
    assert found["field_std"]["conv1"] == pytest.approx(0, abs=1e-3)
    assert found["field_share"]["conv1"] == pytest.approx(1 / 5)


def test_a_circular_field_continues_on_the_other_side() -> None:
    signal = sample.signals(hand_made.network((nn.Conv(1, 3, padding="same"), nn.Flatten(), nn.Dense(3)), (8, 8, 1)))["conv1"]
    box = np.zeros((8, 8))
    box[3:6, 3:6] = 1
    assert effective_field.width(box, signal)[0] == pytest.approx(math.sqrt(8 / 12))
    wrapped = nn.Signal(signal.shape, tuple(nn.Field(f.start - 4, f.size, f.jump) for f in signal.fields))
    assert effective_field.width(np.roll(box, (-4, -4), (0, 1)), wrapped, True)[0] == pytest.approx(math.sqrt(8 / 12))


def reader(*taps: tuple[int, int]) -> hand_made.TrainedNetwork:
    """Class 1 if the mean of those pixels of an image of 8 x 8 is above a half."""
    kernel = np.zeros((8, 8, 1, 2))
    for y, x in taps:
        kernel[y, x, 0] = -1 / len(taps), 1 / len(taps)
    return hand_made.network((nn.Conv(2, 8), nn.Flatten()), (8, 8, 1), 2, conv1={"kernel": kernel, "bias": [0.5, -0.5]})


@pytest.mark.parametrize(("at", "expected"), [(3, 2), (2, 4), (0, 8)])
def test_used_field_is_the_window_around_the_pixels_that_are_read(at: int, expected: int) -> None:
    images, labels = hand_made.noise(600, 8, 8, 1), np.arange(600) % 2
    images[:, at, at, 0] = np.where(labels == 1, 255, 0)
    found = used_field.used_field(reader((at, at)), hand_made.dataset(images, labels))
    assert found["used_field"] == {"image": expected}
    assert found["used_share"] == {"image": expected / 8}
    accuracies = found["accuracy_in_window"]
    assert accuracies["window 8"] == 1
    assert accuracies[f"window {expected}"] == 1
    assert expected == 2 or accuracies[f"window {expected - 2}"] == 0.5


def test_a_network_that_guesses_uses_nothing_that_can_be_told() -> None:
    assert math.isnan(used_field.enough({2: 0.5, 4: 0.5}, chance=0.5))
    assert used_field.enough({2: 0.9, 4: 0.5, 6: 1.0}, chance=0.1) == 6  # 2 was luck: 4 is not enough


# ------------------------------------------------------------------------------------------------------------ similarity


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    return (np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3))


def test_cka_is_the_ratio_of_unbiased_hsics() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 7))
    y[:, :3] += x[:, :3]
    expected = unbiased_hsic(x @ x.T, y @ y.T) / math.sqrt(unbiased_hsic(x @ x.T, x @ x.T) * unbiased_hsic(y @ y.T, y @ y.T))
    assert cka.similarity(cka.unit_gram(x), cka.unit_gram(y)) == pytest.approx(expected)


def test_cka_ignores_rotation_and_scale_and_tells_independent_ones_apart() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 30))
    rotation = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    assert cka.similarity(cka.unit_gram(x), cka.unit_gram(3 * x @ rotation + 1)) == pytest.approx(1)
    # Far more values than images: the plain form would be near 1.
    wide = [cka.unit_gram(rng.normal(size=(64, 2000))) for _ in range(8)]
    assert abs(np.mean([cka.similarity(a, b) for a, b in itertools.combinations(wide, 2)])) < 0.02
    assert math.isnan(cka.similarity(wide[0], cka.unit_gram(np.ones((64, 3)))))


def test_a_layer_that_copies_the_pixels_is_as_similar_as_they_are() -> None:
    network = hand_made.network((nn.Conv(1, 1), nn.Flatten(), nn.Dense(3)), (4, 4, 1), conv1={"kernel": 2.0, "bias": 1.0})
    found = cka.cka(network, hand_made.dataset(hand_made.noise(90, 4, 4, 1), np.arange(90) % 3))
    assert found["cka_pixels"]["conv1"] == pytest.approx(1)
    assert found["cka_before"]["conv1"] == pytest.approx(1)  # another scale and sign is all that training changed
    assert found["cka_last"]["dense1"] == pytest.approx(1)
    assert found["cka_pixels"]["dense1"] < 0.9


# ---------------------------------------------------------------------------------------------------- shifts and positions


def test_a_circular_network_gives_every_shift_the_same_answer() -> None:
    spec = (nn.Conv(8, 3, padding="same", padding_mode="circular", activation="relu"), nn.GlobalMaxPool(), nn.Dense(3))
    found = shift.shift(hand_made.network(spec, (8, 8, 1)), hand_made.dataset(hand_made.noise(90, 8, 8, 1), np.arange(90) % 3))
    assert found == {"shift": {"shift 1": 1.0, "shift 2": 1.0}}


def test_stripes_change_the_answer_of_a_reader_of_one_pixel() -> None:
    images = np.zeros((30, 8, 8, 1), np.uint8)
    images[:15, :, ::2] = 255
    images[15:, :, 1::2] = 255
    found = shift.shift(reader((3, 3)), hand_made.dataset(images, np.arange(30) % 2))
    # By 1: sideways always another answer, up and down never; by 2 the stripes fall on themselves.
    assert found == {"shift": {"shift 1": 0.5, "shift 2": 1.0}}


def test_read_out_finds_a_coordinate_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 9, 3))
    assert (np.abs(position.read_out(x)) < 0.02).all()
    x[..., 0] = np.arange(6)[:, None]
    y_r2, x_r2, _ = position.read_out(x)
    assert y_r2 == pytest.approx(1, abs=1e-4)
    assert abs(x_r2) < 0.02
    assert (position.read_out(np.ones((4, 6, 9, 1))) == 0).all()


@pytest.mark.parametrize(
    ("settings", "leaks"),
    [({}, False), ({"padding": "same", "padding_mode": "circular"}, False), ({"padding": "same"}, True)],
    ids=["valid", "circular", "zeros"],
)
def test_zero_padding_tells_where_the_border_is(settings: dict, leaks: bool) -> None:
    network = hand_made.network((nn.Conv(1, 3, **settings), nn.Flatten(), nn.Dense(3)), (10, 10, 1), conv1={"kernel": 1.0})
    found = position.position(network, hand_made.dataset(hand_made.noise(30, 10, 10, 1), np.arange(30) % 3))
    assert found["border_noise"]["conv1"] > 0.1 if leaks else abs(found["border_noise"]["conv1"]) < 0.02
    assert abs(found["position_noise"]["conv1"]) < 0.02  # the sum of a window is the same on both sides


def test_error_rises_where_the_network_does_not_look() -> None:
    images = np.zeros((30, 12, 12, 1), np.uint8)
    images[:, 5:7, 4:6] = 255
    inner = np.zeros((12, 12, 1, 2))
    inner[3:9, 3:9, 0] = -1, 1
    network = hand_made.network((nn.Conv(2, 12), nn.Flatten()), (12, 12, 1), 2, conv1={"kernel": inner, "bias": [0.1, -0.1]})
    data = hand_made.dataset(images, np.ones(30, int))
    # Content of 2 x 2 reaches the inner 6 x 6 from a distance of 2 on.
    expected = {"border 0": 1.0, "border 1": 1.0, "border 2": 0.0, "border 3": 0.0, "border 4": 0.0, "border 5": 0.0}
    assert border.border(network, data) == {"border_error": expected}


@pytest.mark.parametrize(
    ("settings", "aware", "blind"),
    [({}, 0, 0), ({"padding": "same", "padding_mode": "circular"}, 0, 0), ({"padding": "same"}, 3 / 4, 1 / 4)],
    ids=["valid", "circular", "zeros"],
)
def test_zeros_at_the_border_silence_some_channels_and_tell_others_where_it_is(
    settings: dict, aware: float, blind: float
) -> None:
    """Sums of nine uniform values have mean 4.5 inside, of six 3.0 at the border of zeros; both have an SD below 0.9."""
    kernel = np.zeros((3, 3, 1, 4))
    kernel[..., :3] = 1, 1, -1
    kernel[1, 1, 0, 3] = 1  # sees its own pixel alone
    # The sum; what of it is above 4, which the border hardly reaches; what it lacks to 3.3, which the inside hardly does.
    layer = {"kernel": kernel, "bias": [0, -4, 3.3, 0]}
    spec = (nn.Conv(4, 3, activation="relu", **settings), nn.Flatten(), nn.Dense(3))
    network = hand_made.network(spec, (12, 12, 1), conv1=layer)
    found = border_units.border_units(network, hand_made.dataset(hand_made.noise(9, 12, 12, 1), np.arange(9) % 3))
    assert found == {"padding_aware": {"conv1": aware}, "border_blind": {"conv1": blind}}


def test_border_units_need_an_inside() -> None:
    network = hand_made.network((nn.Conv(1, 3), nn.Flatten(), nn.Dense(3)), (5, 5, 1))
    assert border_units.border_units(network, hand_made.dataset(hand_made.noise(9, 5, 5, 1), np.arange(9) % 3)) == {}


# ---------------------------------------------------------------------------------------------------------------- pruning


def test_filters_that_do_nothing_can_be_pruned() -> None:
    images, labels = three_values()
    spec = (nn.Conv(4, 1, activation="relu"), nn.GlobalAvgPool(), nn.Dense(2))
    network = hand_made.network(
        spec,
        (4, 4, 1),
        2,
        conv1={"kernel": [[[[0.01, 1, -1, 0.02]]]], "bias": [0, -0.5, 0.5, 0]},
        dense1={"kernel": [[0, 0], [1, -1], [1, -1], [0, 0]], "bias": [-0.25, 0.25]},
    )
    data = hand_made.dataset(images, labels)
    found = pruning.pruning(network, data)
    assert sample.accuracy(network, data.test_images, data.test_labels) == 1
    assert found["pruned_25"] == found["pruned_50"] == {"conv1": 0.0}
    (kernel,) = sample.kernels(network)
    pruned = pruning.without_filters(network, kernel, np.array([1]))
    assert sample.accuracy(pruned, data.test_images, data.test_labels) == pytest.approx(2 / 3)  # white looks grey
    assert sample.accuracy(network, data.test_images, data.test_labels) == 1  # which is left as it was


def test_filters_are_removed_through_their_norm() -> None:
    spec = (nn.Conv(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.GlobalAvgPool(), nn.Dense(3))
    network = hand_made.network(spec, (8, 8, 1), norm1={"bias": 1.0})
    (kernel,) = sample.kernels(network)
    pruned = pruning.without_filters(network, kernel, np.array([0, 2]))
    features = pruned.features(hand_made.noise(5, 8, 8, 1))["activation1"]
    assert (features[..., [0, 2]] == 0).all()
    assert (features[..., [1, 3]] > 0).any()


def test_weakest_first_is_by_l1_norm() -> None:
    kernel = np.array([[[[3.0, -1.0, 2.0, 1.0]]]])
    np.testing.assert_array_equal(pruning.weakest_first(kernel), [1, 3, 2, 0])


# ------------------------------------------------------------------------------------------------------------- all of them


class Fork(flax.linen.Module):
    """A linen module that is no `CNN`."""

    classes: int

    @flax.linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        hidden = flax.linen.relu(flax.linen.Conv(4, (3, 3))(x))
        return flax.linen.Dense(self.classes)(hidden.mean((1, 2))), {"hidden": hidden}


@pytest.fixture(scope="module")
def unusual() -> list[hand_made.TrainedNetwork]:
    """A network with a residual block, on colour images that are not square, and one of a fork."""
    inside = (nn.Conv(4, 3, padding="same"), nn.BatchNorm())
    spec = (nn.Conv(4, 3, activation="relu"), nn.Residual(inside), nn.MaxPool(2), nn.Flatten(), nn.Dropout(0.5), nn.Dense(3))
    return [hand_made.network(spec, (9, 11, 3)), hand_made.TrainedNetwork.from_model(Fork(3), (9, 11, 3), 3)]


@pytest.mark.parametrize("name", measures.MEASURES)
def test_every_measure_takes_colour_branches_and_fork_modules(name: str, unusual: list[hand_made.TrainedNetwork]) -> None:
    data = hand_made.dataset(hand_made.noise(60, 9, 11, 3), np.arange(60) % 3)
    for network in unusual:
        for values in measures.load(name)(network, data).values():
            assert all(isinstance(value, float) for value in values.values())


def test_unknown_measures_are_refused_with_the_legal_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown measure 'prob': must be one of probe, edges, .*or package.module:attribute"):
        measures.load("prob")
    with pytest.raises(UsageError, match="is a tuple: it must be a function"):
        measures.load("cnn_jax.trial:OPTIMIZERS")
