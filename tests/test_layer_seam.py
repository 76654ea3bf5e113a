"""Layers of a fork: a spec class with its geometry and its module, in a file of the fork, trained by the command line."""

import csv
import dataclasses
import textwrap
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from launching import here

from cnn_jax import describe
from cnn_jax.nn import Conv, Dense, Flatten, GeometryError, Layer, Pass, Residual, Signal, Step
from cnn_jax.nn.check import check_model
from cnn_jax.nn.init import initial_variables
from cnn_jax.nn.network import CNN

ROOT = Path(__file__).resolve().parents[1]

FORK = '''
    """Squeeze-and-excitation (Hu, Shen and Sun 2018): channels scaled by gates, computed from their means."""

    import dataclasses

    import flax.linen as nn
    import jax

    from cnn_jax.nn import Conv, Dense, Flatten, Layer, MaxPool, Step


    @dataclasses.dataclass(frozen=True)
    class SqueezeExcite(Layer):
        kind = "squeeze"
        ratio: int = 4

        def geometry(self, x):
            hidden = x.channels // self.ratio
            weights = 2 * x.channels * hidden
            return Step(x, weights + hidden + x.channels, weights)

        def apply(self, x, forward):
            return forward.module(Gates, self)(x)


    class Gates(nn.Module):
        ratio: int

        @nn.compact
        def __call__(self, x):
            means = x.mean(tuple(range(1, x.ndim - 1)))
            hidden = jax.nn.relu(nn.Dense(x.shape[-1] // self.ratio)(means))
            gates = jax.nn.sigmoid(nn.Dense(x.shape[-1])(hidden))
            return x * gates.reshape(len(x), *(1,) * (x.ndim - 2), -1)


    def se_net(input_shape, num_classes, *, ratio: int = 4):
        return (Conv(8, 3, activation="relu"), SqueezeExcite(ratio), MaxPool(2), Flatten(), Dense(num_classes))
'''


def test_a_layer_of_a_fork_is_described_and_swept(tmp_path: Path) -> None:
    """Its parameters are those that the geometry counts, and they train."""
    (tmp_path / "fork_layers.py").write_text(textwrap.dedent(FORK))
    table = here("describe", "--model=fork_layers:se_net", "--input_shape=8,8,1", "--num_classes=10", cwd=tmp_path)
    assert "squeeze1" in table.stdout
    words = ["--model=fork_layers:se_net", "--option=ratio=2,4", "--seeds=1", "--epochs=1", "--workers=1", "--out=out"]
    done = here(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    base = 3 * 3 * 8 + 8 + 3 * 3 * 8 * 10 + 10
    assert [int(row["params"]) - base for row in rows] == [2 * 8 * 4 + 4 + 8, 2 * 8 * 2 + 2 + 8]
    for row in rows:
        with np.load(tmp_path / "out" / "trials" / row["trial"] / "params.npz") as kept:
            squeeze = [array.size for name, array in kept.items() if "squeeze1" in name]
        assert sum(squeeze) == int(row["params"]) - base


class Gain(nn.Module):
    """A module whose parameter no layer of ours has."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gain = self.param("gain", nn.initializers.normal(1.0), (x.shape[-1],))
        return x * gain.reshape(*(1,) * (x.ndim - 1), -1)


@dataclasses.dataclass(frozen=True)
class TrainedGain(Layer):
    kind = "gain"

    def geometry(self, x: Signal) -> Step:
        return Step(x, x.channels)

    def apply(self, x: jax.Array, forward: Pass) -> jax.Array:
        return forward.module(Gain, self)(x)


def test_its_initial_values_are_those_of_its_module_and_of_the_seed() -> None:
    """Ours beside it are drawn by NumPy, whatever it draws."""
    with_gain, without = CNN((Conv(4), TrainedGain(), Flatten(), Dense(2))), CNN((Conv(4), Flatten(), Dense(2)))
    first, again, other = (initial_variables(with_gain, (5, 5, 1), seed)["params"] for seed in (0, 0, 1))
    theirs = with_gain.init(jax.random.key(0), np.zeros((1, 5, 5, 1), np.float32))["params"]
    np.testing.assert_array_equal(first["gain1"]["gain"], theirs["gain1"]["gain"])
    np.testing.assert_array_equal(first["gain1"]["gain"], again["gain1"]["gain"])
    assert (first["gain1"]["gain"] != other["gain1"]["gain"]).all()
    plain = initial_variables(without, (5, 5, 1), 0)["params"]
    for name in ("conv1", "dense1"):
        np.testing.assert_array_equal(first[name]["kernel"], plain[name]["kernel"])


@dataclasses.dataclass(frozen=True)
class Scale(Layer):
    """A layer without a module: nothing to initialize."""

    kind = "scale"
    by: float = 2.0

    def geometry(self, x: Signal) -> Step:
        if self.by == 0:
            raise GeometryError("by must not be 0")
        return Step(x)

    def apply(self, x: jax.Array, forward: object) -> jax.Array:
        return x * self.by


def test_a_layer_without_parameters_and_inside_a_residual() -> None:
    spec = (Residual((Scale(3.0),), activation="linear"), Flatten(), Dense(2))
    assert [layer.name for layer in describe(spec, (2, 2, 1)).layers] == ["scale1", "residual1", "flatten1", "dense1"]
    model = CNN(spec)
    check_model(model, (2, 2, 1), 2)
    x = np.ones((1, 2, 2, 1), np.float32)
    _, features = model.apply(initial_variables(model, (2, 2, 1), 0), x)
    np.testing.assert_array_equal(features["residual1"], 4 * x)


def test_its_errors_name_the_layer() -> None:
    with pytest.raises(GeometryError, match=r"^scale1: by must not be 0"):
        describe((Scale(0.0), Flatten(), Dense(2)), (2, 2, 1))
    with pytest.raises(GeometryError, match="str is not a layer"):
        describe((Conv(2), "relu"), (8, 8, 1))
