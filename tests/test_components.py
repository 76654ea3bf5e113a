"""Training components: schedules, augmentations, losses, optimizers, metrics and selection, against values known otherwise."""

import dataclasses
import inspect
import zlib
from base64 import b64encode
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import run

from cnn_jax import data
from cnn_jax.errors import UsageError
from cnn_jax.nn.initializers import INITIALIZERS
from cnn_jax.recipes import names
from cnn_jax.records import confusion
from cnn_jax.training import augment, loss, metrics, optimizer, schedule
from cnn_jax.training.components import components
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.position import advance, finished, start
from cnn_jax.training.program import Program, compile_program
from cnn_jax.training.result import results
from cnn_jax.training.selection import best_epoch
from cnn_jax.training.step import train_step
from cnn_jax.trial import OPTIMIZERS, DataConfig, ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.shapes import KernelInit

RICH = TrainConfig(
    "lion", batch_size=50, epochs=4, schedule="one_cycle", warmup=0.1, augment="shift:1+rotate:10+mixup", label_smoothing=0.1,
    clip_norm=1.0, ema=0.9, select="best", weight_decay=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def trial(npz: str) -> Trial:
    return Trial(ModelConfig(filters=(3,)), DataConfig(npz, validation_fraction=0.2), RICH)


@pytest.fixture(scope="module")
def on_device(trial: Trial) -> DeviceData:
    return DeviceData.put(data.load(trial.data))


@pytest.fixture(scope="module")
def program(trial: Trial, on_device: DeviceData) -> Program:
    return compile_program(trial, 1, on_device)


def images(count: int = 64, size: int = 6, channels: int = 2) -> jax.Array:
    return jax.random.uniform(jax.random.key(5), (count, size, size, channels))


TARGETS = jax.nn.one_hot(jnp.arange(64) % 3, 3)
KEY = jax.random.key(0)


def test_every_name_has_its_function() -> None:
    assert tuple(schedule.BY_NAME) == names.SCHEDULES
    assert tuple(loss.BY_NAME) == names.LOSSES
    assert tuple(augment.BY_NAME) == tuple(names.AUGMENTATIONS)
    assert set(get_args(KernelInit)) == set(INITIALIZERS)


# ---------------------------------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("name", "options", "expected"),  # factors at steps 0, 50 and 100 of 100
    [
        ("constant", {}, (1, 1, 1)),
        ("cosine", {"alpha": 0.2}, (1, 0.6, 0.2)),
        ("linear", {"end": 0.5}, (1, 0.75, 0.5)),
        ("exponential", {"end": 0.01}, (1, 0.1, 0.01)),
        ("step", {"gamma": 0.5}, (1, 0.5, 0.25)),
        ("one_cycle", {"peak": 0.5, "start_factor": 0.2}, (0.2, 1, 4e-6)),
    ],
)
def test_schedules(name: str, options: dict, expected: tuple) -> None:
    factor = schedule.BY_NAME[name](100, **options)
    np.testing.assert_allclose([factor(jnp.int32(step)) for step in (0, 50, 100)], expected, rtol=1e-5)


def test_step_falls_after_its_share_and_one_cycle_peaks_at_its_own() -> None:
    fall = schedule.step(200)
    np.testing.assert_allclose([fall(step) for step in (99, 101, 149, 151)], [1, 0.1, 0.1, 0.01], rtol=1e-6)
    cycle = jax.vmap(schedule.one_cycle(200))(jnp.arange(201))
    assert int(cycle.argmax()) == 60


@pytest.mark.parametrize(("warmup", "steps"), [(10.0, 10), (0.1, 10), (0.0, 0)])
def test_warmup_rises_in_a_straight_line_and_then_the_schedule_has_the_other_steps(warmup: float, steps: int) -> None:
    factors = jax.vmap(schedule.with_warmup(schedule.linear, 100, warmup))(jnp.arange(101))
    np.testing.assert_allclose(factors[:steps], np.arange(1, steps + 1) / (steps + 1), rtol=1e-6)
    np.testing.assert_allclose(factors[steps:], np.linspace(1, 0, 101 - steps), atol=1e-6)


