"""The speedrun: constants, updates, views and whitening by hand; the program for a GPU; a run from the command line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_images import images

from benchmarks import contenders
from benchmarks.speedrun import __main__ as command
from benchmarks.speedrun import network, recipe, training
from benchmarks.speedrun.network import Net
from benchmarks.speedrun.recipe import Recipe


def test_constants_of_cifar10():
    """50,000 images: 48 steps an epoch, 9.9 epochs. For the sum of losses the rate is 11.5 / 7,850.7, for their mean 1.5."""
    whole = Recipe(50_000)
    assert (whole.steps_per_epoch, whole.steps) == (48, 476)
    assert whole.learning_rate == pytest.approx(1.5)
    assert whole.decay == pytest.approx(0.0153 * 1.5 / 11.5)
    half = Recipe(50_000, 512)  # an example counts the same in every batch
    assert half.steps_per_epoch == 97
    assert (half.learning_rate, half.decay) == pytest.approx((0.75, whole.decay / 2))


def test_the_rate_is_a_triangle():
    whole = Recipe(50_000)
    factor = np.asarray(whole.factor(np.arange(477)))
    np.testing.assert_allclose(factor[[0, 109, 476]], [0.2, 1, 0.07], rtol=1e-6)  # it rises for int(0.23 * 476) steps
    np.testing.assert_allclose(np.diff(factor)[:109], 0.8 / 109, rtol=1e-3)
    np.testing.assert_allclose(np.diff(factor)[109:], -0.93 / 367, rtol=1e-3)


def test_ten_steps_by_hand():
    """Nesterov's momentum, decay, 64 times the rate for biases of normalization, a frozen bias, Lookahead; double precision."""
    rng, plan = np.random.default_rng(0), Recipe(images=128, batch_size=64, epochs=5)
    params = {"norm1_1": {"bias": rng.normal(size=3)}, "conv1_1": rng.normal(size=3), "whitening_bias": rng.normal(size=3)}
    rates = {
        "norm": 64 * 1.5 / 16,
        "conv": 1.5 / 16,
        "whitening": 1.5 / 16,
    }  # of the mean of 64 losses, 1.5 being that of 1,024
    fast = {"norm": params["norm1_1"]["bias"], "conv": params["conv1_1"], "whitening": params["whitening_bias"]}
    slow, momentum = dict(fast), dict.fromkeys(fast, 0.0)
    optimizer = plan.optimizer()
    update, lookahead = jax.jit(optimizer.update), jax.jit(plan.lookahead)
    mine, mine_slow = (jax.tree.map(jnp.float32, params) for _ in range(2))
    state = optimizer.init(mine)
    shares = [0.2, 0.6, *(1 - 0.93 * n / 8 for n in range(8))]
    for step, share in enumerate(shares):
        gradients = {name: rng.normal(size=3) / 10 for name in fast}
        for name, rate in rates.items():
            g = gradients[name] + 0.0153 / 11.5 * 1.5 / 16 / rate * fast[name]
            momentum[name] = 0.85 * momentum[name] + g
            if name != "whitening" or step < 6:
                fast[name] = fast[name] - share * rate * (g + 0.85 * momentum[name])
            if step in (4, 9):
                memory = 0.95**5 * ((step + 1) / 10) ** 3
                fast[name] = slow[name] = memory * slow[name] + (1 - memory) * fast[name]
        ours = {"norm1_1": {"bias": gradients["norm"]}, "conv1_1": gradients["conv"], "whitening_bias": gradients["whitening"]}
        updates, state = update(jax.tree.map(jnp.float32, ours), state, mine)
        mine = jax.tree.map(jnp.add, mine, updates)
        mine_slow, mine = lookahead(jnp.asarray(step + 1), mine_slow, mine)
        found = {"norm": mine["norm1_1"]["bias"], "conv": mine["conv1_1"], "whitening": mine["whitening_bias"]}
        for name, expected in fast.items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_the_last_step_returns_the_slow_weights():
    plan = Recipe(images=128, batch_size=64, epochs=3.5)
    assert plan.steps == 7
    slow, fast = plan.lookahead(jnp.asarray(7), {"w": jnp.array([1.0])}, {"w": jnp.array([5.0])})
    assert (slow["w"], fast["w"]) == (1, 1)
    slow, fast = plan.lookahead(jnp.asarray(6), {"w": jnp.array([1.0])}, {"w": jnp.array([5.0])})
    assert (slow["w"], fast["w"]) == (1, 5)


