"""From spec to network: names, features, modes; initial values against JAX's own; the contract of a fork's model."""

import dataclasses
import functools
import inspect
import itertools
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double import x64

from cnn_jax import nn as specs
from cnn_jax.errors import UsageError
from cnn_jax.nn import layer_table
from cnn_jax.nn.activation import MONOTONE
from cnn_jax.nn.check import check_model
from cnn_jax.nn.functional import conv, max_pool
from cnn_jax.nn.init import initial_variables
from cnn_jax.nn.initializers import for_jax
from cnn_jax.nn.modules import ACTIVATIONS
from cnn_jax.nn.network import CNN
from cnn_jax.ops.conv import at_most
from cnn_jax.trial import ModelConfig
from cnn_jax.zoo.build import build

SHAPE = (8, 8, 4)
# Every kind of layer, some nested: 8x8x4 in, 10 classes out.
EVERYTHING: specs.Spec = (
    specs.Conv(8, 3, padding="same", activation="relu"),
    specs.BatchNorm(),
    specs.Residual((specs.DepthwiseConv(3, padding="same"), specs.GroupNorm(4)), (specs.PadChannels(8),), activation="tanh"),
    specs.Branch(((specs.SeparableConv(4, 3, padding="same"),), (specs.Conv(6, 1), specs.LayerNorm()))),
    specs.Branch(((specs.Activation("gelu"),), (specs.MaxPool(3, 1, 1), specs.AvgPool(3, 1, 1))), merge="add"),
    specs.Subsample(2, activation="scaled_tanh"),
    specs.ConvTranspose(4, 2, strides=2),
    specs.Conv(3, 3, connections=((0, 1), (2, 3), (0, 1, 2, 3)), bias_init="normal"),
    specs.Branch(((specs.GlobalAvgPool(),), (specs.GlobalMaxPool(),), (specs.Flatten(),))),
    specs.Dropout(0.5),
    specs.Dense(8, activation="relu", kernel_init="he_normal"),
    specs.RBF(tuple(tuple(1 if k == f % 10 else -1 for f in range(8)) for k in range(10))),
)


