"""The speedrun's optimizer against PyTorch's, and the whole of it against PyTorch's run of the same recipe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double import x64

from benchmarks.speedrun import training
from benchmarks.speedrun.network import Net, whitening
from benchmarks.speedrun.recipe import Recipe

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.oracle

WIDTHS, CLASSES = (16, 24, 8), 5  # 24 channels come in: a group has fewer filters than channels, one has more, one fewer again


@functools.cache
def peer():
    from benchmarks.peers import airbench_loop

    return airbench_loop


def test_eleven_steps_are_those_of_sgd_on_the_sum_with_lookahead():
    """Given gradients. The bias of whitening freezes after step 6; step 5, 10 and the last one look ahead. Float32 rounding."""
    rng, batch = np.random.default_rng(0), 64
    recipe = Recipe(images=2 * batch, batch_size=batch, epochs=5.5)
    assert recipe.steps == 11
    shapes = {"conv1_1": (3, 3, 4, 6), "head": (6, 5), "whitening_bias": (4,)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    params["norm1_1"] = {"bias": rng.normal(size=6).astype(np.float32)}
    theirs = jax.tree.map(lambda a: torch.tensor(a, requires_grad=True), params)
    slow = jax.tree.map(lambda t: t.detach().clone(), theirs)

    # The program's own formulas.
    kilostep_scale = 1024 * (1 + 1 / (1 - 0.85))
    lr, wd = 11.5 / kilostep_scale, 0.0153 * batch / kilostep_scale
    others = [theirs[name] for name in shapes]
    groups = [
        {"params": [theirs["norm1_1"]["bias"]], "lr": 64 * lr, "weight_decay": wd / (64 * lr)},
        {"params": others, "lr": lr, "weight_decay": wd / lr},
    ]
    sgd = torch.optim.SGD(groups, lr=lr, momentum=0.85, nesterov=True)
    warmup = int(0.23 * 11)
    triangle = [0.2 + 0.8 * s / warmup if s < warmup else 1 - 0.93 * (s - warmup) / (11 - warmup) for s in range(12)]
    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, triangle.__getitem__)

    optimizer = recipe.optimizer()
    fast, ours_slow, momentum = params, params, optimizer.init(params)
    for step in range(11):
        gradients = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32) / 100, params)
        updates, momentum = jax.jit(optimizer.update)(gradients, momentum, fast)
        fast = jax.tree.map(jnp.add, fast, updates)
        ours_slow, fast = jax.jit(recipe.lookahead)(jnp.asarray(step + 1), ours_slow, fast)
        for tensor, gradient in zip(jax.tree.leaves(theirs), jax.tree.leaves(gradients), strict=True):
            tensor.grad = batch * torch.tensor(gradient)
        if step >= 6:
            theirs["whitening_bias"].grad = None  # as zero_grad leaves a parameter that asks for no gradient
        sgd.step()
        schedule.step()
        with torch.no_grad():
            for decay, now in ((0.95**5 * ((step + 1) / 11) ** 3, (step + 1) % 5 == 0), (1.0, step == 10)):
                if now:
                    for s, t in zip(jax.tree.leaves(slow), jax.tree.leaves(theirs), strict=True):
                        t.copy_(s.lerp_(t, 1 - decay))
        for tensor, array in zip(jax.tree.leaves(theirs), jax.tree.leaves(fast), strict=True):
            expected = tensor.detach().numpy()
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def put(net, variables):
    """Our variables, in PyTorch's network."""
    tensor = functools.partial(torch.tensor, dtype=torch.float64)
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))
    with torch.no_grad():
        net.whitening.bias.copy_(tensor(params["whitening_bias"]))
        net.head.weight.copy_(tensor(params["head"].T))
        for i, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
            name = f"{i // 2 + 1}_{i % 2 + 1}"
            conv.weight.copy_(tensor(params[f"conv{name}"].transpose(3, 2, 0, 1)))
            norm.bias.copy_(tensor(params[f"norm{name}"]["bias"]))
            norm.running_mean.copy_(tensor(stats[f"norm{name}"]["mean"]))
            norm.running_var.copy_(tensor(stats[f"norm{name}"]["var"]))


def took(net):
    """The variables of PyTorch's network, as ours."""
    params = {"whitening_bias": net.whitening.bias, "head": net.head.weight.T}
    stats = {}
    for i, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
        name = f"{i // 2 + 1}_{i % 2 + 1}"
        params |= {f"conv{name}": conv.weight.permute(2, 3, 1, 0), f"norm{name}": {"bias": norm.bias}}
        stats[f"norm{name}"] = {"mean": norm.running_mean, "var": norm.running_var}
    return jax.tree.map(lambda t: t.detach().numpy(), {"params": params, "batch_stats": stats})


@pytest.mark.slow
def test_ten_steps_of_the_network():
    """Double precision, the same initial values and batches: parameters, statistics, and predictions over six views."""
    rng, batch = np.random.default_rng(1), 32
    x_NHWC = rng.normal(size=(60, 20, 20, 3)).cumsum(2) / 4
    recipe = Recipe(images=2 * batch, batch_size=batch, epochs=5)
    loop = peer()
    with x64(True):
        net = Net(WIDTHS, CLASSES, jnp.float64)
        kernel = whitening(jnp.asarray(x_NHWC))
        variables = net.init(jax.random.key(0), jnp.asarray(x_NHWC[:2]), kernel, train=False)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
        theirs = loop.Net(3, CLASSES, WIDTHS).double()
        put(theirs, variables)
        # Axes are known up to their sign: theirs is checked apart, and both go on from ours.
        x_NCHW = torch.tensor(x_NHWC).permute(0, 3, 1, 2)
        filters = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1))
        found = loop.whitening(x_NCHW)[:12].flatten(1).double()
        np.testing.assert_allclose(np.abs((found * filters[:12].flatten(1)).sum(1)), (found**2).sum(1), rtol=1e-3)
        theirs.whitening.weight.data.copy_(filters)

        trainer = loop.Trainer(theirs, recipe.images, batch, 5)
        state = training.create_state(recipe, variables)
        train_step = jax.jit(functools.partial(training.train_step, net, recipe))
        for step in range(10):
            rows, y = rng.choice(60, batch), rng.integers(0, CLASSES, batch)
            state = train_step(kernel, state, jnp.asarray(step), jnp.asarray(x_NHWC[rows]), jnp.asarray(y))
            trainer.step(x_NCHW[rows], torch.tensor(y))
        expected = took(theirs)
        assert trainer.done == trainer.steps == recipe.steps
        # PyTorch's running variance has a factor n / (n - 1): n is 32 * 2 * 2 in the last group.
        for name, norm in expected["batch_stats"].items():
            mine = state.fast["batch_stats"][name]
            np.testing.assert_allclose(mine["mean"], norm["mean"], rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(mine["var"], norm["var"], rtol=1.1 / (batch * 4 - 1))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        jax.tree.map(close, state.fast["params"], expected["params"])
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.fast["params"], variables["params"])
        assert min(jax.tree.leaves(moved)) > 1e-5  # every parameter is trained

        put(theirs, state.fast)
        y_N = np.arange(60) % CLASSES
        trained = training.Trained(state.fast, kernel)
        right = training.correct(net, trained, jnp.asarray(x_NHWC), jnp.asarray(y_N))
        np.testing.assert_array_equal(np.asarray(right) / 60, loop.accuracies(theirs, torch.tensor(x_NHWC), torch.tensor(y_N)))