# -------------------------------------------------------------------------------------------------------------------- loss


def test_losses() -> None:
    logits, labels = jax.random.normal(KEY, (7, 4)) * 3, jnp.arange(7) % 4
    targets = loss.one_hot(labels, 4)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(loss.cross_entropy(logits, targets), expected, rtol=2e-5)
    np.testing.assert_allclose(loss.cross_entropy_of_labels(logits, labels), expected, rtol=2e-5)
    np.testing.assert_allclose(loss.focal(logits, targets, gamma=0.0), expected, rtol=2e-5)
    own = np.exp(-np.asarray(expected, np.float64))
    np.testing.assert_allclose(loss.focal(logits, targets), (1 - own) ** 2 * expected, rtol=1e-3)
    np.testing.assert_allclose(loss.mse(logits, targets), ((np.asarray(logits) - targets) ** 2).mean(1), rtol=2e-5)


def test_focal_has_a_gradient_where_the_network_is_certain() -> None:
    gradient = jax.grad(lambda logits: loss.focal(logits, jnp.eye(2)[:1], gamma=0.5).sum())(jnp.array([[100.0, -100.0]]))
    assert np.isfinite(gradient).all()


def test_smoothing_spreads_its_share_evenly() -> None:
    smoothed = loss.smoothed(jnp.eye(10), jnp.float32(0.1))
    np.testing.assert_allclose(smoothed[0], [0.91, *[0.01] * 9], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- augmentations


def test_flip_mirrors_half_of_the_images() -> None:
    x = images()
    y, targets = augment.flip(KEY, x, TARGETS)
    mirrored = [bool((y[i] == x[i, :, ::-1]).all()) for i in range(64)]
    assert all(mirrored[i] or bool((y[i] == x[i]).all()) for i in range(64))
    assert 16 < sum(mirrored) < 48
    assert targets is TARGETS


@pytest.mark.parametrize(("name", "mode"), [("shift", "constant"), ("crop", "reflect")])
def test_shift_and_crop_are_windows_of_the_padded_image(name: str, mode: str) -> None:
    x = np.asarray(images())
    y, _ = augment.BY_NAME[name](KEY, x, TARGETS, 2)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)  # type: ignore[call-overload]
    corners = [
        [(i, j) for i in range(5) for j in range(5) if (y[n] == padded[n, i : i + 6, j : j + 6]).all()] for n in range(64)
    ]
    assert all(corners)
    assert len({found[0] for found in corners}) > 15  # of 25 places


def test_crop_fills_as_its_mode_says() -> None:
    y, _ = augment.crop(KEY, jnp.ones((64, 6, 6, 1)), TARGETS, 2, crop_mode="zeros")
    assert float(y.min()) == 0.0
    y, _ = augment.crop(KEY, jnp.ones((64, 6, 6, 1)), TARGETS, 2)
    assert float(y.min()) == 1.0


def test_a_quarter_turn_is_that_of_numpy_and_angles_are_bounded() -> None:
    x = images()
    np.testing.assert_allclose(augment.turned(x[0], jnp.pi / 2), np.rot90(x[0]), atol=1e-5)
    near, _ = augment.rotate(KEY, x, TARGETS, 1e-3)
    np.testing.assert_allclose(near, x, atol=1e-3)
    far, _ = augment.rotate(KEY, x, TARGETS, 90.0)
    assert float(jnp.abs(far - x).max()) > 0.5


def test_cutout_blanks_a_square_cut_at_the_border() -> None:
    y, _ = augment.cutout(KEY, jnp.ones((64, 6, 6, 2)), TARGETS, 3)
    holes = np.asarray(y[..., 0] == 0)
    np.testing.assert_array_equal(holes, y[..., 1] == 0)
    assert {int(hole.sum()) for hole in holes} <= {4, 6, 9}
    for hole in holes:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[np.ix_(rows, columns)].all()
        assert hole.sum() == len(rows) * len(columns)


