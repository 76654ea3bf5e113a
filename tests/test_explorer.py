"""The network that runs in the page gives the logits that Python gives."""

import base64
import itertools
import json
import re
import shutil
import subprocess
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnn_jax import nn
from cnn_jax.nn.network import CNN
from cnn_jax.report.explorer import lower, pack
from cnn_jax.trial import ModelConfig
from cnn_jax.zoo.models import MODELS
from cnn_jax.zoo.resolve import spec as network_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM: the page's network is not tested: apt-get install chromium"
)
ENGINE = resources.files("cnn_jax.report.explorer").joinpath("engine.js").read_text()


def dumped(page, tmp_path):
    """The page after its scripts have run."""
    path = tmp_path / "page.html"
    path.write_text(page)
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=60000",
        "--dump-dom",
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def output(text):
    return json.loads(re.search(r'<pre id="out">(.*?)</pre>', text, re.S)[1])


def trained(spec, shape, seed=0):
    """Variables as after some training: norms have statistics, and no bias is zero."""
    rng = np.random.default_rng(seed)
    variables = CNN(spec).init(jax.random.key(seed), jnp.zeros((1, *shape)))
    flat = {path: np.asarray(value) for path, value in traverse_util.flatten_dict(variables, sep="/").items()}
    for path, value in flat.items():
        noise = rng.normal(size=value.shape).astype(np.float32)
        if path.endswith(("bias", "mean")):
            flat[path] = value + 0.1 * noise
        elif path.endswith(("scale", "var")):
            flat[path] = value * np.exp(0.2 * noise)
    return flat


def logits_and_features(spec, variables, images):
    logits, features = CNN(spec).apply(traverse_util.unflatten_dict(variables, sep="/"), jnp.asarray(images))
    return np.asarray(logits), {name: np.asarray(value) for name, value in features.items()}


def in_page(cases, tmp_path, bytes=4):
    """(logits, features) of each case (spec, variables, image) by the page's own forward pass."""
    data = []
    for spec, variables, image in cases:
        packed = pack.pack(lower.lower(spec, image.shape, variables), bytes)
        data.append({"steps": packed.steps, "parameters": packed.parameters, "shape": image.shape, "x": image.ravel().tolist()})
    script = """
    const out = CASES.map(({ steps, parameters, shape, x }) => {
      const features = {};
      const y = cnnJaxEngine.run(cnnJaxEngine.attach(steps, parameters, BYTES), { shape, data: Float32Array.from(x) },
        (step, before, after) => { features[step.name] = [...after.data]; });
      return [[...y.data], features];
    });
    document.getElementById("out").textContent = JSON.stringify(out);
    """
    body = script.replace("CASES", json.dumps(data)).replace("BYTES", str(bytes))
    return output(dumped(f'<pre id="out"></pre><script>{ENGINE}{body}</script>', tmp_path))


def check(cases, tmp_path, tolerance=1e-4):
    for (spec, variables, image), (logits, features) in zip(cases, in_page(cases, tmp_path), strict=True):
        right, named = logits_and_features(spec, variables, image[None])
        scale = max(1.0, float(np.abs(right).max()))
        np.testing.assert_allclose(logits, right[0], atol=tolerance * scale, rtol=0)
        for name, value in features.items():
            if name in named:
                width = max(1.0, float(np.abs(named[name]).max()))
                np.testing.assert_allclose(value, named[name][0].ravel(), atol=tolerance * width, rtol=0, err_msg=name)


def case(spec, shape, seed=0):
    image = np.random.default_rng(seed).random(shape).astype(np.float32)
    return spec, trained(spec, shape, seed), image


@needs_chromium
def test_every_padding_stride_dilation_and_group(tmp_path):
    cases = []
    for (padding, mode), strides, dilation in itertools.product(nn.PADDINGS.values(), (1, 2, (2, 3)), (1, 2)):
        spec = (nn.Conv(4, (3, 2), strides, padding, mode, dilation, 2, activation="relu"), nn.Flatten(), nn.Dense(5))
        cases.append(case(spec, (9, 8, 2)))
    for padding in ("same_lower", 2, ((0, 3), (1, 0))):
        cases.append(case((nn.Conv(4, 4, 2, padding), nn.Flatten(), nn.Dense(5)), (9, 8, 2)))
    check(cases, tmp_path)


