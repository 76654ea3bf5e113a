"""describe: one answer for names, configs, specs and modules; tracing a module that has no spec; text and JSON."""

import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import conv_transpose, describe, zoo
from cnn_jax.description import to_json, to_text
from cnn_jax.errors import UsageError
from cnn_jax.nn import Conv, ConvTranspose, Dense, Flatten, MaxPool, Residual
from cnn_jax.nn.network import CNN
from cnn_jax.trial import ModelConfig

CHAPTER = (Conv(32, 3, activation="relu"), MaxPool(2), Flatten(), Dense(10))


def test_all_ways_to_name_a_network_agree():
    by_name = describe("cnn")
    assert by_name == describe("cnn", (28, 28, 1)) == describe("cnn", [28, 28, 1], 10)
    assert by_name == describe(ModelConfig()) == describe(zoo.resolve(ModelConfig()))
    assert by_name.layers == describe(CHAPTER, (28, 28, 1)).layers == describe(CNN(CHAPTER), (28, 28, 1)).layers
    assert (by_name.model, by_name.params, by_name.macs, by_name.receptive_field) == ("cnn", 54_410, 248_768, 4)
    assert [(row.name, row.output_shape) for row in by_name.layers] == [
        ("conv1", (26, 26, 32)), ("pool1", (13, 13, 32)), ("flatten1", (5408,)), ("dense1", (10,)),
    ]  # fmt: skip


def test_the_classes_are_the_models_own_unless_given():
    assert describe("vgg16", (32, 32, 3)).output_shape == (1000,)
    assert describe("vgg16", (32, 32, 3), 10).output_shape == (10,)


def test_what_is_missing_is_asked_for():
    with pytest.raises(UsageError, match=r"--input_shape: model tests\.test_summary:CHAPTER has no default"):
        describe("tests.test_summary:CHAPTER")
    with pytest.raises(UsageError, match=r"--num_classes: model tests\.test_summary:CHAPTER has no default"):
        describe("tests.test_summary:CHAPTER", (28, 28, 1))
    with pytest.raises(UsageError, match="input_shape: a spec or a module has no default"):
        describe(CHAPTER)


def test_activations_are_counted_in_bytes_of_float32():
    found = describe("cnn")
    assert [row.activation_bytes for row in found.layers] == [4 * 26 * 26 * 32, 4 * 13 * 13 * 32, 0, 40]
    assert found.activation_bytes == 86_528 + 21_632 + 40


# ------------------------------------------------------------------------------------------------------------------ tracing


class Block(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(self.features, (3, 3))(x))


class Foreign(nn.Module):
    """A linen module as others write them: no spec, blocks in blocks, a parameter of its own."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Block(8)(x)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.Dropout(0.5, deterministic=not train)(Block(16, name="second")(x))
        x = x * self.param("gain", nn.initializers.ones, (16,)).reshape(*(1,) * (x.ndim - 1), -1)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1)), {"x": x}


def test_a_foreign_module_is_traced():
    found = describe(Foreign(), (28, 28, 1))
    rows = {row.name: (row.kind, row.output_shape, row.params, row.macs) for row in found.layers}
    assert rows == {
        "Block_0/Conv_0": ("Conv", (28, 28, 8), 80, 28 * 28 * 9 * 8),
        "Block_0": ("Block", (28, 28, 8), 0, 0),
        "second/Conv_0": ("Conv", (14, 14, 16), 1168, 14 * 14 * 9 * 8 * 16),
        "second": ("Block", (14, 14, 16), 0, 0),
        "Dropout_0": ("Dropout", (14, 14, 16), 0, 0),
        "Dense_0": ("Dense", (10,), 31_370, 31_360),
        "Foreign": ("Foreign", (10,), 16, 0),
    }
    assert (found.params, found.macs) == (80 + 1168 + 31_370 + 16, 28 * 28 * 72 + 14 * 14 * 1152 + 31_360)
    assert found.output_shape == (10,)
    assert found.receptive_field is None
    assert found.layers[-1].activation_bytes == 0  # it hands on what Dense_0 made


def test_a_foreign_model_is_found_by_its_path():
    found = describe(ModelConfig("tests.test_summary:Foreign"), (28, 28, 1), 7)
    assert found.model == "tests.test_summary:Foreign"
    assert found.output_shape == (7,)


class Square(nn.Module):
    """A 5x5 matrix product under the given control flow; no `train` argument, logits alone."""

    flow: str = "none"

    @nn.compact
    def __call__(self, x):
        weights = self.param("w", nn.initializers.ones, (5, 5))

        def product(x):
            return x @ weights

        match self.flow:
            case "scan":
                return jax.lax.scan(lambda x, _: (product(x), None), x, length=3)[0]
            case "nested":
                inner = jax.jit(lambda x: jax.lax.fori_loop(0, 2, lambda _, x: product(x), x))
                return jax.lax.scan(lambda x, _: (inner(x), None), x, length=3)[0]
            case "cond":
                return jax.lax.cond(x.sum() > 0, lambda x: product(product(x)), product, x)
            case "while":
                return jax.lax.while_loop(lambda x: x.sum() > 0, product, x)
            case "remat":
                return jax.checkpoint(product)(x)
        return product(x)


@pytest.mark.parametrize(
    ("flow", "products"), [("none", 1), ("scan", 3), ("nested", 6), ("cond", 2), ("while", 1), ("remat", 1)]
)
def test_products_in_control_flow_are_counted(flow, products):
    found = describe(Square(flow), (5,))
    assert (found.params, found.macs) == (25, 25 * products)


class Enlarge(nn.Module):
    def __call__(self, x):
        return conv_transpose(x, jnp.ones((3, 3, 2, 4)), strides=2)


class EnlargeLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.ConvTranspose(2, (3, 3), strides=(2, 2), padding="VALID", use_bias=False)(x)


@pytest.mark.parametrize("module", [Enlarge(), EnlargeLinen()])
def test_the_holes_of_a_transposed_convolution_are_not_counted(module):
    # Every one of 25 inputs meets 9 weights, from 4 channels to 2; no product is with padding here.
    assert describe(module, (5, 5, 4)).macs == 25 * 9 * 4 * 2


class Up(nn.Module):
    """A transposed convolution as a layer of another module."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: str

    @nn.compact
    def __call__(self, x):
        return nn.ConvTranspose(2, self.kernel, strides=self.strides, padding=self.padding, name="up")(x)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_e8_a_transposed_convolution_costs_what_the_convolution_of_which_it_is_the_gradient(kernel, strides, padding):
    """Counted one by one: a convolution back to 4x5 outputs makes a product per output, tap, channel and filter."""
    products = sum(1 for _ in np.ndindex(4, 5, *kernel, 3, 2))
    assert describe(Up(kernel, strides, padding), (4, 5, 3)).macs == products
    assert describe(nn.ConvTranspose(2, kernel, strides=strides, padding=padding), (4, 5, 3)).macs == products
    amount = padding.lower()
    ours = ConvTranspose(2, kernel, strides, amount)
    assert describe((ours,), (4, 5, 3)).macs == products


