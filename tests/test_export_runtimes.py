"""Exported files in other programs give the logits of JAX: onnxruntime, PyTorch, Keras. `make test-export` runs these.

Files are read as their users read them, and none of the code that wrote them runs.
"""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from cnn_jax import nn
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.nn import PADDINGS
from cnn_jax.trial import ModelConfig, Trial
from cnn_jax.zoo.models import MODELS
from cnn_jax.zoo.resolve import options
from cnn_jax.zoo.resolve import spec as spec_of_model
from tests.random_networks import every_kind_of_layer, every_padding, seed_of, trained

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-4
NORMALIZATIONS = {
    "none": Normalization(),
    "per_channel": Normalization("per_channel", (0.3, 0.5), (0.2, 0.3)),
    "standardize": Normalization("standardize"),
}


@pytest.fixture(autouse=True)
def _keras_promotes_ranks():
    """Keras multiplies a (N, H, W, 1) by a (1,), which tests/conftest.py makes an error of JAX."""
    with jax.numpy_rank_promotion("allow"):
        yield


def network_of(spec, shape, normalization=None):
    channels = shape[-1]
    normalization = normalization or Normalization("per_channel", (0.4,) * channels, (0.25,) * channels)
    variables = unflatten_dict(trained(spec, shape, seed_of(spec)), sep="/")
    classes = nn.layer_table(spec, shape).output_shape[0]
    return TrainedNetwork.from_model(spec, shape, classes, variables=variables, normalization=normalization)


def images_of(network, count=4):
    return np.random.default_rng(1).integers(0, 256, (count, *network.input_shape), dtype=np.uint8)


def equal(found, expected, what=None):
    assert np.isfinite(expected).all()
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * scale, rtol=0, err_msg=repr(what))


def by_onnxruntime(path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", *images.shape[1:]])
    assert (logits.name, logits.type) == ("logits", "tensor(float)")
    return session.run(None, {"image": images})[0]


def imported(path):
    description = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


def by_torch(path, images):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    with torch.no_grad():
        return imported(path).load()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def by_keras(path, images):
    keras = pytest.importorskip("keras")
    return keras.ops.convert_to_numpy(keras.saving.load_model(path)(images))


RUNTIMES = {".onnx": by_onnxruntime, ".py": by_torch, ".keras": by_keras}
EVERY_RUNTIME = (".onnx", ".py")  # has every layer; Keras has not


def check(network, folder, suffixes=EVERY_RUNTIME):
    images = images_of(network)
    with jax.default_matmul_precision("highest"):  # as `export` compares: compiled once
        expected = network.logits(images)
    for suffix in suffixes:
        path = folder / f"network{suffix}"
        written = network.export(path)
        equal(RUNTIMES[suffix](path, images), expected, network.spec)
        for each in written.paths:
            each.unlink()


# ------------------------------------------------------------------------------------------------------------------ layers


def side_by_side(cases):
    """One network of many: their outputs, one after the other."""
    return network_of((nn.Branch(tuple(spec for spec, _ in cases)),), cases[0][1])


def test_padding_with_strides_dilation_and_groups(tmp_path):
    check(side_by_side(every_padding()), tmp_path)


def test_every_kind_of_layer(tmp_path):
    check(side_by_side(every_kind_of_layer()), tmp_path)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_images_are_normalized_in_the_file(kind, tmp_path):
    network = network_of((nn.Conv(4, 3), nn.Flatten(), nn.Dense(5)), (8, 8, 2), NORMALIZATIONS[kind])
    check(network, tmp_path, RUNTIMES)


# --------------------------------------------------------------------------------------------------------------------- zoo

# Smaller images, and for VGG fewer filters and hidden units: the layers are those of the model, their sizes are not.
SMALL = {
    "alexnet": ((67, 67, 3), 10, {}),
    **{
        f"vgg{depth}": ((32, 32, 3), 10, {"filters": (8, 8, 16, 16, 16), "options": (("hidden", 32),)})
        for depth in (11, 13, 16)
    },
    "resnet18": ((64, 64, 3), 10, {}),
    "kayhan": ((32, 32, 3), 2, {}),
    **dict.fromkeys(("chapter", "cnn", "mlp", "simple_convnet", "lenet5", "lenet5_dense"), ((28, 28, 1), 10, {})),
    **dict.fromkeys(("mnist_m3", "mnist_m5", "mnist_m7"), ((28, 28, 1), 10, {})),
}


def paddings_of(name):
    """Legal values of --padding for the model; None for a model without padding to choose."""
    if "padding" not in options(name):
        return [None]
    found = []
    for padding in PADDINGS:
        try:
            spec_of(name, padding)
        except UsageError:
            continue
        found.append(padding)
    return found


def spec_of(name, padding):
    shape, classes, fields = SMALL.get(name, ((32, 32, 3), 10, {}))
    if name.startswith("vgg") and padding == "valid":
        shape = (212, 212, 3)
    return spec_of_model(ModelConfig(name, padding=padding, **fields), shape, classes), shape


ZOO = [(name, padding) for name in MODELS for padding in paddings_of(name)]


@pytest.mark.parametrize(("name", "padding"), ZOO, ids=[f"{name}-{padding}" for name, padding in ZOO])
def test_models_of_the_zoo(name, padding, tmp_path):
    spec, shape = spec_of(name, padding)
    check(network_of(spec, shape), tmp_path)


def test_no_padding_mode_of_the_zoo_is_left_out():
    assert {padding for _, padding in ZOO} == {*PADDINGS, None}
    assert {name for name, _ in ZOO} == set(MODELS)
    assert len(ZOO) > 100


# ------------------------------------------------------------------------------------------------------------------- Keras


KERAS_HAS = {
    nn.Conv, nn.DepthwiseConv, nn.SeparableConv, nn.ConvTranspose, nn.MaxPool, nn.AvgPool, nn.GlobalMaxPool, nn.GlobalAvgPool,
    nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.Activation, nn.Dropout, nn.Flatten, nn.Dense, nn.Residual, nn.Branch,
    nn.PadChannels,
}  # fmt: skip


def test_keras_has_every_kind_of_layer_but_those_of_lenet(tmp_path):
    cases = every_kind_of_layer()
    kinds = [{type(layer) for layer in nn.flat(spec)} for spec, _ in cases]
    plain = [
        (spec, shape)
        for (spec, shape), kind in zip(cases, kinds, strict=True)
        if kind <= KERAS_HAS and all(getattr(layer, "padding_mode", "zeros") == "zeros" for layer in nn.flat(spec))
    ]
    refused = (
        nn.ConvTranspose(6, (3, 2), 2, "same", groups=2, activation="relu"),
        nn.ConvTranspose(6, 3, 2, "valid", 1),
        nn.MaxPool(3, 2, "same", 2),
    )
    plain = [(spec, shape) for spec, shape in plain if not set(spec) & set(refused)]
    check(side_by_side(plain), tmp_path, [".keras"])
    shown = {type(layer) for spec, _ in plain for layer in nn.flat(spec)} | {nn.DepthwiseConv, nn.SeparableConv}
    assert shown == KERAS_HAS
    more = [(nn.DepthwiseConv(3, 2, 2, "same"),), (nn.SeparableConv(6, 3, 2, 1, "full", activation="tanh"),)]
    check(side_by_side([((*head, nn.Flatten(), nn.Dense(4)), (8, 8, 2)) for head in more]), tmp_path, [".keras"])


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        *((nn.Conv(4, 3, padding="same", padding_mode=mode), f"padding mode '{mode}'") for mode in nn.PADDING_MODES[1:]),
        (nn.Conv(4, 3, 2, dilation=2), "convolution with strides and dilation"),
        (nn.ConvTranspose(4, 3, groups=2), "transposed convolution with groups"),
        (nn.ConvTranspose(4, 3, 2, output_padding=1), "transposed convolution with this output padding"),
        (nn.MaxPool(2, dilation=2), "pooling with dilation"),
        (nn.MaxPool(3, padding=1), "pooling with padding"),
        (nn.Subsample(2), "layer of kind subsample"),
    ],
)
def test_keras_refuses_what_it_does_not_have(layer, what, tmp_path):
    with pytest.raises(UsageError, match=rf"^--format=keras: model CNN: layer '\w+': Keras has no {what}"):
        network_of((layer, nn.Flatten(), nn.Dense(3)), (9, 9, 2)).export(tmp_path / "network.keras")
    assert not list(tmp_path.iterdir())


