"""The benchmark: each peer trains where its package is installed, and the harness's arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_images import images

from benchmarks import one_program, sweep
from benchmarks.models import vgg3
from cnn_jax import data, describe
from cnn_jax.trial import DataConfig


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """300 training and 100 test images of 12x12 that a small network learns in an epoch or two."""
    rng = np.random.default_rng(3)
    (x, y), (u, v) = images(rng, 300, 12), images(rng, 100, 12)
    path = tmp_path_factory.mktemp("bench") / "small.npz"
    np.savez(path, x_train=x, y_train=y, x_test=u, y_test=v)
    return path


@pytest.mark.parametrize(
    "name", ["pytorch", pytest.param("keras", marks=pytest.mark.slow), pytest.param("flax", marks=pytest.mark.slow)]
)
def test_a_peer_trains_every_trial_of_the_sweep(name, file):
    if sweep.interpreter(name) is None:
        pytest.skip(f"{sweep.PEERS[name]} is not installed")
    axes = {"filters": "16", "kernel_size": "3", "padding": "same,valid"}
    settings = {"seeds": 1, "epochs": 10, "batch_size": 16, "validation": 60}
    run = sweep.time_run(sweep.peer(name, file, axes | settings, sweep.CPU))
    assert len(run.test_accuracy) == 2
    assert min(run.test_accuracy) > 0.9  # three classes: by chance 0.33
    assert 0 < run.compile_seconds + run.train_seconds < run.seconds
    assert run.memory is None or 50e6 < run.memory < 5e9


@pytest.mark.parametrize("net", ["lenet5", "vgg", "resnet20"])
def test_pytorch_has_our_networks(net, file):
    """As many parameters as ours have: the same network, but for initial values."""
    python = sweep.interpreter("pytorch")
    if python is None:
        pytest.skip("torch is not installed")
    size = 28 if net == "lenet5" else 32
    code = f"""
import sys; sys.path.insert(0, {str(sweep.ROOT / "benchmarks" / "peers")!r})
import torch, pytorch_loop
net = pytorch_loop.{net}(3, 10{", 28" if net == "lenet5" else ""})
net(torch.zeros(2, 3, {size}, {size}))
print(sum(p.numel() for p in net.parameters()))"""
    count = int(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    model = vgg3((32, 32, 3), 10) if net == "vgg" else sweep.NETS[net].model
    assert count == describe(model, (size, size, 3), 10).params


def test_ours_starts_without_a_program_but_with_images(file, tmp_path):
    config = DataConfig(f"npz:{file}", validation_fraction=0.2)
    exported = sweep.export(config, tmp_path / "prepared", tmp_path / "images.npz")
    contender = sweep.ours(tmp_path, {}, {})
    (tmp_path / "cache" / "xla").mkdir(parents=True)
    contender.ready()
    assert not (tmp_path / "cache" / "xla").exists()
    loaded = data.load(config, cache_dir=contender.environment["CNN_JAX_CACHE"])
    assert loaded.checksum == exported.checksum
    found = np.load(tmp_path / "images.npz")
    np.testing.assert_array_equal(found["x_train"][-60:], loaded.validation_images)
    np.testing.assert_array_equal(found["y_train"][:240], loaded.train_labels)
    np.testing.assert_array_equal(found["x_test"], loaded.test_images)


def test_training_flops_of_the_chapters_net():
    """Convolution 26 * 26 * 9 * 32 MACs: forward and kernel gradient; dense 5,408 * 10: forward and both gradients."""
    shape = describe("chapter", (28, 28, 1), 10)
    assert sweep.training_flops(shape) == 2 * (2 * 26 * 26 * 9 * 32 + 3 * 13 * 13 * 32 * 10)


def test_models_of_a_sweep():
    chapter = sweep.NETS["chapter"]
    assert len(sweep.models(chapter, chapter.axes, chapter.seeds)) == 36
    assert {m.filters for m in sweep.models(sweep.NETS["resnet20"], {}, 1)} == {(16, 32, 64)}


def test_ratios_are_taken_within_a_round():
    """A machine that is twice as slow in the second round changes no ratio; that of the sums would be 12 / 4."""

    def runs(*seconds):
        return [sweep.Run(s, 2_000_000, 0.5, 1.0, (0.9, 0.8)) for s in seconds]

    text = sweep.table({"ours": runs(1, 1, 2), "peer": runs(2, 2, 8)}, images=100, flops=10.0, limit=20.0)
    header, _, ours, peer = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    first, second = dict(zip(header, ours, strict=True)), dict(zip(header, peer, strict=True))
    assert (first["time / ours"], second["time / ours"]) == ("1.00", "2.00")
    assert (first["images/s"], second["images/s"]) == ("100", "50")
    assert (first["of the limit"], second["of the limit"]) == ("50.0%", "25.0%")
    assert (second["trials"], second["test accuracy"], second["sd"], second["memory MB"]) == ("2", "0.8500", "0.0707", "2")
    assert len({len(line) for line in text.splitlines()}) == 1


def test_turns_alternate(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "time_run", lambda c: seen.append(c.name) or sweep.Run(1.0, None, 0.0, 0.0, (1.0,)))
    contenders = [sweep.Contender(name, [], {}, lambda _: (0.0, 0.0, [])) for name in "AB"]
    assert {name: len(runs) for name, runs in sweep.compare(contenders, 2).items()} == {"A": 2, "B": 2}
    assert seen == ["A", "B", "A", "B"]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc")
def test_peak_memory_counts_children_that_came_and_went():
    child = "import time; held = b'x' * 300_000_000; time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    with sweep.peak_memory(process.pid, interval=0.1) as samples:
        process.wait()
    assert 300e6 < max(samples) < 400e6


def test_failures_are_told(tmp_path):
    contender = sweep.Contender("broken", [sys.executable, "-c", "import sys; sys.exit('out of ideas')"], {}, json.loads)
    with pytest.raises(RuntimeError, match="broken failed with status 1: out of ideas"):
        sweep.time_run(contender)
    with pytest.raises(SystemExit, match="error: --filters: not for --net=vgg"):
        sweep.main(["--net=vgg", "--filters=8"])
    with pytest.raises(SystemExit, match="error: --dataset=npz:"):
        sweep.main([f"--dataset=npz:{tmp_path}/missing.npz"])


@pytest.mark.slow
def test_the_whole_race(file, tmp_path, capsys):
    arguments = [
        "--filters=4",
        "--kernel_size=3",
        "--padding=valid",
        "--seeds=2",
        "--peers=flax",
        f"--json={tmp_path}/all.json",
    ]
    sweep.main([f"--dataset=npz:{file}", *arguments])
    assert "| ours " in capsys.readouterr().out
    found = json.loads((tmp_path / "all.json").read_text())
    assert {name: len(runs[0]["test_accuracy"]) for name, runs in found["runs"].items()} == {"ours": 2, "flax": 2}
    assert found["limit"] > 1e8


@pytest.mark.parametrize("lanes", [False, True])
def test_one_program_for_all_cells_trains_each_as_its_own_does(lanes, monkeypatch):
    monkeypatch.setattr(one_program, "CELLS", [one_program.Cell(8, 3, "valid"), one_program.Cell(16, 5, "same")])
    monkeypatch.setattr(one_program, "TURNS", 1)
    own, one = one_program.both_ways(512, 2, lanes=lanes)
    for mine, shared in zip(own, one, strict=True):
        np.testing.assert_allclose(shared.losses, mine.losses, rtol=1e-5)
    assert abs(own[0].losses[0] / own[1].losses[0] - 1) > 1e-4  # the cells are not one another
