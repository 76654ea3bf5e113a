"""The engine: exact, resumable at any step, and blind to what runs beside a trial."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import data
from cnn_jax.nn.init import initial_variables
from cnn_jax.nn.network import CNN
from cnn_jax.ops import conv as ops
from cnn_jax.training import position as position_module
from cnn_jax.training import program as program_module
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.loop import epoch_order
from cnn_jax.training.loss import cross_entropy_of_labels as cross_entropy
from cnn_jax.training.optimizer import optimizer
from cnn_jax.training.position import Position, advance, finished, start
from cnn_jax.training.program import EVAL_BATCH, Program, compile_program
from cnn_jax.training.result import results, train_epochs
from cnn_jax.training.step import as_floats, variables_of
from cnn_jax.trial import OPTIMIZERS, DataConfig, ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.build import build

TINY = ModelConfig(filters=(3,))


@pytest.fixture(scope="module")
def trial(npz: str) -> Trial:
    return Trial(TINY, DataConfig(npz, validation_fraction=0.2), TrainConfig(batch_size=50, epochs=2))


@pytest.fixture(scope="module")
def on_device(trial: Trial) -> DeviceData:
    return DeviceData.put(data.load(trial.data))


@pytest.fixture(scope="module")
def program(trial: Trial, on_device: DeviceData) -> Program:
    return compile_program(trial, 1, on_device)


def seeds(trial: Trial, *values: int) -> list[Trial]:
    return [dataclasses.replace(trial, seed=seed) for seed in values]


def run(
    program: Program,
    trials: list[Trial],
    on_device: DeviceData,
    most_steps: int = 10**9,
    *,
    position: Position | None = None,
) -> Position:
    """Train to the end, from the start or from a position, at most `most_steps` steps at a time."""
    position = position or start(program, trials, on_device)
    while not finished(trials, position):
        position = advance(program, trials, on_device, position, most_steps)
    return position


def same(a: Position, b: Position, lane_a: int = 0, lane_b: int = 0) -> bool:
    leaves = zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True)
    curves = [[{k: v[lane] for k, v in row.items()} for row in p.history] for p, lane in ((a, lane_a), (b, lane_b))]
    return curves[0] == curves[1] and all(np.array_equal(x[lane_a], y[lane_b]) for x, y in leaves)


def test_order_is_a_permutation_of_every_epoch_and_a_function_of_seed_and_epoch() -> None:
    order = epoch_order(3, 5, 103, 25)
    assert order.shape == (5, 25)
    assert sorted(order.ravel()[:103]) == list(range(103))
    np.testing.assert_array_equal(order.ravel()[103:], order.ravel()[:22])  # filled up from its start
    np.testing.assert_array_equal(order, epoch_order(3, 5, 103, 25))
    assert not np.array_equal(order, epoch_order(3, 6, 103, 25))
    assert not np.array_equal(order, epoch_order(4, 5, 103, 25))
    assert epoch_order(0, 0, 7, 20).shape == (1, 20)


def test_two_epochs_equal_a_loop_as_anyone_would_write_it(trial: Trial, on_device: DeviceData) -> None:
    """Plain optax on the mean loss of each batch, the last one smaller. Tolerance: float32 sums in another order."""
    model = build(trial.model, on_device.input_shape, on_device.num_classes)
    params = initial_variables(model, on_device.input_shape, trial.seed)["params"]
    x, y = np.asarray(on_device.train_images, np.float32) / 255, np.asarray(on_device.train_labels)
    tx = optax.adam(1e-3)
    opt_state = tx.init(params)

    def loss_of(params, x, y):  # type: ignore[no-untyped-def]
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, x)[0], y).mean()

    losses = []
    for epoch in range(2):
        order = epoch_order(trial.seed, epoch, len(y), 50).ravel()[: len(y)]
        total = 0.0
        for batch in np.split(order, range(50, len(y), 50)):
            loss, grads = jax.value_and_grad(loss_of)(params, x[batch], y[batch])
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            total += float(loss) * len(batch)
        losses.append(total / len(y))
    position = run(compile_program(trial, 1, on_device), [trial], on_device)
    np.testing.assert_allclose([row["train_loss"][0] for row in position.history], losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=2e-5), position.state.params, params)


def _inputs(kind: str, images: np.ndarray, training: np.ndarray) -> np.ndarray:
    """What --normalize promises, in float64."""
    if kind == "standardize":
        x = images / 255
        return (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    return (images / 255 - training.mean((0, 1, 2)) / 255) / (training.std((0, 1, 2)) / 255)


@pytest.mark.parametrize("implementation", ["native", "lax"])
@pytest.mark.parametrize("kind", ["per_channel", "standardize"])
def test_b5_normalized_images_are_what_is_trained_and_evaluated_on(kind: str, implementation: str, trial: Trial) -> None:
    """Losses and answers of a loop over images that were normalized beforehand, however convolutions are computed."""
    config = dataclasses.replace(trial.data, normalize=kind)
    trial = dataclasses.replace(trial, data=config, train=dataclasses.replace(trial.train, epochs=1))
    dataset = data.load(config)
    with ops.at_most(implementation):
        result = train_epochs(trial, dataset)
    model = build(trial.model, dataset.info.input_shape, dataset.info.num_classes)
    params = initial_variables(model, dataset.info.input_shape, trial.seed)["params"]
    x, u = (_inputs(kind, a, dataset.train_images).astype(np.float32) for a in (dataset.train_images, dataset.test_images))
    tx = optax.adam(trial.train.learning_rate)
    opt_state = tx.init(params)

    def loss_of(params, x, y):  # type: ignore[no-untyped-def]
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, x)[0], y).mean()

    order = epoch_order(trial.seed, 0, len(x), 50).ravel()[: len(x)]
    for batch in np.split(order, range(50, len(x), 50)):
        grads = jax.grad(loss_of)(params, x[batch], dataset.train_labels[batch])
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    assert result.test_loss == pytest.approx(float(loss_of(params, u, dataset.test_labels)), rel=1e-4)


def test_b5_without_normalization_the_program_is_the_one_it_was() -> None:
    images = jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.uint8)
    before = jax.make_jaxpr(lambda x: x.astype(jnp.float32) * (1 / 255))(images)
    assert str(jax.make_jaxpr(as_floats)(images)) == str(before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_do_what_optax_does_and_start_from_zeros(name: str) -> None:
    hyper = {"learning_rate": 0.1, "weight_decay": 0.01, "momentum": 0.8}
    params = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(2)}
    theirs = {
        "adam": optax.chain(optax.add_decayed_weights(0.01), optax.adam(0.1)),
        "adamw": optax.adamw(0.1, weight_decay=0.01),
        "sgd": optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.8)),
        "rmsprop": optax.chain(optax.add_decayed_weights(0.01), optax.rmsprop(0.1, momentum=0.8)),
    }[name]
    ours = optimizer(name, hyper)
    state, other = ours.init(params), theirs.init(params)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(state))
    for i in range(3):
        grads = jax.tree.map(lambda p, i=i: p * (i - 0.5), params)
        updates, state = ours.update(grads, state, params)
        expected, other = theirs.update(grads, other, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


@pytest.mark.parametrize("most_steps", [1, 3])
def test_walking_in_pieces_changes_no_bit(trial: Trial, program, on_device, most_steps: int) -> None:  # type: ignore[no-untyped-def]
    assert same(run(program, [trial], on_device), run(program, [trial], on_device, most_steps))


def test_steps_in_loops_of_known_length_change_no_bit(trial: Trial, program, on_device, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """As on a GPU: an epoch of four steps is one loop of three and a step left over; in pieces of two no loop is full."""
    monkeypatch.setitem(program_module.LOOP_UNIT, on_device.platform, 3)
    in_units = compile_program(trial, 1, on_device)
    expected = run(program, [trial], on_device)
    assert same(run(in_units, [trial], on_device), expected)
    assert same(run(in_units, [trial], on_device, 2), expected)


def test_batches_are_drawn_once_for_each_epoch(trial: Trial, program, on_device, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    drawn = []
    monkeypatch.setattr(position_module, "epoch_order", lambda *args: drawn.append(args[:2]) or epoch_order(*args))
    run(program, [trial], on_device, 1)
    assert drawn == [(trial.seed, 0), (trial.seed, 1)]


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_resumed_from_arrays_changes_no_bit(trial: Trial, program, on_device, steps: int) -> None:  # type: ignore[no-untyped-def]
    position = start(program, [trial], on_device)
    while position.step < steps:
        position = advance(program, [trial], on_device, position, 1)
    arrays = {name: np.array(array) for name, array in position.arrays().items()}
    position = start(program, [trial], on_device).restored(arrays)
    assert position.step == steps
    while not finished([trial], position):
        position = advance(program, [trial], on_device, position, 10**9)
    assert same(position, run(program, [trial], on_device))


def test_checkpoint_of_another_network_is_refused(trial: Trial, program, on_device) -> None:  # type: ignore[no-untyped-def]
    begin = start(program, [trial], on_device)
    other = {name: array[..., :1] if name == "leaf1" else array for name, array in begin.arrays().items()}
    with pytest.raises(ValueError, match="shape"):
        begin.restored(other)
    with pytest.raises(ValueError, match="lacks"):
        begin.restored({})


def test_lanes_do_not_see_each_other(trial: Trial, program, on_device) -> None:  # type: ignore[no-untyped-def]
    """The same trial in any company is the same to the bit; against one lane alone, to float rounding."""
    three = compile_program(trial, 3, on_device)
    full = run(three, seeds(trial, 0, 1, 2), on_device)
    assert same(full, run(three, seeds(trial, 1), on_device), 1, 0)  # two idle lanes
    assert same(full, run(three, seeds(trial, 2, 1), on_device), 2, 0)
    wild = [dataclasses.replace(trial, train=dataclasses.replace(trial.train, learning_rate=1e30), seed=9), *seeds(trial, 1)]
    mixed = run(three, wild, on_device)
    assert mixed.diverged[0] is not None
    assert mixed.diverged[1] is None
    assert same(full, mixed, 1, 1)
    alone = run(program, seeds(trial, 1), on_device)
    for row, mine in zip(full.history, alone.history, strict=True):
        assert row["train_loss"][1] == pytest.approx(mine["train_loss"][0], rel=1e-4)


def test_divergence_is_a_result_with_its_step(trial: Trial, program, on_device) -> None:  # type: ignore[no-untyped-def]
    wild = dataclasses.replace(trial, train=dataclasses.replace(trial.train, learning_rate=1e30))
    position = run(program, [wild], on_device)
    (result,) = results(program, [wild], on_device, position)
    assert result.status == "diverged"
    assert result.reason == f"loss not finite at step {position.diverged[0]} of 8"
    assert result.test_correct is None
    assert all(np.isfinite(row["train_loss"]) for row in result.history)


def test_a_last_step_that_overflows_is_a_divergence(trial: Trial, on_device: DeviceData) -> None:
    """Its own loss is of the parameters before it; those after it are seen by the test images alone."""
    one_step = dataclasses.replace(
        trial, train=dataclasses.replace(trial.train, epochs=1, batch_size=10**4, learning_rate=3e38, optimizer="sgd")
    )
    program = compile_program(one_step, 1, on_device)
    position = run(program, [one_step], on_device)
    assert position.diverged == (None,)
    (result,) = results(program, [one_step], on_device, position)
    assert (result.status, result.reason) == ("diverged", "loss not finite at step 0 of 1")
    assert result.test_loss is None


def test_cross_entropy_and_its_gradient_are_those_of_optax() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 30, (64, 10)).astype(np.float32), rng.integers(0, 10, 64, np.int32)
    ours, theirs = cross_entropy, optax.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(ours(logits, labels), theirs(logits, labels), rtol=1e-6, atol=1e-6)
    gradients = [jax.grad(lambda x, f=f: (f(x, labels) ** 2).sum())(logits) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_b2_the_loss_of_half_precision_logits_is_float32(dtype: str) -> None:
    logits, labels = jnp.asarray([[9.0, 1.0, -3.0], [0.5, 0.25, 0.0]], dtype), np.array([1, 0], np.int32)
    loss = cross_entropy(logits, labels)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, cross_entropy(logits.astype(jnp.float32), labels), rtol=1e-6)


def test_every_image_is_judged_once(trial: Trial, program, on_device) -> None:  # type: ignore[no-untyped-def]
    position = run(program, [trial], on_device)
    (result,) = results(program, [trial], on_device, position)
    params = jax.tree.map(lambda leaf: leaf[0], position.state.params)
    dataset = data.load(trial.data)
    x = np.asarray(dataset.test_images, np.float32) / 255
    logits, _ = program.model.apply({"params": params}, x)
    np.testing.assert_array_equal(result.test_correct, np.argmax(logits, -1) == dataset.test_labels)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, dataset.test_labels)
    assert result.test_loss == pytest.approx(float(losses.mean()), rel=1e-5)
    size = program.eval_batches * EVAL_BATCH
    everything = len(on_device.eval_labels)
    for which in (range(0), range(1), range(5, 12), range(everything)):
        answers = evaluate(program, variables_of(position.state), on_device, which, logits=False)
        losses, rights = answers.loss_TN, answers.right_TN
        assert losses.shape == rights.shape == (1, len(which))
    assert size >= 77


def test_a_small_evaluation_program_walks_a_large_set(trial: Trial, program, on_device) -> None:  # type: ignore[no-untyped-def]
    """Sets larger than the program's piece are judged piece by piece, with the last one cut."""
    position = run(program, [trial], on_device)
    variables = variables_of(position.state)
    whole = evaluate(program, variables, on_device, range(len(on_device.eval_labels)), logits=False).loss_TN
    pieces = [
        evaluate(program, variables, on_device, range(i, min(i + 30, whole.shape[1])), logits=False).loss_TN
        for i in range(0, whole.shape[1], 30)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(pieces, 1))