def test_white_patches_have_unit_power():
    x_NHWC = 1 + np.random.default_rng(0).normal(size=(200, 9, 9, 3)).cumsum(2).astype(np.float32)  # not about 0
    kernel = network.whitening(jnp.asarray(x_NHWC))
    patches = np.lib.stride_tricks.sliding_window_view(x_NHWC, (2, 2), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    white = patches @ np.asarray(kernel).reshape(12, 24)
    np.testing.assert_allclose(white[:, :12].T @ white[:, :12] / len(white), np.eye(12), atol=0.02)
    np.testing.assert_array_equal(white[:, 12:], -white[:, :12])
    power = 1 / np.square(kernel).sum((0, 1, 2))[:12]  # that of an axis, before it is scaled
    assert (np.diff(power) < 0).all()


def test_identity_filters_hand_their_inputs_through():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    for filters in (3, 6):
        kernel = network.identity_init(jax.random.key(0), (3, 3, 4, filters), jnp.float32)
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        passed = min(4, filters)
        np.testing.assert_allclose(y[..., :passed], x[..., :passed], atol=1e-6)
        others = np.abs(kernel[..., passed:])
        assert others.size == 0 or 0.9 / 6 < others.max() <= 1 / 6  # 1 / sqrt(3 * 3 * 4)


def test_images_are_moved_and_mirrored():
    """A centred shift without a flip is the image itself; one to the end comes from the reflected border."""
    x_NHWC = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype(np.float32)
    padded = training.reflected(jnp.asarray(x_NHWC), recipe.SHIFT)
    shift_B2 = np.array([[2, 2], [2, 2], [0, 4]])
    moved = np.asarray(training.augment(padded, shift_B2, np.array([False, True, False])))
    np.testing.assert_array_equal(moved[0], x_NHWC[0])
    np.testing.assert_array_equal(moved[1], x_NHWC[1, :, ::-1])
    rows, columns = [2, 1, 0, 1, 2, 3], [2, 3, 4, 5, 4, 3]
    np.testing.assert_array_equal(moved[2], x_NHWC[2][rows][:, columns])


def test_six_views():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)))
    weights, views = zip(*training.six_views(x), strict=True)
    assert weights == (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    orders = [np.array([0, 1, 2, 3]), np.array([1, 0, 1, 2]), np.array([1, 2, 3, 2])]
    for i, order in enumerate(orders):
        expected = np.asarray(x)[:, order][:, :, order]
        np.testing.assert_array_equal(views[2 * i], expected)
        np.testing.assert_array_equal(views[2 * i + 1], expected[:, :, ::-1])


def test_an_epoch_is_a_permutation():
    plan = Recipe(images=23, batch_size=5, epochs=2.5)
    rows_SB = np.asarray(training.batches(jax.random.key(0), plan))
    assert rows_SB.shape == (10, 5)
    epochs = [rows_SB[:4], rows_SB[4:8]]
    assert all(len(set(rows.ravel())) == 20 for rows in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_the_program_for_a_gpu():
    """Its convolutions take bfloat16, and no gradient is a scatter or a select-and-scatter."""
    plan, net = Recipe(images=64, batch_size=32, epochs=2), Net((8, 16, 16), 10, jnp.bfloat16)
    arrays = (jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32))
    kernel = jax.ShapeDtypeStruct((2, 2, 3, 24), jnp.float32)
    variables = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), arrays[0], kernel)
    state = jax.eval_shape(functools.partial(training.create_state, plan), variables)
    step = jax.jit(functools.partial(training.train_step, net, plan))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    text = step.trace(kernel, state, number, *arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "scatter" not in text
    assert "reduce_window" not in text
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 7 + 7 + 6  # outputs, gradients of kernels (XLA drops that of the fixed one), of inputs
    assert all(line.count("bf16>") >= 2 for line in convolutions)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """600 training and 100 test images of 16x16, soon learned; bright above, below or nowhere, so that flips keep classes."""
    rng = np.random.default_rng(3)
    (x, y), (u, v) = images(rng, 600, 16), images(rng, 100, 16)
    path = tmp_path_factory.mktemp("speedrun") / "small.npz"
    np.savez(path, x_train=x.swapaxes(1, 2), y_train=y, x_test=u.swapaxes(1, 2), y_test=v)
    return path


SMALL = ("--epochs=6.5", "--batch_size=32", "--widths=8,16,16", "--runs=2")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--peer",)])
def test_a_run_learns(flags, file, capsys):
    if flags and contenders.interpreter("pytorch") is None:
        pytest.skip("torch is not installed")
    command.main([f"--dataset=npz:{file}", *SMALL, *flags])
    lines = capsys.readouterr().out.splitlines()
    assert "2 runs of 117 steps of 32 images" in lines[0]
    for line in lines[1:3]:
        assert min(map(float, line.rpartition(": ")[2].split())) > 0.9  # three classes: by chance 0.33


@pytest.mark.slow
def test_a_step_in_bfloat16_goes_the_same_way():
    """Updates of the first step against those in float32, but for other winners of a pool; parameters stay in float32."""
    rng, plan = np.random.default_rng(0), Recipe(images=64, batch_size=32, epochs=10)
    x_BHWC, y_B = jnp.asarray(rng.normal(size=(32, 16, 16, 3)), jnp.float32), jnp.asarray(np.arange(32) % 3)
    kernel = network.whitening(x_BHWC)
    steps = []
    for dtype in (jnp.float32, jnp.bfloat16):
        net = Net((8,), 3, dtype)
        variables = net.init(jax.random.key(0), x_BHWC, kernel, train=False)
        state = training.create_state(plan, variables)
        state = jax.jit(functools.partial(training.train_step, net, plan))(kernel, state, jnp.asarray(0), x_BHWC, y_B)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.fast)} == {jnp.dtype(jnp.float32)}
        steps.append(jax.tree.map(lambda a, b: np.ravel(a - b), state.fast["params"], variables["params"]))
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(*map(jax.tree.leaves, steps), strict=True)]
    assert min(cosines) > 0.9
    assert max(cosines) < 1 - 1e-7  # bfloat16 was used


def test_bad_values_end_in_one_line(file, npz):
    for flags, error in (
        (["--batch_size=0"], "--batch_size=0: must be between 1 and 600, the training images"),
        (["--batch_size=601"], "--batch_size=601: must be between 1 and 600, the training images"),
        (["--epochs=0"], "--epochs=0.0: must be above 0"),
        (["--runs=0"], "--runs=0: must be above 0"),
        (["--widths=8,x"], "--widths=8,x: must be numbers of filters"),
        (["--widths=8,0"], "--widths=8,0: must be numbers of filters"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {error}"):
            command.main([f"--dataset=npz:{file}", "--batch_size=32", *flags])
    with pytest.raises(SystemExit, match=r"^error: --dataset=npz:.*: images must be 16x16 or larger, not \(8, 8, 1\)"):
        command.main([f"--dataset={npz}"])