def test_e8_without_strides_it_is_known_by_its_module():
    assert describe(nn.ConvTranspose(1, (3, 3), padding="VALID"), (1, 1, 32)).macs == 288
    assert describe(nn.Conv(1, (3, 3), padding=2), (1, 1, 32)).macs == 9 * 288  # a convolution with full padding counts it


class Shared(nn.Module):
    def setup(self):
        self.twice = nn.Dense(5)

    def __call__(self, x):
        return self.twice(self.twice(x))


def test_a_shared_module_has_two_rows_and_its_costs_once():
    found = describe(Shared(), (5,))
    assert [row.name for row in found.layers] == ["twice", "twice", "Shared"]
    assert (found.params, found.macs) == (30, 50)


class Broken(nn.Module):
    def __call__(self, x):
        return x @ jnp.ones((3, 3))


def test_a_module_that_cannot_be_traced_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"^model Broken cannot be traced on images \(5,\): TypeError: .+$") as error:
        describe(Broken(), (5,))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------------- output


def test_json_says_what_describe_found():
    found = json.loads(json.dumps(to_json(describe("cnn"))))
    assert found["layers"][0] == {
        "name": "conv1",
        "kind": "conv",
        "output_shape": [26, 26, 32],
        "params": 320,
        "macs": 194_688,
        "receptive_field": 3,
        "effective_stride": 1,
        "padding": [[0, 0], [0, 0]],
        "activation_bytes": 86_528,
    }
    assert found["layers"][-1]["receptive_field"] is None
    assert found["layers"][-1]["padding"] is None
    del found["layers"]
    assert found == {
        "model": "cnn",
        "input_shape": [28, 28, 1],
        "params": 54_410,
        "macs": 248_768,
        "receptive_field": 4,
        "activation_bytes": 108_200,
        "warnings": [],
    }


def test_text_is_an_aligned_table_with_totals_and_the_convention():
    spec = (
        Residual((Conv(8, (1, 3), (1, 2), padding=((0, 0), (1, 1))),), (Conv(8, 1, (1, 2)),)),
        Conv(4, (2, 3), padding="same"),
    )
    title, _, header, rule, *rows, rule_below, total, _, convention = to_text(describe(spec, (6, 8, 1))).split("\n")
    assert title == "on 6x8x1"
    assert rule == rule_below
    assert len(rows) == 4
    assert rows[0].split() == ["conv1", "conv", "6x4x8", "0x1", "32", "576", "1x3", "1x2", "768"]
    assert rows[3].split() == ["conv3", "conv", "6x4x4", "0/1x1", "196", "4,608", "2x7", "1x2", "384"]
    assert total.split() == ["total", "6x4x4", "244", "5,376", "2x7", "2,688"]
    assert {len(line) for line in (header, rule, *rows, total)} == {len(rule)}
    starts = [match.start() for match in re.finditer("─+", rule)]
    assert all(line[start - 1] == " " for line in (header, *rows, total) for start in starts[1:])
    assert "multiply-accumulates" in convention
    assert "without bias" in convention
    assert to_text(describe("cnn")).startswith("cnn on 28x28x1\n")