def images(n=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """The network of everything, and its variables."""
    model = CNN(EVERYTHING)
    return model, initial_variables(model, SHAPE, seed=3)


def apply(model, variables, x, **arguments):
    return jax.jit(lambda v, x: model.apply(v, x, **arguments))(variables, x)


# ------------------------------------------------------------------------------------------------------------------- CNN


def test_every_spec_has_a_builder_and_a_place_in_these_tests():
    kinds = {kind for kind in vars(specs).values() if inspect.isclass(kind) and issubclass(kind, specs.Layer)} - {specs.Layer}
    assert kinds == {type(layer) for layer in specs.flat(EVERYTHING)}


def test_features_and_parameters_have_the_names_and_sizes_of_the_geometry(network):
    model, variables = network
    logits, features = apply(model, variables, images())
    rows = {row.name: row for row in layer_table(EVERYTHING, SHAPE).layers}
    assert set(rows) == set(features)
    for name, feature in features.items():
        assert feature.shape[1:] == rows[name].output_shape, name
        assert sum(p.size for p in jax.tree.leaves(variables["params"].get(name, {}))) == rows[name].params, name
    assert logits is not None
    np.testing.assert_array_equal(logits, features["rbf1"])


def test_the_chapters_net_is_its_formula():
    """Logits by the functions of `nn.functional`, put together by hand. 1e-5: float32, sums of at most 36 terms."""
    model = CNN((specs.Conv(4, 3, activation="relu"), specs.MaxPool(2), specs.Flatten(), specs.Dense(10)))
    variables = initial_variables(model, SHAPE, 0)
    conv1, dense1 = variables["params"]["conv1"], variables["params"]["dense1"]
    x = images()
    hidden = max_pool(jnp.maximum(conv(x, conv1["kernel"], conv1["bias"]), 0), 2)
    expected = np.asarray(hidden.reshape(3, -1) @ dense1["kernel"]) + dense1["bias"]
    np.testing.assert_allclose(apply(model, variables, x)[0], expected, atol=1e-5)


def test_residual_and_branches_are_sums_and_joins():
    x = jnp.asarray(images())
    spec = (
        specs.Residual((specs.Activation("tanh"),), activation="relu"),
        specs.Branch(((specs.Activation("relu"),), (specs.Activation("linear"),)), merge="add"),
        specs.Branch(((specs.Activation("relu"),), (specs.Activation("tanh"), specs.Activation("elu")))),
    )
    out, features = CNN(spec).apply({}, x)
    first = jax.nn.relu(jnp.tanh(x) + x)
    np.testing.assert_allclose(features["residual1"], first, rtol=1e-6)
    np.testing.assert_allclose(features["branch1"], 2 * first, rtol=1e-6)
    np.testing.assert_allclose(out, jnp.concatenate([2 * first, jnp.tanh(2 * first)], -1), rtol=1e-6)


def test_names_given_are_kept():
    _, features = CNN((specs.Flatten(name="pixels"), specs.Dense(2))).init_with_output(jax.random.key(0), images())[0]
    assert list(features) == ["pixels", "dense1"]


def test_training_drops_out_and_updates_the_running_statistics(network):
    model, variables = network
    x = images()

    def train(variables, x, key):
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    train = jax.jit(train)
    (_, features), updated = train(variables, x, jax.random.key(0))
    dropped = features["dropout1"] == 0
    assert 0.2 < dropped.mean() < 0.8
    np.testing.assert_allclose(features["dropout1"][~dropped], 2 * features["branch3"][~dropped], rtol=1e-6)
    assert not np.array_equal(dropped, train(variables, x, jax.random.key(1))[0][1]["dropout1"] == 0)
    # The running mean moves a tenth of the way, momentum being 0.9, from 0 to the mean of the batch.
    batch_mean = features["conv1"].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["norm1"]["mean"], 0.1 * batch_mean, rtol=1e-4)
    # Normalised by the batch in training; by the running statistics, still (0, 1), at evaluation.
    np.testing.assert_allclose(features["norm1"].mean(axis=(0, 1, 2)), 0, atol=1e-5)
    evaluated = apply(model, variables, x)[1]
    np.testing.assert_allclose(evaluated["norm1"], evaluated["conv1"] / math.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(evaluated["dropout1"], evaluated["branch3"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtype_reaches_every_layer(dtype):
    with x64(True):
        model = CNN(EVERYTHING, dtype=dtype)
        variables = initial_variables(model, SHAPE, 0)
        kept = "float64" if dtype == "float64" else "float32"
        assert {leaf.dtype.name for leaf in jax.tree.leaves(variables["params"])} == {kept}
        _, features = jax.eval_shape(lambda x: model.apply(variables, x), jnp.asarray(images()))
        assert {name: leaf.dtype.name for name, leaf in features.items()} == dict.fromkeys(features, dtype)


def test_precision_reaches_every_product():
    model = CNN(
        (specs.Conv(2, 3), specs.ConvTranspose(2, 3), specs.SeparableConv(2, 3), specs.Flatten(), specs.Dense(2)),
        precision="highest",
    )
    variables = initial_variables(model, SHAPE, 0)
    with at_most("xla"):  # C multiplies in float32 whatever is asked
        program = str(jax.make_jaxpr(lambda x: model.apply(variables, x)[0])(images()))
    products = program.count("conv_general_dilated[") + program.count("dot_general[")
    assert products >= 5
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ((specs.Conv(4, 3), specs.Conv(4, 9)), "layer 'conv2': kernel of 9"),
        ((specs.Residual((specs.Conv(4, 9),)),), "layer 'conv1': kernel of 9"),
        ((specs.Residual((specs.Conv(5, 1),)),), r"layer 'residual1': branches of shapes \(8, 8, 5\), \(8, 8, 4\)"),
        ((specs.Branch(((specs.Conv(4, 3),), (specs.Conv(4, 1),))),), "layer 'branch1': branches of shapes"),
        ((specs.Branch(((), ()), merge="stack"),), "layer 'branch1': unknown merge 'stack': must be one of add, concat"),
        ((specs.GroupNorm(3),), "layer 'norm1': groups=3 must divide the 4 channels"),
        ((specs.Activation("swish", name="last"),), "layer 'last': unknown activation 'swish'"),
        ((specs.Conv(4, 3, name="a"), specs.Conv(4, 3, name="a")), "two layers are named 'a'"),
    ],
)
def test_a_network_that_cannot_be_names_the_layer(spec, sentence):
    with pytest.raises(UsageError, match=f"^{sentence}"):
        jax.eval_shape(lambda: CNN(spec).init(jax.random.key(0), images()))


def test_what_is_no_layer_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Mystery:
        kind = "mystery"
        name: str = ""

    with pytest.raises(UsageError, match="Mystery is not a layer: a spec is a tuple"):
        CNN((Mystery(),)).init(jax.random.key(0), images())


# --------------------------------------------------------------------------------------------------------- initial values


def test_initial_values_look_like_those_of_init(network):
    """Same tree, shapes and types; and equal wherever nothing is drawn."""
    model, variables = network

    def init():
        return model.init(jax.random.key(0), images(1))

    assert jax.tree.map(lambda v: (v.shape, v.dtype), variables) == jax.tree.map(
        lambda v: (v.shape, v.dtype), jax.eval_shape(init)
    )
    ours = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    constants = [path for path, leaf in ours.items() if np.ptp(leaf) == 0]
    drawn = {path for path in ours if "kernel" in path} | {"['params']['conv3']['bias']"}
    assert set(ours) - set(constants) == drawn

    def their_constants():  # of what init computes, the rest is not even compiled
        return {
            p: v for path, v in jax.tree_util.tree_leaves_with_path(init()) if (p := jax.tree_util.keystr(path)) in constants
        }

    for path, leaf in jax.jit(their_constants)().items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


SAMPLE = (5, 5, 24, 60)  # 36,000 values; fans 600 and 1,500


@pytest.mark.parametrize("name", specs.INITIALIZERS)
def test_numpy_draws_as_jax_does(name):
    """Mean, deviation, bounds and fourth moment, which tells a uniform from a cut-off normal from a whole one.

    With 36,000 draws the mean is off by 1/190 deviations and the deviation by 1/270 of itself: five of those are allowed.
    """
    ours = specs.INITIALIZERS[name](np.random.default_rng(0), SAMPLE, np.float32)
    theirs = np.asarray(for_jax(name)(jax.random.key(0), SAMPLE, jnp.float32))
    assert ours.dtype == theirs.dtype
    deviation = float(theirs.std())
    if deviation == 0:
        np.testing.assert_array_equal(ours, theirs)
        return
    assert abs(ours.mean()) < 5 * deviation / 190
    assert ours.std() == pytest.approx(deviation, rel=5 / 190)
    assert np.mean(ours**4) == pytest.approx(np.mean(theirs**4), rel=0.08)
    # So many come close to the bound; the normal has none, and its largest value varies.
    assert np.abs(ours).max() == pytest.approx(float(np.abs(theirs).max()), abs=deviation * (1 if name == "normal" else 0.02))
    # Another shape, so that a fan cannot be right by chance.
    small = (3, 8, 4000)
    ours = specs.INITIALIZERS[name](np.random.default_rng(0), small, np.float32)
    theirs = for_jax(name)(jax.random.key(0), small, jnp.float32)
    assert ours.std() == pytest.approx(float(theirs.std()), rel=5 / 190)


def test_a_sparse_kernel_is_drawn_as_the_dense_one():
    connections = tuple((f % 6, (f + 1) % 6) for f in range(2000))
    model = CNN((specs.Conv(2000, 3, connections=connections),))
    kernel = initial_variables(model, (5, 5, 6), 0)["params"]["conv1"]["kernel"]
    dense = for_jax("glorot_uniform")(jax.random.key(0), (3, 3, 6, 2000), jnp.float32)
    assert kernel.shape == (3, 3, 4000)
    assert kernel.std() == pytest.approx(float(dense.std()), rel=5 / 190)


def test_each_parameter_has_a_stream_of_its_own():
    small = CNN((specs.Conv(4, 3), specs.Conv(4, 3)))
    large = CNN((specs.Conv(4, 3), specs.Conv(4, 3), specs.Dense(7)))
    a, b = initial_variables(small, SHAPE, 5)["params"], initial_variables(large, SHAPE, 5)["params"]
    np.testing.assert_array_equal(a["conv1"]["kernel"], b["conv1"]["kernel"])
    assert not np.array_equal(a["conv1"]["kernel"], a["conv2"]["kernel"])
    assert not np.array_equal(a["conv1"]["kernel"], initial_variables(small, SHAPE, 6)["params"]["conv1"]["kernel"])


def test_initial_values_never_change():
    """Recorded results belong to these values: if this fails on purpose, say so in the CHANGELOG."""
    kernel = initial_variables(CNN((specs.Conv(2, 3),)), (8, 8, 1), 0)["params"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel[0, 0, 0], [-0.3634594678878784, -0.21514111757278442], rtol=1e-6)


def test_drawing_initial_values_compiles_nothing():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    jax.jit(lambda x: x + 41)(1)
    assert any("backend_compile" in event for event in compiled)  # the listener does hear
    compiled.clear()
    initial_variables(CNN((specs.Conv(3, 3), specs.BatchNorm(), specs.Flatten(), specs.Dense(9))), SHAPE, 1)
    assert not [event for event in compiled if "backend_compile" in event]


def test_a_bias_has_no_fan():
    with pytest.raises(UsageError, match=r"^layer 'conv1': bias_init 'he_normal' .*: must be one of zeros, ones, normal"):
        initial_variables(CNN((specs.Conv(3, 3, bias_init="he_normal"),)), SHAPE, 0)


# ----------------------------------------------------------------------------------------------------------------- forks


TRACES = itertools.count(1)


class Fork(nn.Module):
    """What a fork may bring; `fault` makes it break the contract in one way."""

    num_classes: int = 10
    fault: str = ""

    @nn.compact
    def __call__(self, x, train=False):
        n = len(x)
        if self.fault == "raises":
            raise RuntimeError("out of\norder")
        x = x.reshape(n, -1)
        hidden = nn.relu(nn.Dense(16)(x))
        if self.fault == "rng":
            hidden = nn.Dropout(0.5, deterministic=False)(hidden)
        if self.fault == "batch":
            hidden = hidden - hidden.mean(axis=0, keepdims=True)
        if self.fault == "whim":
            hidden = hidden * next(TRACES)
        logits = nn.Dense(self.num_classes)(hidden)
        features = {"hidden": hidden}
        match self.fault:
            case "alone":
                return logits
            case "integers":
                logits = logits.astype(int)
            case "list":
                features = [hidden]
            case "leading":
                features["mean"] = hidden.mean(axis=0)
            case "number":
                features["width"] = 16
            case "nan":
                logits = jnp.log(logits - jnp.inf)
            case "infinite":
                features["far"] = hidden + jnp.inf
            case "cache":
                self.variable("cache", "x", lambda: hidden).value = hidden
            case "train":
                logits = logits[:, 1:] if train else logits
            case "pair":
                return [logits, features]
            case "count":
                self.param("count", lambda key: jnp.zeros((), jnp.int32))
            case "half":
                logits = logits + self.param("offset", nn.initializers.zeros, (1, 10), jnp.bfloat16)
            case "grows":
                mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(()))
                mean.value = hidden.mean(axis=1) if train else mean.value
            case "late" if train:
                self.variable("batch_stats", "mean", lambda: jnp.zeros(())).value += 1
        return logits, features


