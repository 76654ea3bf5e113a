"""Looking into networks whose right answers are known: linear ones, one convolution by hand, patches at borders."""

import dataclasses

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import nn, zoo
from cnn_jax.analysis import (
    attributions,
    confusion,
    edits,
    excitation,
    gradcam,
    kernels,
    maximise,
    occlusion,
    patches,
    saliency,
)
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.records import confusion as matrices
from cnn_jax.trial import ModelConfig

RNG = np.random.default_rng(0)


def made(spec: tuple, input_shape: tuple[int, ...], num_classes: int, seed: int = 0, **params: object) -> TrainedNetwork:
    """A network whose named layers have the given parameters, the others initial ones."""
    network = TrainedNetwork.from_model(spec, input_shape, num_classes, seed=seed)
    values = dict(network.variables["params"]) | params
    return network.with_variables({**network.variables, "params": values})


def of_zoo(name: str, input_shape: tuple[int, ...], num_classes: int = 4, **config: object) -> TrainedNetwork:
    spec = zoo.spec(zoo.resolve(ModelConfig(name, **config)), input_shape, num_classes)  # type: ignore[arg-type]
    return TrainedNetwork.from_model(spec, input_shape, num_classes)


@pytest.fixture(scope="module")
def linear() -> tuple[TrainedNetwork, np.ndarray]:
    """Logits that are a matrix product of the pixels of 6x5x2 images; and the matrix as (6, 5, 2, 3)."""
    w = RNG.normal(size=(60, 3)).astype(np.float32)
    network = made((nn.Flatten(), nn.Dense(3)), (6, 5, 2), 3, dense1={"kernel": w, "bias": np.ones(3, np.float32)})
    return network, w.reshape(6, 5, 2, 3)


X = RNG.normal(size=(4, 6, 5, 2)).astype(np.float32)
BASE = RNG.normal(size=(1, 6, 5, 2)).astype(np.float32)
CLASSES = np.array([0, 2, 1, 2])


# ---------------------------------------------------------------------------------------------------------------- saliency


def test_gradients_of_a_linear_network_are_its_weights(linear: tuple[TrainedNetwork, np.ndarray]) -> None:
    network, w = linear
    right = np.moveaxis(w[..., CLASSES], -1, 0)
    np.testing.assert_allclose(saliency.gradient(network.apply, network.variables, X, CLASSES), right, rtol=1e-5)
    smooth = saliency.smooth_grad(network.apply, network.variables, X, CLASSES, 0.3)
    np.testing.assert_allclose(smooth, right, rtol=1e-5)


def test_integrated_gradients_of_a_linear_network_are_weight_times_difference(
    linear: tuple[TrainedNetwork, np.ndarray],
) -> None:
    network, w = linear
    found = saliency.integrated_gradients(network.apply, network.variables, X, CLASSES, BASE, 5)
    np.testing.assert_allclose(found, (X - BASE) * np.moveaxis(w[..., CLASSES], -1, 0), rtol=1e-4, atol=1e-6)


def test_integrated_gradients_of_a_quadratic_are_exact() -> None:
    """The gradient of w x^2 is linear along the line, where the midpoint rule has no error: w (x^2 - base^2)."""
    w = RNG.normal(size=(6, 5, 2, 3)).astype(np.float32)

    def quadratic(variables: object, x: jax.Array) -> tuple[jax.Array, dict]:
        return jnp.einsum("nijc,ijck->nk", x * x, w), {}

    found = saliency.integrated_gradients(quadratic, {}, X, CLASSES, BASE, 3)
    np.testing.assert_allclose(found, (X**2 - BASE**2) * np.moveaxis(w[..., CLASSES], -1, 0), rtol=1e-4, atol=1e-5)


