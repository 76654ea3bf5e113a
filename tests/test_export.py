"""`launch.py export` and `net.export`: refusals, what is written, and the formats that JAX alone can test.

`tests/test_export_runtimes.py` runs the files in other programs.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import flax.linen
import jax
import jax.export
import numpy as np
import pytest
import synthetic
from flax.traverse_util import flatten_dict, unflatten_dict
from random_networks import trained
from test_fuzz_cli import launch

from cnn_jax import data, lowering, nn
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.trained import open_trial
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.resolve import spec as spec_of


@pytest.fixture(scope="module")
def sweep(npz: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two trials: one with parameters, one without; neither was trained."""
    config = DataConfig(npz, normalize="per_channel")
    dataset = data.load(config)
    out = synthetic.folder(tmp_path_factory.mktemp("exported") / "sweep", [])
    writer = store.Writer(out)
    for seed, kept in ((0, True), (1, False)):
        model = ModelConfig("cnn", (4,), (3,), (1,), "circular", "relu")
        trial = Trial(model, config, TrainConfig(epochs=2), seed)
        record = synthetic.record(trial, 0.9 - 0.1 * seed, images=77, host="somebody's", lanes=2)
        record["data"] |= {"checksum": dataset.checksum}
        spec = spec_of(model, dataset.info.input_shape, dataset.info.num_classes)
        writer.finish(record, trained(spec, dataset.info.input_shape) if kept else None)
    return out


@pytest.fixture(scope="module")
def network(sweep: Path) -> TrainedNetwork:
    return open_trial(sweep)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------------------- safetensors


def test_safetensors_are_opened_without_folder_and_data(network: TrainedNetwork, tmp_path: Path, monkeypatch) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="NO SAFETENSORS: pip install safetensors")
    path = tmp_path / "network.safetensors"
    assert network.export(path).paths == (path,)
    images = network.dataset().test_images[:5]
    monkeypatch.setattr(data, "load", lambda config: pytest.fail("the data were read"))
    opened = open_trial(path)
    np.testing.assert_array_equal(opened.logits(images), network.logits(images))
    assert (opened.trial, opened.normalization) == (network.trial, network.normalization)
    assert opened.normalization.kind == "per_channel"
    assert opened.class_names == network.class_names
    assert len(opened.class_names) == opened.num_classes == 3
    assert opened.record == dataclasses.replace(network.record, command=None, host=None)
    assert network.record.host == "somebody's"
    arrays = safetensors.load_file(path)  # as any program reads them
    assert set(arrays) == {"params/conv1/bias", "params/conv1/kernel", "params/dense1/bias", "params/dense1/kernel"}
    for name, array in flatten_dict(network.variables, sep="/").items():
        np.testing.assert_array_equal(arrays[name], array)
    assert open_trial(path, network.trial.id[:9]).trial == network.trial
    with pytest.raises(UsageError, match=r"^'other': .*network\.safetensors holds trial " + network.trial.id):
        open_trial(path, "other")
    again = tmp_path / "again.safetensors"
    opened.export(again)
    assert open_trial(again).record == opened.record


def test_batch_statistics_are_in_the_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="NO SAFETENSORS: pip install safetensors")
    spec = (nn.Conv(4, 3), nn.BatchNorm(), nn.Flatten(), nn.Dense(2))
    flat = trained(spec, (5, 5, 1))
    network = TrainedNetwork.from_model(spec, (5, 5, 1), 2, variables=unflatten_dict(flat, sep="/"))
    path = network.export(tmp_path / "network.safetensors").paths[0]
    np.testing.assert_array_equal(safetensors.load_file(path)["batch_stats/norm1/var"], flat["batch_stats/norm1/var"])
    with pytest.raises(UsageError, match="holds arrays without a trial"):
        open_trial(path)


def test_a_damaged_file_is_refused_in_one_line(network: TrainedNetwork, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="NO SAFETENSORS: pip install safetensors")
    from safetensors import safe_open

    whole = network.export(tmp_path / "whole.safetensors").paths[0]
    with safe_open(whole, framework="numpy") as file:
        about = file.metadata()
    arrays = safetensors.load_file(whole)
    settings = json.loads(about["settings"])
    bad_values = {"input_shape": "[8, 8]", "num_classes": "-1", "class_names": '["one"]', "record": "{}"}
    bad_values |= {"normalization": '{"kind": "none", "mean": [1]}', "settings": json.dumps(settings | {"seed": 5})}
    changed = [about | {name: value} for name, value in bad_values.items()]
    changed += [about | {"input_shape": "["}, {name: value for name, value in about.items() if name != "normalization"}]
    bad = [safetensors.save(arrays, metadata) for metadata in changed]
    bad += [whole.read_bytes()[:-1], b"", b"text", safetensors.save(arrays | {"params/more": np.zeros(1)}, about)]
    path = tmp_path / "bad.safetensors"
    for text in bad:
        path.write_bytes(text)
        with pytest.raises(UsageError) as error:
            open_trial(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"missing\.safetensors"):
        open_trial(tmp_path / "missing.safetensors")