SMALL = (specs.Conv(4, 3, activation="relu"), specs.BatchNorm(), specs.GlobalAvgPool(), specs.Dropout(), specs.Dense(10))


@pytest.mark.parametrize("model", [CNN(SMALL), CNN(SMALL, dtype=jnp.bfloat16), Fork()])
def test_good_models_pass(model):
    check_model(model, SHAPE, 10)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raises", r"init\(key, x\) fails: RuntimeError: out of order \(.*test_models.py:\d+\)$"),
        ("rng", "fails: .*dropout"),
        ("batch", "same logits every time and in any batch"),
        ("whim", "same logits every time and in any batch"),
        ("alone", r"must return \(logits, features\), not"),
        ("pair", r"must return \(logits, features\), not list"),
        ("integers", r"logits that are floats of shape \(3, 10\), not int32 of shape \(3, 10\)"),
        ("list", "features as a dict of arrays, not list"),
        ("leading", r"features with an entry per image: 'mean' is float32 of shape \(16,\)"),
        ("number", "features with an entry per image: 'width' is int32"),
        ("nan", "'logits' is not finite"),
        ("infinite", "'far' is not finite"),
        ("cache", "fails: ModifyScopeVariableError"),
        ("train", r"a call with train=True must return logits that are floats of shape \(3, 10\), not .* \(3, 9\)"),
        ("count", "parameter 'count' is int32: must be float32"),
        ("half", "parameter 'offset' is bfloat16: must be float32"),
        ("grows", "must leave the shapes and types of collection 'batch_stats' as init made them"),
        ("late", "with train=True fails: ScopeCollectionNotFound"),
    ],
)
def test_broken_models_are_told_what_they_break(fault, sentence):
    with pytest.raises(UsageError, match=f"^model Fork: .*{sentence}"):
        check_model(Fork(fault=fault), SHAPE, 10)