def test_integrated_gradients_sum_to_the_difference_of_logits() -> None:
    network = of_zoo("cnn", (12, 12, 3), filters=(4, 8), padding="same")
    x = RNG.uniform(size=(3, 12, 12, 3)).astype(np.float32)
    classes, base = np.array([0, 1, 3]), np.zeros((1, 12, 12, 3), np.float32)
    found = np.asarray(saliency.integrated_gradients(network.apply, network.variables, x, classes, base, 256))
    difference = (network.logits(x) - network.logits(base))[np.arange(3), classes]
    np.testing.assert_allclose(found.sum((1, 2, 3)), difference, atol=0.01 * np.abs(difference).max())


def test_smooth_grad_averages_the_slope_over_the_noise() -> None:
    """relu(x) at 0.1 under noise of 0.1: the slope is 1 with the probability that 0.1 + 0.1 z is positive."""
    network = made(
        (nn.Conv(1, 1, activation="relu"), nn.Flatten()),
        (1, 1, 1),
        1,
        conv1={"kernel": np.ones((1, 1, 1, 1)), "bias": np.zeros(1)},
    )
    x = np.full((1, 1, 1, 1), 0.1, np.float32)
    found = float(saliency.smooth_grad(network.apply, network.variables, x, np.array([0]), 0.1, 4000)[0, 0, 0, 0])
    assert found == pytest.approx(0.8413, abs=0.02)  # P(0.1 + 0.1 z > 0), the normal distribution at 1


def test_occlusion_of_a_linear_network_is_weight_times_difference_over_the_window(
    linear: tuple[TrainedNetwork, np.ndarray],
) -> None:
    network, w = linear
    contribution_NS = ((X - BASE) * np.moveaxis(w[..., CLASSES], -1, 0)).sum(-1)
    masks = occlusion.windows((6, 5), (3, 2), (2, 2))
    assert masks.shape == (3 * 3, 6, 5)  # rows 0, 2, 3; columns 0, 2, 3
    by_hand = np.array([[(c * m).sum() for c in contribution_NS] for m in masks])
    np.testing.assert_allclose(occlusion.drops(network, X, CLASSES, BASE, masks), by_hand, rtol=1e-4, atol=1e-4)
    single = occlusion.occlusion(network, X, CLASSES, BASE, (1, 1), (1, 1))
    np.testing.assert_allclose(single, contribution_NS, rtol=1e-4, atol=1e-4)


def test_every_pixel_is_covered_by_the_default_windows() -> None:
    for size in ((8, 8), (28, 28), (33, 50), (224, 224), (1, 2)):
        assert occlusion.windows(size, *occlusion.default_window(size)).any(axis=0).all()


