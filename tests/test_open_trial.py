"""`open_trial` and `TrainedNetwork` on a sweep of small images, trained here."""

import base64
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
from launching import ROOT, here

from cnn_jax import nn
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.trained import open_trial
from cnn_jax.data import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.nn.init import initial_variables
from cnn_jax.records import store
from cnn_jax.trial import ModelConfig, Trial


def run(npz: str, out: Path, *more: str) -> None:
    words = [f"--dataset={npz}", f"--out={out}", "--epochs=2", "--padding=valid", "--workers=1", "--kernel_size=3"]
    done = here(*words, *more)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sweep(npz: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a network of one convolution, on images normalized per channel."""
    out = tmp_path_factory.mktemp("opened") / "out"
    run(npz, out, "--filters=4", "--normalize=per_channel")
    return out


def test_logits_of_the_test_images_are_those_of_the_training(sweep: Path) -> None:
    for record in store.read(sweep):
        network = open_trial(sweep, record["trial"])
        assert network.trial == Trial.from_json(json.dumps(record["config"]))
        data = network.dataset()
        right_N = network.logits(data.test_images).argmax(-1) == data.test_labels
        bits = np.unpackbits(np.frombuffer(base64.b64decode(record["test_correct"]), np.uint8))[: len(right_N)]
        np.testing.assert_array_equal(right_N, bits)
        assert right_N.mean() == pytest.approx(record["test_accuracy"])


def test_best_has_the_highest_validation_accuracy(sweep: Path) -> None:
    accuracies = {r["trial"]: r["val_accuracy"] for r in store.read(sweep)}
    assert accuracies[open_trial(sweep, "best").record.trial] == max(accuracies.values())
    best = open_trial(sweep)
    assert best.record == open_trial(sweep, "best").record
    assert best.record["val_accuracy"] == best.record.val_accuracy
    with pytest.raises(KeyError):
        best.record["accuracy"]


def test_a_prefix_of_one_trial_opens_it_and_of_several_is_refused(sweep: Path) -> None:
    first = store.read(sweep)[0]["trial"]
    prefix = first[: first.index("seed") + 5]
    assert open_trial(sweep, prefix).trial.id == first
    with pytest.raises(UsageError, match=r"ambiguous: 3 trials .*" + first):
        open_trial(sweep, first[:3])


@pytest.mark.parametrize("name", ["nothing", "", "../records", "BEST"])
def test_an_unknown_trial_is_refused_with_the_known_ones(sweep: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no trial of .* use 'best', or one of .*-seed0-") as error:
        open_trial(sweep, name)
    assert "\n" not in str(error.value)


def test_every_image_counts_whatever_the_batch(sweep: Path) -> None:
    network = open_trial(sweep)
    images = network.dataset().test_images
    whole = network.logits(images)
    assert whole.shape == (len(images), 3)
    object.__setattr__(network, "batch_size", 10)
    np.testing.assert_allclose(network.logits(images), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.logits(images[:1]), whole[:1], rtol=1e-5, atol=1e-6)
    assert network.logits(images[:0]).shape == (0, 3)
    assert network.features(images[:0])["conv1"].shape == (0, 6, 6, 4)


def test_floats_are_taken_as_the_network_was_trained_on_them(sweep: Path) -> None:
    network = open_trial(sweep)
    images = network.dataset().test_images
    assert network.normalization.kind == "per_channel"
    np.testing.assert_allclose(network.logits(network.normalization(images)), network.logits(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(network.logits(images.astype(np.int64)), network.logits(images))
    assert np.abs(network.logits(images / 255) - network.logits(images)).max() > 0.01  # not normalized a second time


def test_features_are_the_layers_in_order(sweep: Path) -> None:
    network = open_trial(sweep)
    images = network.dataset().test_images[:5]
    features = network.features(images)
    assert {name: value.shape for name, value in features.items()} == {
        "conv1": (5, 6, 6, 4), "pool1": (5, 3, 3, 4), "flatten1": (5, 36), "dense1": (5, 3),
    }  # fmt: skip
    assert list(features) == ["conv1", "pool1", "flatten1", "dense1"] == list(network.layers)
    np.testing.assert_allclose(features["dense1"], network.logits(images), rtol=1e-5)
    kernel, bias = (network.variables["params"]["conv1"][name] for name in ("kernel", "bias"))
    by_hand = np.maximum(0, np.einsum("nijc,ijcf->nf", network.inputs(images)[:, :3, :3], kernel) + bias)
    np.testing.assert_allclose(features["conv1"][:, 0, 0], by_hand, rtol=1e-4, atol=1e-5)
    assert list(network.features(images, ["pool1"])) == ["pool1"]
    with pytest.raises(UsageError, match=r"--layer=conv2: .* must be one of conv1, pool1, flatten1, dense1"):
        network.features(images, ["conv2"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\): .* takes \(N, 8, 8, 1\)"),
        (np.zeros((2000, 9, 8, 1), np.uint8), r"shape \(2000, 9, 8, 1\): .* takes \(N, 8, 8, 1\)"),
        (np.zeros((2, 8, 8, 1), bool), "type bool: must be uint8"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(sweep: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_trial(sweep).logits(images)


def test_the_seed_of_the_trial_gives_the_values_before_training(sweep: Path) -> None:
    network = open_trial(sweep)
    before = network.randomized(network.trial.seed)
    expected = initial_variables(network.model, network.input_shape, network.trial.seed)
    np.testing.assert_array_equal(before.variables["params"]["conv1"]["kernel"], expected["params"]["conv1"]["kernel"])
    kernels = [n.variables["params"]["conv1"]["kernel"] for n in (network, before, network.randomized(99))]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(kernels))
    assert before.apply is network.apply is open_trial(sweep, store.read(sweep)[0]["trial"]).apply  # compiled once
    assert before.spec == network.spec is not None


# ------------------------------------------------------------------------------------------------------ what is not there


def copied(sweep: Path, tmp_path: Path) -> tuple[Path, Path]:
    out = tmp_path / "copy"
    shutil.copytree(sweep, out)
    return out, next((out / "trials").glob("*/params.npz"))


def test_damaged_parameters_are_refused(sweep: Path, tmp_path: Path) -> None:
    out, path = copied(sweep, tmp_path)
    data = bytearray(path.read_bytes())
    data[200] ^= 1  # of the first array
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"parameters are gone or damaged"):
        open_trial(out, path.parent.name)


def test_parameters_of_another_trial_are_refused(sweep: Path, tmp_path: Path) -> None:
    """A whole file with other numbers, which only the record's checksum tells from the right one."""
    out, path = copied(sweep, tmp_path)
    other = next(p for p in (out / "trials").glob("*/params.npz") if p != path)
    path.write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match=r"parameters are damaged: they do not match their checksum"):
        open_trial(out, path.parent.name)