def test_brightness_scales_an_image_as_a_whole() -> None:
    x = images() * 0.5
    y, _ = augment.brightness(KEY, x, TARGETS, 0.2)
    ratios = y / x
    np.testing.assert_allclose(ratios, jnp.broadcast_to(ratios[:, :1, :1, :1], ratios.shape), rtol=1e-5)
    assert 0.8 <= float(ratios.min()) < 0.9 < 1.1 < float(ratios.max()) <= 1.2
    assert float(augment.brightness(KEY, images(), TARGETS, 1.0)[0].max()) == 1.0


@pytest.mark.parametrize("alpha", [1, 0.2])
def test_mixup_mixes_images_and_targets_with_one_weight(alpha: float) -> None:
    x = jax.random.uniform(KEY, (64, 4, 4, 1))
    y, targets = augment.mixup(KEY, x, jnp.eye(64), alpha)
    weight = float(targets[0, 0])
    assert 0 < weight < 1
    (partner,) = (int(i) for i in np.flatnonzero(targets[0]) if i)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(y, weight * x + (1 - weight) * jnp.roll(x, -partner, 0), rtol=1e-5)


# -------------------------------------------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize("name", optimizer.names())
def test_every_optimizer_of_optax_trains_with_traced_hyperparameters(name: str) -> None:
    hyper = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9}
    params = {"a": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "bias": jnp.ones(4)}}
    setup = components(TrainConfig(name), 10, 3)
    state = setup.initial_state(params, hyper)

    @jax.jit
    def step(hyper, state, params):  # type: ignore[no-untyped-def]
        updates, state = setup.optimizer(hyper).update(params, state, params)  # the gradient of half the squared norm
        return optax.apply_updates(params, updates), state

    # What optax itself does with the same arguments and numbers, not traced and not flattened.
    function = optimizer.load(name)
    own = {key: value for key, value in hyper.items() if key in inspect.signature(function).parameters}
    plain = function(**own)
    expected, plain_state = params, plain.init(params)
    for _ in range(2):
        params, state = step(hyper, state, params)
        updates, plain_state = plain.update(expected, plain_state, expected)
        expected = optax.apply_updates(expected, updates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, expected)
    assert (
        any(not np.array_equal(p, q) for p, q in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True)) or name
    )


@pytest.mark.parametrize("name", ["adam", "sgd", "adamw", "adadelta"])
def test_frozen_kernels_stay_and_all_else_is_trained_as_without_them(name: str) -> None:
    params = {
        "conv1": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)},
        "conv2": {"kernel": jnp.ones((1, 1, 2, 2))},
        "dense1": {"kernel": jnp.ones((4, 2))},
    }
    hyper = {"learning_rate": 0.1, "weight_decay": 0.1, "momentum": 0.9}

    def updated(options: dict[str, str], **more: float) -> Any:
        rule = optimizer.optimizer(name, hyper | more, options)
        return rule.update(jax.tree.map(lambda p: 10 * p, params), rule.init(params), params)[0]

    found, free = updated({"freeze": "spatial"}), updated({"freeze": "none"})
    assert not found["conv1"]["kernel"].any()
    assert free["conv1"]["kernel"].all()
    del found["conv1"]["kernel"], free["conv1"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, found, free)
    # Gradients of what is frozen are no part of the norm that is clipped.
    clipped = updated({"freeze": "spatial"}, clip_norm=1e3)
    assert not clipped["conv1"]["kernel"].any()
    jax.tree.map(np.testing.assert_allclose, clipped["dense1"], found["dense1"])


def test_the_optimizers_of_published_recipes_are_there() -> None:
    assert {"adadelta", "adagrad", "lamb", "lion", "nadam", "radam", "muon", "lars", *OPTIMIZERS} <= set(optimizer.names())