class WithoutTrain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1)), {}


def test_b2_a_model_without_train_is_told_where_it_is():
    with pytest.raises(UsageError, match=r"unexpected keyword argument 'train' \(.*test_models.py:\d+\)$"):
        check_model(WithoutTrain(), SHAPE, 10)


def test_a_model_with_too_few_classes_is_told():
    with pytest.raises(UsageError, match=r"\(3, 11\)"):
        check_model(Fork(), SHAPE, 11)


def test_a_forks_initial_values_are_its_own():
    ours = initial_variables(Fork(), SHAPE, seed=2)
    theirs = Fork().init(jax.random.key(2), images(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def a_spec(input_shape, num_classes):
    return (specs.Flatten(), specs.Dense(num_classes))


def a_module(input_shape, num_classes):
    return Fork(num_classes)


def a_mistake(input_shape, num_classes):
    return [specs.Flatten(), specs.Dense(num_classes)]


def seven_logits(input_shape, num_classes):
    return Fork(7)


def test_b2_build_checks_a_forks_module_and_starts_no_backend():
    code = f"""
        import jax
        from cnn_jax.errors import UsageError
        from cnn_jax.trial import ModelConfig
        from cnn_jax.zoo.build import build
        try:
            build(ModelConfig("{__name__}:seven_logits"), {SHAPE}, 10)
        except UsageError as error:
            print(error)
        assert not jax._src.xla_bridge._backends  # on a GPU it would take the memory that workers need
    """
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parent)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"--model: {__name__}:seven_logits: a call with train=True must return logits that are floats of shape (3, 10), "
        "not float32 of shape (3, 7)\n"
    )