# -------------------------------------------------------------------------------------------------------------- jax.export


EVERY_LAYER = (
    nn.Conv(8, 3, padding="same", padding_mode="symmetric", activation="relu"), nn.MaxPool(2), nn.BatchNorm(),
    nn.Residual((nn.DepthwiseConv(3, padding="same", padding_mode="circular"), nn.GroupNorm(4))),
    nn.ConvTranspose(6, 3, 2, "same"), nn.LayerNorm(), nn.Activation("gelu"),
    nn.Residual((nn.SeparableConv(8, 3, 1, 2, "same", "reflect"),), (nn.PadChannels(8, 2),)),
    nn.Subsample(2), nn.Branch(((nn.Conv(2, 1),), (nn.AvgPool(2, 1, "same"),))), nn.Dropout(0.5),
    nn.Branch(((nn.GlobalAvgPool(),), (nn.GlobalMaxPool(),), (nn.Flatten(),))),
    nn.Dense(4), nn.RBF(((1, 1, -1, 1), (-1, 1, 1, 1), (-1, -1, 1, -1))),
)  # fmt: skip


def test_jax_export_has_every_layer_for_every_platform_and_batch(tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="NO FLATBUFFERS: pip install flatbuffers")
    spec, shape = EVERY_LAYER, (8, 8, 2)
    assert {type(layer) for layer in nn.flat(spec)} == set(lowering._MAKERS)
    variables = unflatten_dict(trained(spec, shape), sep="/")
    network = TrainedNetwork.from_model(spec, shape, nn.layer_table(spec, shape).output_shape[0], variables=variables)
    written = network.export(tmp_path / "network.jax")
    assert written.difference < 1e-5
    exported = jax.export.deserialize(bytearray((tmp_path / "network.jax").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "custom_call @cnn_jax" not in exported.mlir_module()
    images = np.random.default_rng(0).integers(0, 256, (7, *shape), dtype=np.uint8)
    for count in (1, 7):
        found, expected = exported.call(images[:count]), network.logits(images[:count])
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    with pytest.raises(ValueError, match="float32"):  # never silently wrong
        exported.call(images / np.float32(255))
    assert json.loads((tmp_path / "network.json").read_text())["input"].startswith("image, uint8 0 to 255 (batch, 8, 8, 2)")


class Linen(flax.linen.Module):
    """A model of a fork."""

    whole_batches: bool = False

    @flax.linen.compact
    def __call__(self, x, train=False):
        if self.whole_batches:
            x = x / len(x)  # which has no value for a symbolic size
        return flax.linen.Dense(3)(x.reshape(x.shape[0], -1)), {}


def test_a_linen_module_is_exported_by_jax_alone(tmp_path: Path) -> None:
    network = TrainedNetwork.from_model(Linen(), (4, 4, 1), 3)
    with pytest.raises(
        UsageError, match="model Linen: Linen is a linen module, not layer specs: use format safetensors or jax_"
    ):
        network.export(tmp_path / "network.onnx")
    pytest.importorskip("flatbuffers", reason="NO FLATBUFFERS: pip install flatbuffers")
    assert network.export(tmp_path / "network.jax").difference < 1e-6
    with pytest.raises(UsageError, match=r"model Linen cannot be traced for any batch size: .*test_export\.py:\d+\)$"):
        TrainedNetwork.from_model(Linen(True), (4, 4, 1), 3).export(tmp_path / "other.jax")
    assert files(tmp_path) == ["network.jax", "network.json"]


@dataclasses.dataclass(frozen=True)
class Doubled(nn.Layer):
    """A layer of a fork."""

    kind = "doubled"

    def geometry(self, x: nn.Signal) -> nn.Step:
        return nn.Step(x)

    def apply(self, x, forward):
        return 2 * x


@pytest.mark.parametrize("name", ["network.onnx", "network.py", "network.keras"])
def test_a_layer_of_a_fork_is_refused_with_its_name(name: str, tmp_path: Path, monkeypatch) -> None:
    for package in ("onnx", "torch", "keras"):
        monkeypatch.setitem(sys.modules, package, None)  # not looked for
    network = TrainedNetwork.from_model((nn.Flatten(), Doubled(), nn.Dense(3)), (4, 4, 1), 3)
    with pytest.raises(
        UsageError, match="layer 'doubled1': Doubled is not one of this package's layers: use format safetensors"
    ):
        network.export(tmp_path / name)
    assert files(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------ command line


def test_the_command_writes_into_the_folder_of_the_sweep(sweep: Path, network: TrainedNetwork) -> None:
    pytest.importorskip("safetensors", reason="NO SAFETENSORS: pip install safetensors")
    status, out, err = launch(["export", str(sweep), network.trial.id, "--format=safetensors"])
    path = sweep / "export" / f"{network.trial.id}.safetensors"
    assert (status, err) == (0, "")
    assert str(path) in out
    assert open_trial(path).trial == network.trial
    again = launch(["export", str(sweep), "--format=safetensors"])
    assert again[0] == 2
    assert again[2] == f"error: --out: {path} exists: delete it, or use another name\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format=onnxx"], "--format: unknown format 'onnxx': must be one of onnx, safetensors, keras, torch, jax_export"),
        ([], "--format: must be one of onnx, safetensors, keras, torch, jax_export"),
        (["nothing", "--format=safetensors"], "'nothing': no trial of "),
        (["2", "3", "--format=onnx"], "export: takes the folder of a sweep and a trial, not 3 words"),
        (["--format=onnx", "--out=here/network.pb"], "--out: here/network.pb must end in .onnx"),
        (["--format=torch", "--out=here/my-network.py"], "--out: my-network.py is not the name of a Python module"),
        (["--format=torch", "--out=taken.py"], "--out: taken.pt exists: delete it"),
        (["--format=jax_export", "--out=taken.jax"], "--out: taken.json exists: delete it"),
        (["--out=taken.safetensors"], "--out: taken.safetensors exists: delete it"),
        (["--format=onnx"], "--format=onnx: onnx is not installed: pip install onnx, or all formats with pip install"),
        (["--format=torch"], "--format=torch: torch is not installed"),
        (["--format=keras"], "--format=keras: keras is not installed"),
        (["--format=jax_export"], "--format=jax_export: flatbuffers is not installed"),
        (["--format=safetensors", "--out=mine.safetensors"], "--format=safetensors: safetensors is not installed"),
        (["WITHOUT", "--format=safetensors"], "its parameters were not kept"),
    ],
)  # fmt: skip
def test_refusals_are_one_line_and_write_nothing(words, message, sweep: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("taken.pt", "taken.json", "taken.safetensors"):
        Path(name).write_text("mine")
    for package in ("onnx", "torch", "keras", "flatbuffers", "safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, package, None)
    without = next(record["trial"] for record in store.read(sweep) if record["params_sha256"] is None)
    before = files(sweep), files(tmp_path)
    status, out, err = launch(["export", str(sweep), *(without if word == "WITHOUT" else word for word in words)])
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert (files(sweep), files(tmp_path)) == before
    assert Path("taken.pt").read_text() == "mine"


def test_an_interrupted_write_leaves_nothing(network: TrainedNetwork, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("safetensors", reason="NO SAFETENSORS: pip install safetensors")

    def full(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        network.export(tmp_path / "network.safetensors")
    assert files(tmp_path) == []


def test_a_file_that_computes_something_else_is_not_written(network: TrainedNetwork, tmp_path: Path, monkeypatch) -> None:
    from cnn_jax.export import onnx, write

    monkeypatch.setitem(write._FILES, onnx.FORMAT, lambda exportable: {".onnx": b"graph"})
    monkeypatch.setitem(write._LOGITS, onnx.FORMAT, lambda made, images: network.logits(images) + np.float32(1e-2))
    with pytest.raises(UsageError, match=r"the exported logits differ by 0\.0\d+: nothing was written"):
        network.export(tmp_path / "network.onnx")
    monkeypatch.setitem(write._LOGITS, onnx.FORMAT, lambda made, images: np.full((4, 3), np.nan, np.float32))
    with pytest.raises(UsageError, match="by nan"):
        network.export(tmp_path / "network.onnx")
    assert files(tmp_path) == []