@needs_chromium
def test_every_kind_of_layer(tmp_path):
    tail = (nn.Flatten(), nn.Dense(4))
    heads = [
        (nn.DepthwiseConv(3, 2, 2, "same", "circular"),),
        (nn.SeparableConv(6, 3, 2, 1, "same", "reflect", activation="tanh"),),
        (nn.Conv(4), nn.ConvTranspose(6, (3, 2), 2, "same", groups=2, activation="relu")),
        (nn.ConvTranspose(6, 3, 2, "valid", 1),),
        (nn.ConvTranspose(4, 3, 1, 1, dilation=2),),
        (nn.MaxPool(3, 2, "same", 2),),
        (nn.MaxPool((2, 3)),),
        (nn.AvgPool(3, 2, "same"),),
        (nn.AvgPool(3, 2, "same", True),),
        (nn.Conv(4, 3), nn.BatchNorm(), nn.Activation("silu")),
        (nn.Conv(4, 3), nn.BatchNorm(use_scale=False, use_bias=False)),
        (nn.Conv(8, 3), nn.GroupNorm(4)),
        (nn.Conv(8, 3), nn.LayerNorm()),
        (nn.Conv(4, 3, padding="same"), nn.Residual((nn.Conv(4, 3, padding="same"),), ())),
        (nn.Residual((nn.Conv(6, 3, 2, "same"), nn.BatchNorm()), (nn.PadChannels(6, 2),), "gelu"),),
        (nn.Branch(((nn.Conv(2, 1),), (nn.Conv(3, 3, padding="same"),))), nn.Dropout(0.5)),
        (nn.Branch(((nn.Conv(3, 1),), (nn.Conv(3, 3, padding="same"),)), "add"),),
        (nn.Subsample(2, "scaled_tanh"),),
        (nn.Dense(3, activation="relu"),),
        (nn.Conv(3, 3, connections=((0,), (0, 1), (1,))),),
    ]
    cases = [case((*head, *tail), (8, 8, 2), seed) for seed, head in enumerate(heads)]
    cases += [case((nn.Conv(5, 3), pool()), (8, 8, 2)) for pool in (nn.GlobalMaxPool, nn.GlobalAvgPool)]
    codes = tuple(tuple(int(v) for v in row) for row in np.sign(np.random.default_rng(0).normal(size=(3, 4))))
    cases.append(case((nn.Flatten(), nn.Dense(4), nn.RBF(codes)), (4, 4, 1)))
    cases += [case((nn.Conv(4, 3, activation=name), *tail), (8, 8, 2)) for name in nn.ACTIVATIONS]
    check(cases, tmp_path)
    shown = {type(layer) for spec, _, _ in cases for layer in nn.flat(spec)}
    assert shown >= set(lower._MAKERS)  # each kind that is lowered is tested here


@needs_chromium
@pytest.mark.parametrize(
    "name", [name for name in MODELS if not name.startswith(("vgg", "alexnet", "resnet18", "resnet1", "mnist"))]
)
def test_models_of_the_zoo(name, tmp_path):
    shape = (32, 32, 3) if name in ("nin", "all_cnn_c", "convmixer") or name.startswith("resnet") else (28, 28, 1)
    if name.startswith("resnet") and name != "resnet20":
        pytest.skip("deeper of the same family")
    check([case(network_of(ModelConfig(name), shape, 10), shape)], tmp_path)


def test_parameters_of_another_network_are_refused():
    spec = (nn.Conv(4, 3), nn.Flatten(), nn.Dense(3))
    variables = trained(spec, (6, 6, 1))
    with pytest.raises(lower.NotLowered, match="params/dense1/kernel: float32 of shape"):
        lower.lower(spec, (7, 7, 1), variables)
    with pytest.raises(lower.NotLowered, match="missing"):
        lower.lower(spec, (6, 6, 1), {})


@needs_chromium
def test_half_precision_is_read_exactly(tmp_path):
    values = np.array([0, 1, -1, 1 / 3, 65504, -6e-8, 6.1e-5, 5.9e-5, 1e-3], np.float16)
    text = base64.b64encode(values.tobytes()).decode()
    script = f"""const [step] = cnnJaxEngine.attach([{{arrays: {{a: [0, 9]}}, paths: []}}], "{text}", 2);
    document.getElementById("out").textContent = JSON.stringify([...step.arrays.a.data]);"""
    found = output(dumped(f'<pre id="out"></pre><script>{ENGINE}{script}</script>', tmp_path))
    np.testing.assert_array_equal(np.array(found, np.float32), values.astype(np.float32))