def test_build_takes_a_name_or_a_forks_attribute():
    assert build(ModelConfig("chapter"), (28, 28, 1), 10).spec[0].name == "conv1"
    assert build(ModelConfig(f"{__name__}:a_spec"), SHAPE, 7) == CNN(specs.named(a_spec(SHAPE, 7)))
    assert build(ModelConfig(f"{__name__}:a_module"), SHAPE, 7) == Fork(7)
    with pytest.raises(UsageError, match=r"a_mistake returned a list: .* tuple of layer specs"):
        build(ModelConfig(f"{__name__}:a_mistake"), SHAPE, 7)
    with pytest.raises(UsageError, match="unknown model 'nosuch'"):
        build(ModelConfig("nosuch"), SHAPE, 7)


@pytest.mark.parametrize("padding", ["valid", "same", "reflect"])
@pytest.mark.parametrize("activation", MONOTONE)
def test_convolution_and_pool_at_once_are_what_they_are_one_by_one(activation: str, padding: str) -> None:
    """Values, features and gradients. Tolerance: float32 sums of 9 products in another order."""
    amount, mode = specs.PADDINGS[padding]
    conv = specs.Conv(5, 3, padding=amount, padding_mode=mode, activation=activation, name="conv1")
    pool = specs.MaxPool(2, name="pool1")
    head = (specs.Flatten(), specs.Dense(3))
    together, apart = CNN((conv, pool, *head)), CNN((conv, specs.Dropout(0.0), pool, *head))
    x = np.random.default_rng(1).standard_normal((4, 9, 8, 1), np.float32)
    variables = initial_variables(together, x.shape[1:], 0)
    variables["params"]["conv1"]["bias"] = np.linspace(-0.5, 0.5, 5, dtype=np.float32)

    def loss(model: CNN, params):  # type: ignore[no-untyped-def]
        logits, features = model.apply({"params": params}, x)
        return (logits**2).sum(), (logits, features["conv1"], features["pool1"])

    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(loss, model), has_aux=True))(variables["params"])
        for model in (together, apart)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_activations_called_monotone_are_and_the_others_are_not() -> None:
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    rising = {name for name, f in ACTIVATIONS.items() if (np.diff(f(x)) >= -1e-6).all()}
    assert rising == set(MONOTONE)