@pytest.mark.parametrize("name", ["sgd", "adamw", "adadelta"])
def test_decay_of_kernels_alone_leaves_biases(name: str) -> None:
    hyper = {"learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.0}
    params = {"a": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4), "scale": jnp.ones(4)}}
    rule = optimizer.optimizer(name, hyper, decay_kernels_only=True)
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    assert float(jnp.abs(updates["a"]["kernel"]).min()) > 0
    assert not np.any(updates["a"]["bias"])
    assert not np.any(updates["a"]["scale"])


def test_gradients_are_clipped_before_the_update() -> None:
    hyper = {"learning_rate": 1.0, "weight_decay": 0.0, "momentum": 0.0, "clip_norm": 2.0}
    grads = {"a": jnp.full(16, 5.0)}
    updates, _ = (rule := optimizer.optimizer("sgd", hyper)).update(grads, rule.init(grads), grads)
    np.testing.assert_allclose(updates["a"], -0.5, rtol=1e-6)  # norm 20 -> 2


# ------------------------------------------------------------------------------------------------------------ whole trials


def test_a_rich_recipe_repeats_its_bits_also_resumed(trial: Trial, program: Program, on_device: DeviceData) -> None:
    whole = run(program, [trial], on_device)
    (result,), (again,) = (results(program, [trial], on_device, run(program, [trial], on_device)) for _ in range(2))
    assert result.history == again.history
    position = start(program, [trial], on_device)
    while position.step < 7:  # the middle of the second epoch
        position = advance(program, [trial], on_device, position, 1)
    arrays = {name: np.array(array) for name, array in position.arrays().items()}
    position = run(program, [trial], on_device, position=start(program, [trial], on_device).restored(arrays))
    (resumed,) = results(program, [trial], on_device, position)
    assert resumed.history == result.history
    assert resumed.metrics == result.metrics
    assert resumed.epoch == result.epoch
    for name, value in result.variables.items():
        np.testing.assert_array_equal(resumed.variables[name], value)
    assert whole.step == 4 * 4


def test_a_lane_of_a_rich_recipe_does_not_depend_on_the_others(trial: Trial, on_device: DeviceData) -> None:
    two = compile_program(trial, 2, on_device)
    one, other = (dataclasses.replace(trial, seed=seed) for seed in (3, 4))
    (_, right), (left, _) = (results(two, pair, on_device, run(two, pair, on_device)) for pair in ([other, one], [one, other]))
    assert right.history == left.history
    for name, value in left.variables.items():
        np.testing.assert_array_equal(right.variables[name], value)


def test_augmentations_change_with_the_step_and_with_the_seed(trial: Trial, on_device: DeviceData) -> None:
    setup = components(dataclasses.replace(trial.train, augment="shift:1", label_smoothing=0.0, ema=0.0), 100, 10)
    seen = []

    class Spy:
        """A network whose logits are its inputs' sums, and which keeps them."""

        @staticmethod
        def apply(variables, x, train, mutable, rngs):  # type: ignore[no-untyped-def]
            seen.append(x)
            return (x.sum((1, 2)) @ variables["params"]["kernel"], {}), {}

    from cnn_jax.training.step import TrainState

    params = {"kernel": jnp.ones((1, 10))}
    images_BHWC, labels_B = on_device.train_images[:50], on_device.train_labels[:50]
    for step, seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        state = TrainState(jnp.int32(step), params, {}, setup.initial_state(params, setup.train.dynamic))
        hyper = {name: jnp.float32(value) for name, value in setup.train.dynamic.items()} | {"seed": jnp.int32(seed)}
        with jax.disable_jit():
            train_step(Spy(), setup, state, hyper, images_BHWC, labels_B, jnp.int32(50))  # type: ignore[arg-type]
    seen = [np.asarray(jax.tree.map(lambda a: getattr(a, "primal", a), x)) for x in seen]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[3])