def test_whole_training_in_one_call_learns(trial: Trial) -> None:
    longer = dataclasses.replace(trial, train=dataclasses.replace(trial.train, epochs=20, learning_rate=0.01))
    result = train_epochs(longer, data.load(trial.data))
    assert result.status == "done"
    assert len(result.history) == 20
    assert result.test_correct is not None
    assert result.test_correct.mean() > 0.95


def test_steps_compile_once_for_all_trials_of_a_bucket(
    trial: Trial, on_device: DeviceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []

    class Counted(CNN):
        def __call__(self, x, train=False):  # type: ignore[no-untyped-def]
            traced.append(1)
            return super().__call__(x, train)

    model = build(trial.model, on_device.input_shape, on_device.num_classes)
    counted = Counted(model.spec)
    monkeypatch.setattr("cnn_jax.training.program.build", lambda *_: counted)
    program = compile_program(trial, 1, on_device)
    before = len(traced)
    for other in seeds(trial, 0, 1, 2):
        other = dataclasses.replace(other, train=dataclasses.replace(other.train, learning_rate=0.01 * (1 + other.seed)))
        position = start(program, [other], on_device)
        inits = len(traced)  # drawing initial values traces shapes, which compiles nothing
        advance(program, [other], on_device, position, 10**9)
        assert len(traced) == inits
    assert before > 0