def test_parameters_that_are_gone_are_refused(sweep: Path, tmp_path: Path) -> None:
    out, path = copied(sweep, tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=r"parameters are gone or damaged: .*; run its command again"):
        open_trial(out, path.parent.name)


def test_parameters_that_were_not_kept_are_refused_with_the_flag(npz: str, tmp_path: Path) -> None:
    run(npz, tmp_path / "out", "--filters=2", "--seeds=1", "--nokeep_params")
    with pytest.raises(UsageError, match=r"parameters were not kept: train without --nokeep_params"):
        open_trial(tmp_path / "out")


def test_data_that_changed_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file, out = tmp_path / "own.npz", tmp_path / "out"
    arrays = {
        "x_train": rng.integers(0, 255, (60, 8, 8), np.uint8), "y_train": np.arange(60) % 3,
        "x_test": rng.integers(0, 255, (12, 8, 8), np.uint8), "y_test": np.arange(12) % 3,
    }  # fmt: skip
    np.savez(file, **arrays)
    run(f"npz:{file}", out, "--filters=2", "--seeds=1")
    network = open_trial(out)
    np.savez(file, **arrays | {"x_test": arrays["x_test"][::-1]})
    for use in (network.dataset, lambda: open_trial(out)):
        with pytest.raises(UsageError, match=r"--dataset=npz:.* has changed since trial .* was trained"):
            use()
    file.unlink()
    with pytest.raises(UsageError, match=r"own.npz"):
        open_trial(out)


def test_a_trial_that_diverged_or_is_only_planned_has_no_network(tmp_path: Path) -> None:
    diverged, planned = Trial(seed=1), Trial(ModelConfig(filters=(7,)))
    out = synthetic.folder(tmp_path / "out", [synthetic.record(diverged, 0.1, status="diverged")], [diverged, planned])
    with pytest.raises(UsageError, match=f"{diverged.id} diverged .*: it has no trained parameters"):
        open_trial(out, diverged.id)
    with pytest.raises(UsageError, match=r"planned and not yet trained"):
        open_trial(out, planned.id)
    with pytest.raises(UsageError, match=r"no finished trial"):
        open_trial(out)


# --------------------------------------------------------------------------------------------------------- without a trial


class Plain(flax.linen.Module):
    """Logits without features."""

    @flax.linen.compact
    def __call__(self, x, train):  # type: ignore[no-untyped-def]
        return flax.linen.Dense(2)(x.reshape(len(x), -1)), {}


class Named(flax.linen.Module):
    """Logits and one map."""

    @flax.linen.compact
    def __call__(self, x, train):  # type: ignore[no-untyped-def]
        y = flax.linen.Conv(3, (3, 3))(x)
        return flax.linen.Dense(2)(y.mean((1, 2))), {"map": y}


def test_a_linen_model_without_features_has_logits_only() -> None:
    network = TrainedNetwork.from_model(Plain(), (4, 4, 1), 2)
    assert network.spec is None
    assert network.logits(np.zeros((3, 4, 4, 1), np.uint8)).shape == (3, 2)
    with pytest.raises(UsageError, match=r"model Plain returns no features"):
        network.features(np.zeros((3, 4, 4, 1), np.uint8))


def test_a_linen_model_with_features_shows_them() -> None:
    network = TrainedNetwork.from_model(Named(), (4, 4, 1), 2, seed=3)
    assert network.features(np.zeros((3, 4, 4, 1), np.uint8))["map"].shape == (3, 4, 4, 3)


def test_from_model_takes_a_spec_values_and_a_normalization() -> None:
    spec = (nn.Flatten(), nn.Dense(2, use_bias=False))
    kernel = jnp.arange(8.0).reshape(4, 2)
    network = TrainedNetwork.from_model(
        spec, (2, 2, 1), 2, variables={"params": {"dense1": {"kernel": kernel}}}, normalization=Normalization("standardize")
    )
    images = np.array([[0, 255, 0, 255]], np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(network.logits(images), [[4, 4]], rtol=1e-6)  # -1, 1, -1, 1 times the kernel
    with pytest.raises(UsageError, match=r"no data set"):
        network.dataset()


def test_import_cnn_jax_does_not_import_jax_for_open_trial() -> None:
    code = "import cnn_jax, sys; assert 'open_trial' in dir(cnn_jax); assert 'jax' not in sys.modules; cnn_jax.open_trial"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