def test_the_average_is_that_of_the_formula(trial: Trial, on_device: DeviceData) -> None:
    plain = dataclasses.replace(trial, train=TrainConfig("sgd", 0.1, batch_size=50, epochs=1))
    averaged = dataclasses.replace(plain, train=dataclasses.replace(plain.train, ema=0.15))
    tracks = []
    for each in (plain, averaged):
        program = compile_program(each, 1, on_device)
        position = start(program, [each], on_device)
        states = [jax.device_get(position.state)]
        while not finished([each], position):
            position = advance(program, [each], on_device, position, 1)
            states.append(jax.device_get(position.state))
        tracks.append(states)
    expected = tracks[0][0].params
    for step, state in enumerate(tracks[0][1:]):
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1 after the first step
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), tracks[1][-1].average["params"], expected)
    jax.tree.map(np.testing.assert_array_equal, tracks[1][-1].params, tracks[0][-1].params)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(trial: Trial, on_device: DeviceData) -> None:
    plain = dataclasses.replace(trial, train=TrainConfig(batch_size=50, epochs=2))
    half = dataclasses.replace(plain, train=dataclasses.replace(plain.train, precision="bfloat16"))
    found = []
    for each in (plain, half):
        program = compile_program(each, 1, on_device)
        position = run(program, [each], on_device)
        assert {leaf.dtype for leaf in jax.tree.leaves(position.state)} == {np.dtype(np.float32), np.dtype(np.int32)}
        found.append(results(program, [each], on_device, position)[0])
    assert found[0].test_loss != found[1].test_loss
    assert found[0].test_loss == pytest.approx(found[1].test_loss, rel=0.03)
    assert (
        "bf16"
        in jax.jit(lambda x: program.model.apply(program.model.init(KEY, x), x)[0]).lower(jnp.ones((1, 8, 8, 1))).as_text()
    )


# --------------------------------------------------------------------------------------------------------------- selection


def rows(accuracies: list[float], losses: list[float]) -> list[dict]:
    return [{"val_accuracy": [a], "val_loss": [b]} for a, b in zip(accuracies, losses, strict=True)]


@pytest.mark.parametrize(
    ("select", "accuracies", "losses", "epoch"),
    [
        ("best", [0.5, 0.7, 0.7, 0.6], [1, 0.9, 0.8, 0.1], 3),  # of equal accuracies the lower loss
        ("best", [0.5, 0.7, 0.7], [1, 0.8, 0.8], 2),  # of equal epochs the first
        ("best_loss", [0.5, 0.7, 0.6], [1, 0.9, 0.8], 3),
        ("best_loss", [0.5, 0.7, 0.6], [1, 0.9, float("nan")], 2),
        ("last", [0.5, 0.7, 0.6], [1, 0.9, 0.8], 2),  # as patience counts
    ],
)
def test_best_epoch(select: str, accuracies: list, losses: list, epoch: int) -> None:
    assert best_epoch(select, rows(accuracies, losses), 0) == epoch


@pytest.mark.parametrize("select", ["best", "best_loss", "last"])
def test_the_kept_epoch_is_what_a_training_of_that_length_gives(trial: Trial, on_device: DeviceData, select: str) -> None:
    """With a constant rate, the parameters of epoch e are those of a training of e epochs."""
    train = TrainConfig("sgd", 1.0, batch_size=50, epochs=6, select=select)
    long = dataclasses.replace(trial, train=train)
    program = compile_program(long, 1, on_device)
    (kept,) = results(program, [long], on_device, run(program, [long], on_device))
    row = kept.history[kept.epoch - 1]
    best = {
        "best": max(kept.history, key=lambda r: (r["val_accuracy"], -r["val_loss"])),
        "best_loss": min(kept.history, key=lambda r: r["val_loss"]),
        "last": kept.history[-1],
    }[select]
    assert row == best
    short = dataclasses.replace(trial, train=dataclasses.replace(train, epochs=kept.epoch, select="last"))
    program = compile_program(short, 1, on_device)
    (wanted,) = results(program, [short], on_device, run(program, [short], on_device))
    assert kept.test_loss == wanted.test_loss
    assert kept.metrics == wanted.metrics
    np.testing.assert_array_equal(kept.val_correct, wanted.val_correct)
    for name, value in wanted.variables.items():
        np.testing.assert_array_equal(kept.variables[name], value)