# The same zeros on both sides, in Keras a layer of zeros before the convolution; asymmetric ones are Keras's own 'same'.
@pytest.mark.parametrize("name", ["simple_convnet", "lenet5_dense", "resnet20", "nin", "convmixer", "mnist_m3"])
def test_models_of_the_zoo_in_keras(name, tmp_path):
    check(network_of(*spec_of(name, None)), tmp_path, [".keras"])


# ----------------------------------------------------------------------------------------------------------- documentation


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text()
    examples = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    trial = Trial(ModelConfig("cnn", (4,), (3,), (1,), "valid", "relu"))
    network = network_of(spec_of_model(trial.model, (8, 8, 1), 10), (8, 8, 1))
    network = dataclasses.replace(network, trial=trial, class_names=tuple("0123456789"))
    for suffix in (*RUNTIMES, ".jax", ".safetensors"):
        network.export(f"network{suffix}")
    images = images_of(network)
    for example in examples:
        exec(compile(example, "export.md", "exec"), {"images": images})
    assert len(examples) == 5
    assert capsys.readouterr().out.count("4, 10") == 5


def test_metadata_say_what_the_network_is(tmp_path):
    onnx = pytest.importorskip("onnx")
    names = ('it"s', "a\\b\n", "ü", *"3456789")
    trial = Trial(ModelConfig("cnn", (4,), (3,), (1,), "valid", "relu"))
    network = network_of(spec_of_model(trial.model, (8, 8, 1), 10), (8, 8, 1))
    network = dataclasses.replace(network, trial=trial, class_names=names)
    graph = onnx.load(network.export(tmp_path / "network.onnx").paths[-1])
    found = {entry.key: entry.value for entry in graph.metadata_props}
    about = imported(network.export(tmp_path / "network.py").paths[-1]).ABOUT
    for metadata in (found, about):
        assert (metadata["trial"], metadata["model"], metadata["dataset"]) == (trial.id, "cnn", "digits")
        assert Trial.from_json(metadata["settings"]) == trial
        assert "uint8 0 to 255" in metadata["input"]
    assert tuple(json.loads(found["class_names"])) == tuple(about["class_names"]) == names
    assert {opset.version for opset in graph.opset_import} == {17}