def test_rank_correlation_is_that_of_scipy_and_nan_for_a_constant() -> None:
    from scipy.stats import spearmanr

    a, b = RNG.normal(size=(2, 3, 4, 5)).round(1)
    right = [spearmanr(p.ravel(), q.ravel())[0] for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(saliency.rank_correlation(a, b), right)
    assert np.isnan(saliency.rank_correlation(a, np.zeros_like(b))).all()


def test_the_sanity_check_tells_a_trained_network_from_a_random_one() -> None:
    """A network that is its own random network has equal pictures; other parameters change every method's picture."""
    network = of_zoo("cnn", (10, 10, 3), filters=(8,)).randomized(5)
    images = RNG.integers(0, 256, (3, 10, 10, 3)).astype(np.uint8)
    classes = network.logits(images).argmax(-1)
    same = attributions.attributions(network, images, classes, seed=5)
    other = attributions.attributions(network, images, classes, seed=6)
    assert [found.method for found in same] == list(attributions.METHODS)
    for a, b in zip(same, other, strict=True):
        assert a.trained.shape == (3, 10, 10)
        np.testing.assert_array_equal(a.trained, a.random)
        np.testing.assert_allclose(a.correlation[~np.isnan(a.correlation)], 1, rtol=1e-6)
        np.testing.assert_array_equal(a.trained, b.trained)
        assert np.nanmax(np.append(b.correlation, 0)) < 0.9, a.method


# ---------------------------------------------------------------------------------------------------------------- Grad-CAM


def test_grad_cam_of_one_convolution_by_hand() -> None:
    """Two 1x1 filters (x and 2x), globally averaged, dense to two logits: the weights are the dense kernel over positions."""
    dense = np.array([[1.0, -1.0], [3.0, 0.5]], np.float32)
    network = made(
        (nn.Conv(2, 1, use_bias=False), nn.GlobalAvgPool(), nn.Dense(2)), (3, 4, 1), 2,
        conv1={"kernel": np.array([1.0, 2.0], np.float32).reshape(1, 1, 1, 2)},
        dense1={"kernel": dense, "bias": np.zeros(2, np.float32)},
    )  # fmt: skip
    x = RNG.normal(size=(2, 3, 4, 1)).astype(np.float32)
    found = gradcam.grad_cam(network, x, np.array([0, 1]))
    per_pixel = np.array([1 * 1 + 2 * 3, 1 * -1 + 2 * 0.5])  # class 0: 7 x; class 1: 0
    by_hand = np.maximum(0, x[..., 0] * per_pixel[:, None, None]) / 12
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_grad_cam_sees_through_a_fused_max_pool() -> None:
    """Only the winners of the pool have a gradient: with one 2x2 window, a quarter of the pool's weight."""
    network = made(
        (nn.Conv(1, 1, use_bias=False, activation="relu"), nn.MaxPool(2), nn.Flatten(), nn.Dense(1, use_bias=False)),
        (2, 2, 1), 1, conv1={"kernel": np.ones((1, 1, 1, 1), np.float32)}, dense1={"kernel": np.full((1, 1), 8.0, np.float32)},
    )  # fmt: skip
    x = np.array([1.0, 4, 2, 3], np.float32).reshape(1, 2, 2, 1)
    found = gradcam.grad_cam(network, x, np.array([0]), "conv1")
    np.testing.assert_allclose(found[0], 2 * x[0, ..., 0], rtol=1e-6)


def test_grad_cam_takes_the_last_layer_with_positions_or_a_named_one() -> None:
    network = of_zoo("cnn", (16, 16, 1), filters=(4, 8))
    assert gradcam.default_layer(network) == "pool2"
    x = RNG.uniform(size=(2, 16, 16, 1)).astype(np.float32)
    assert gradcam.grad_cam(network, x, np.array([0, 1]), "conv1").shape == (2, 16, 16)
    with pytest.raises(UsageError, match=r"--layer=dense1: it has no spatial axes: .* conv1, pool1, conv2, pool2"):
        gradcam.grad_cam(network, x, np.array([0, 1]), "dense1")


class Twin(flax.linen.Module):
    """The network of the test below, as a linen module; `copied`: it returns a copy of the map, which leads to no logit."""

    copied: bool = False

    @flax.linen.compact
    def __call__(self, x, train):  # type: ignore[no-untyped-def]
        y = flax.linen.relu(flax.linen.Conv(3, (3, 3), padding="VALID")(x))
        shown = 1 * y if self.copied else y
        return flax.linen.Dense(2)(y.mean((1, 2))), {"map": shown}


def test_grad_cam_of_a_linen_module_is_that_of_the_same_spec() -> None:
    module = TrainedNetwork.from_model(Twin(), (7, 6, 2), 2, seed=4)
    params = module.variables["params"]
    spec = (nn.Conv(3, 3, activation="relu"), nn.GlobalAvgPool(), nn.Dense(2))
    network = made(spec, (7, 6, 2), 2, conv1=params["Conv_0"], dense1=params["Dense_0"])
    x = RNG.normal(size=(4, 7, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(network.logits(x), module.logits(x), rtol=1e-4, atol=1e-5)
    for k in range(2):
        classes = np.full(4, k)
        maps = gradcam.class_activation(
            gradcam._module_forward(module.apply), "map", (5, 4, 3), module.variables, x, classes
        )  # fmt: skip
        right = gradcam.class_activation(
            gradcam._spec_forward(network.model), "conv1", (5, 4, 3), network.variables, x, classes
        )  # fmt: skip
        np.testing.assert_allclose(maps, right, rtol=1e-4, atol=1e-6)
    assert np.abs(right).max() > 0
    with pytest.raises(UsageError, match=r"--layer=map: the logits do not depend on the output"):
        gradcam.grad_cam(TrainedNetwork.from_model(Twin(copied=True), (7, 6, 2), 2), x, classes)


def test_maps_are_placed_at_the_centres_of_receptive_fields() -> None:
    """A valid 3x3 convolution: position 0 is centred on pixel 1, so the map is the image's inside and repeats at the border."""
    field = (nn.Field(0, 3, 1),)
    np.testing.assert_allclose(gradcam.resize(np.array([[1.0, 2, 4]]), (5,), field), [[1, 1, 2, 4, 4]])
    field = (nn.Field(-1, 3, 2),)  # centred on pixels 0, 2, 4
    np.testing.assert_allclose(gradcam.resize(np.array([[1.0, 2, 4]]), (5,), field), [[1, 1.5, 2, 3, 4]])
    np.testing.assert_allclose(gradcam.resize(np.array([[1.0, 3]]), (4,), None), [[1, 1.5, 2.5, 3]])


# ------------------------------------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize("name", ["cnn", "lenet5_dense", "resnet20", "mnist_m5", "convmixer"])
def test_an_edit_that_changes_nothing_changes_nothing(name: str) -> None:
    network = of_zoo(name, (28, 28, 1) if "mnist" in name or "lenet" in name else (16, 16, 3))
    x = RNG.uniform(size=(2, *network.input_shape)).astype(np.float32)
    seen: list[str] = []

    def record(name: str, y: jax.Array) -> jax.Array:
        seen.append(name)
        return y

    # One program: operations that run by themselves are compiled by themselves.
    run = jax.jit(lambda x: edits.apply_edited(network.model, network.variables, x, record))
    logits, features = run(x)
    np.testing.assert_allclose(logits, network.logits(x), rtol=1e-4, atol=1e-5)
    assert set(seen) == set(network.layers) == set(features)


def test_an_edit_is_what_later_layers_see() -> None:
    network = of_zoo("cnn", (8, 8, 1), filters=(4,))
    bias = network.variables["params"]["dense1"]["bias"]
    x = jnp.ones((1, 8, 8, 1))
    logits, _ = edits.apply_edited(network.model, network.variables, x, lambda name, y: 0 * y if name == "conv1" else y)
    np.testing.assert_allclose(logits[0], bias)


def test_an_activation_is_left_out_in_one_layer_alone() -> None:
    network = of_zoo("cnn", (8, 8, 1), filters=(4, 4), padding="same")
    x = RNG.normal(size=(1, 8, 8, 1)).astype(np.float32)
    without = dataclasses.replace(network, model=edits.without_activation(network.model, "conv2"), apply=None)
    a, b = network.features(x), without.features(x)
    assert b["conv2"].min() < 0 <= b["conv1"].min()
    np.testing.assert_allclose(np.maximum(b["conv2"], 0), a["conv2"], rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- patches, excitation


def test_patches_at_borders_with_padding() -> None:
    image = np.arange(1, 17).reshape(4, 4, 1)
    network = TrainedNetwork.from_model((nn.Conv(1, 3, padding="same"), nn.Flatten()), (4, 4, 1), 16)
    field = patches.ReceptiveField.of(network, "conv1")

    def patch(*position: int) -> patches.Patch:
        return patches.cut(image, field.window(position), field.seen(position))

    corner = patch(0, 3)
    np.testing.assert_array_equal(corner.pixels[..., 0], [[0, 0, 0], [3, 4, 0], [7, 8, 0]])
    np.testing.assert_array_equal(corner.inside, [[0, 0, 0], [1, 1, 0], [1, 1, 0]])
    middle = patch(1, 1)
    np.testing.assert_array_equal(middle.pixels[..., 0], [[1, 2, 3], [5, 6, 7], [9, 10, 11]])
    assert middle.inside.all()


def test_a_field_larger_than_the_image_is_the_image() -> None:
    image = np.arange(1, 5).reshape(2, 2, 1)
    patch = patches.cut(image, ((-3, 1), (-1, 4)), ((0, 1), (0, 2)))
    np.testing.assert_array_equal(patch.pixels[..., 0], [[1, 2], [0, 0]])
    np.testing.assert_array_equal(patch.inside, [[1, 1], [0, 0]])


@pytest.mark.parametrize("padding", ["valid", "same", "full"])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_patch_holds_exactly_the_pixels_with_a_gradient(padding: str, strides: int) -> None:
    """Measured by changing each pixel: two convolutions of ones, a pool between them."""
    first, last = nn.Conv(1, 3, strides, padding=padding), nn.Conv(1, 2, padding=padding)
    spec = (first, nn.AvgPool(2), last, nn.Flatten())
    shape = (13, 11, 1)
    network = TrainedNetwork.from_model(spec, shape, 1)
    ones = {name: {key: np.ones_like(a) for key, a in layer.items()} for name, layer in network.variables["params"].items()}
    network = network.with_variables({"params": ones})
    unit = np.eye(13 * 11, dtype=np.float32).reshape(-1, *shape)
    at_rest = network.features(np.zeros((1, *shape)), ["conv2"])["conv2"]
    response = (network.features(unit, ["conv2"])["conv2"] - at_rest)[..., 0]
    field = patches.ReceptiveField.of(network, "conv2")
    for position in np.ndindex(*response.shape[1:]):
        seen = response[:, position[0], position[1]].reshape(13, 11) != 0
        pixels, window = (np.zeros((13, 11), bool) for _ in range(2))
        pixels[tuple(slice(*ends) for ends in field.seen(position))] = True
        window[tuple(slice(max(a, 0), max(b, 0)) for a, b in field.window(position))] = True
        np.testing.assert_array_equal(seen, pixels)
        assert (window | ~seen).all()


@pytest.mark.parametrize("name", ["conv1", "conv4", "residual3", "global_pool1"])
def test_receptive_fields_of_a_residual_network(name: str) -> None:
    """The pixels with a gradient lie inside of the window, and touch it where it is inside of the image."""
    network = of_zoo("resnet20", (32, 32, 3))
    field, shape = patches.ReceptiveField.of(network, name), network.feature_shapes[name]
    position = tuple(n // 2 for n in shape[:-1])
    x = jnp.asarray(RNG.uniform(size=(1, 32, 32, 3)), jnp.float32)
    slope = jax.grad(lambda x: network.apply(network.variables, x)[1][name][(0, *position)].sum())(x)
    rows, columns = np.nonzero(np.abs(slope[0]).sum(-1))
    assert field.seen(position) == ((rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1))
    assert field.is_whole == (name == "global_pool1")


def test_the_most_exciting_images_and_their_places() -> None:
    """A filter that copies the pixel: the brightest pixels, in order, with their places."""
    network = made(
        (nn.Conv(2, 1, use_bias=False), nn.Flatten(), nn.Dense(2)), (4, 5, 1), 2,
        conv1={"kernel": np.array([1.0, -1.0], np.float32).reshape(1, 1, 1, 2)},
    )  # fmt: skip
    images = np.zeros((12, 4, 5, 1), np.uint8)
    for i in range(12):
        images[i, i % 4, i % 5] = 10 * (1 + (7 * i) % 12)
    found = excitation.responses(network, images, ["conv1", "dense1"])
    top = found["conv1"].most(3)
    brightest = np.argsort(-images.max((1, 2, 3)).astype(int))[:3]
    np.testing.assert_array_equal(top.images[0], brightest)
    np.testing.assert_allclose(top.values[0], images.max((1, 2, 3))[brightest] / 255, rtol=1e-6)
    np.testing.assert_array_equal(top.positions[0], [(i % 4, i % 5) for i in brightest])
    np.testing.assert_array_equal(found["conv1"].silent, [False, True])
    logits = network.logits(images)
    np.testing.assert_allclose(found["dense1"].values, logits, rtol=1e-5, atol=1e-6)
    assert found["dense1"].positions.shape == (12, 2, 0)
    np.testing.assert_array_equal(found["dense1"].most(1).images[:, 0], logits.argmax(0))


# ----------------------------------------------------------------------------------------------------------------- kernels


def test_first_kernels_are_those_that_see_the_image() -> None:
    network = of_zoo("resnet20", (8, 8, 3))
    found = kernels.first_kernels(network)
    assert (found.layer, found.values.shape) == ("conv1", (16, 3, 3, 3))
    np.testing.assert_array_equal(found.values[5], network.variables["params"]["conv1"]["kernel"][..., 5])
    assert found.scaled.min() == 0 or found.scaled.max() == 1


def test_first_kernels_of_a_dense_network_are_images() -> None:
    network = of_zoo("mlp", (8, 6, 1))
    found = kernels.first_kernels(network)
    x = RNG.normal(size=(1, 8, 6, 1)).astype(np.float32)
    np.testing.assert_allclose((found.values * x).sum((1, 2, 3)) > 0, network.features(x)["dense1"][0] > 0)


# ------------------------------------------------------------------------------------------------------------ maximisation


def test_the_maximised_input_of_a_convolution_is_white_where_it_weighs_and_black_against() -> None:
    kernel = RNG.normal(size=(3, 3, 1, 4)).astype(np.float32)
    bias = np.full(4, -9.0, np.float32)  # relu is off at grey and has no gradient there
    network = made(
        (nn.Conv(4, 3, activation="relu"), nn.Flatten(), nn.Dense(2)), (8, 8, 1), 2, conv1={"kernel": kernel, "bias": bias}
    )
    found = maximise.maximise(network, "conv1", [2, 0, 1])
    assert found.position == (3, 3)
    for channel, pixels in zip(found.channels, found.pixels, strict=True):
        weight, seen = kernel[..., 0, channel], pixels[3:6, 3:6, 0]
        np.testing.assert_array_equal(seen > 0.5, weight > 0)
        strong = np.abs(weight) > 0.2 * np.abs(weight).max()
        np.testing.assert_array_equal(seen[strong], weight[strong] > 0)
        outside = np.ones((8, 8), bool)
        outside[3:6, 3:6] = False
        np.testing.assert_allclose(pixels[outside], 0.5, atol=0.05)


@pytest.mark.parametrize(("name", "shape"), [("cnn", (8, 8, 1)), ("cnn", (32, 32, 3)), ("resnet20", (8, 8, 3))])
def test_the_maximised_input_excites_more_than_any_image(name: str, shape: tuple[int, ...]) -> None:
    network = dataclasses.replace(
        of_zoo(name, shape), normalization=Normalization("per_channel", (0.5,) * shape[-1], (0.2,) * shape[-1])
    )
    images = RNG.integers(0, 256, (64, *shape)).astype(np.uint8)
    layer = "dense1"
    found = maximise.maximise(network, layer, range(4))
    assert 0 <= found.pixels.min() < found.pixels.max() <= 1
    assert found.position == ()
    assert (found.values > network.logits(images).max(axis=0)).all()
    reached = network.logits(network.normalization(255 * found.pixels))[np.arange(4), np.arange(4)]
    np.testing.assert_allclose(reached, found.values, rtol=1e-3)


# --------------------------------------------------------------------------------------------------------------- confusion


def test_confusion_matrix_and_mistakes_by_hand() -> None:
    labels = np.array([0, 0, 1, 2, 2])
    logits = np.array([[2.0, 0, 0], [0, 1, 0], [0, 3, 0], [5, 0, 0], [0, 0.5, 0]], np.float32)
    matrix = matrices.matrix(labels, logits.argmax(-1), 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 1, 0], [1, 1, 0]])
    found = confusion.mistakes(logits, labels)
    assert [(m.image, m.label, m.answer) for m in found] == [(3, 2, 0), (1, 0, 1), (4, 2, 1)]
    assert found[0].of_answer == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert confusion.most_confused(matrix, 9) == [(0, 1, 1), (2, 0, 1), (2, 1, 1)]