def test_patience_ends_a_trial_and_its_bucket_mates_do_not_change_it(trial: Trial, on_device: DeviceData) -> None:
    train = TrainConfig("sgd", 0.5, batch_size=50, epochs=12, patience=2)
    hopeless = dataclasses.replace(trial, train=dataclasses.replace(train, learning_rate=1e-12))
    fine = dataclasses.replace(trial, train=train)
    two = compile_program(fine, 2, on_device)
    position = run(two, [hopeless, fine], on_device)
    stopped, other = results(two, [hopeless, fine], on_device, position)
    assert len(stopped.history) == stopped.epoch < len(other.history)
    best = best_epoch("last", rows(*([r[n] for r in stopped.history] for n in ("val_accuracy", "val_loss"))), 0)
    assert len(stopped.history) == best + 2
    (alone,) = results(two, [hopeless], on_device, run(two, [hopeless], on_device))
    assert alone.history == stopped.history
    assert alone.test_loss == stopped.test_loss
    for name, value in alone.variables.items():
        np.testing.assert_array_equal(stopped.variables[name], value)


# ----------------------------------------------------------------------------------------------------------------- metrics

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.25, 0.25, 0.5]], np.float32))
LABELS = np.array([0, 1, 0, 2])


def test_metrics_by_hand() -> None:
    assert metrics.nll(LOGITS, LABELS) == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.5]).mean(), rel=1e-6)
    # Confidences 0.7, 0.8, 0.4 and 0.5 are in four bins; only the third image is wrong.
    assert metrics.ece(LOGITS, LABELS) == pytest.approx((0.3 + 0.2 + 0.4 + 0.5) / 4, rel=1e-6)
    np.testing.assert_array_equal(confusion.matrix(LABELS, LOGITS.argmax(-1), 3), [[1, 0, 1], [0, 1, 0], [0, 0, 1]])


def test_calibration_weighs_bins_by_their_images() -> None:
    logits = np.log(np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]], np.float32))
    assert metrics.ece(logits, np.array([0, 0, 1, 1])) == pytest.approx(3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * 0.6, rel=1e-5)


def test_top_five_counts_ties_as_lower_classes_first() -> None:
    logits = np.array([[9, 8, 7, 6, 5, 4], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]], np.float32)
    assert metrics.top5_accuracy(logits, np.array([5, 4, 5])) == pytest.approx(2 / 3)
    assert metrics.top5_accuracy(logits, np.array([4, 5, 4])) == pytest.approx(1 / 3)


def test_a_confusion_matrix_is_kept_as_text() -> None:
    matrix = confusion.matrix(LABELS, LOGITS.argmax(-1), 3)
    text = confusion.encode(matrix)
    assert text is not None
    np.testing.assert_array_equal(confusion.decode(text), matrix)
    np.testing.assert_array_equal(confusion.class_accuracy(matrix), [0.5, 1, 1])
    assert np.isnan(confusion.class_accuracy(np.array([[3, 1], [0, 0]]))[1])
    assert confusion.encode(np.zeros((257, 257), int)) is None


@pytest.mark.parametrize(
    "text",
    ["!", "AAAA", b64encode(zlib.compress(b"x" * 12)).decode(), b64encode(zlib.compress(bytes(10**8))).decode()],
    ids=["not base64", "not zlib", "not square", "too long"],
)
def test_a_text_that_is_no_matrix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a confusion matrix"):
        confusion.decode(text)


def test_metrics_of_a_network_that_overflowed_are_left_out() -> None:
    assert metrics.measure((), np.full((3, 10), np.nan, np.float32), np.arange(3)) == {}


def test_an_unknown_optimizer_lists_those_of_the_installed_optax() -> None:
    with pytest.raises(UsageError, match=f"adadelta.*lion.*optax {optax.__version__}"):
        optimizer.load("adamm")
