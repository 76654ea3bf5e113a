"""`launch.py measure`, and the statistics of measures over the seeds of a sweep."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic
from launching import ROOT

from cnn_jax import cli, stats
from cnn_jax.analysis import over_seeds, similarity
from cnn_jax.analysis.lines import summarize
from cnn_jax.analysis.measures import MEASURES, cka
from cnn_jax.analysis.trained import open_trial
from cnn_jax.analysis.values import Value
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, Trial


@pytest.fixture(scope="module")
def sweep(npz: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kernel sizes, two seeds, on small images."""
    out = tmp_path_factory.mktemp("measured") / "out"
    command = [sys.executable, ROOT / "launch.py", f"--dataset={npz}", f"--out={out}", "--epochs=2", "--filters=4"]
    command += ["--snapshots=0,1,2"]
    done = subprocess.run([*command, "--workers=1", "--padding=valid", "--seeds=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def launch(*words: str | Path) -> int:
    return cli.launch(["launch.py", "measure", *map(str, words)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------------------- command


def test_every_trial_and_layer_has_a_row(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    assert launch(sweep, "--measures=sparsity,probe,edges,cka", "--factor=kernel_size") == 0
    found = rows(sweep / "inspect" / "measures.csv")
    trials = {record["trial"]: record["config"] for record in store.read(sweep)}
    assert list(found[0]) == ["trial", "seed", "kernel_size", "layer", "measure", "value"]
    assert {row["trial"] for row in found} == set(trials)
    for row in found:
        config = trials[row["trial"]]
        assert row["kernel_size"] == str(config["model"]["kernel_size"][0])
        assert row["seed"] == str(config["seed"])
    layers = {(row["measure"], row["layer"]) for row in found}
    assert {("probe", "pixels"), ("probe", "conv1"), ("probe_untrained", "dense1"), ("sparsity", "conv1")} <= layers
    # The value is the one of the network itself.
    network = open_trial(sweep, found[0]["trial"])
    conv1 = network.features(network.dataset().test_images)["conv1"]
    stored = [row for row in found if row["trial"] == found[0]["trial"] and row["measure"] == "sparsity"]
    assert float(stored[0]["value"]) == np.mean(conv1 == 0)
    text = capsys.readouterr().out
    assert "kernel_size" in text and "5 − 3" in text and "measures.csv" in text  # noqa: PT018
    assert len(text.splitlines()) <= 24
    levels = rows(sweep / "inspect" / "levels.csv")
    assert {"kernel_size=3", "kernel_size=5", "kernel_size 5 - 3", "all cells"} <= {row["of"] for row in levels}
    pairs = rows(sweep / "inspect" / "similarity.csv")
    assert {(row["layer"], row["other_layer"]) for row in pairs if row["cell"] != row["other_cell"]} >= {("conv1", "conv1")}


def test_measures_over_the_training(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    assert launch(sweep, "--measures=probe,sparsity") == 0
    trained = rows(sweep / "inspect" / "measures.csv")
    assert launch(sweep, "--measures=probe,sparsity", "--epochs=2,0") == 0
    found = rows(sweep / "inspect" / "training.csv")
    assert list(found[0]) == ["trial", "seed", "kernel_size", "epoch", "layer", "measure", "value"]
    assert {row["epoch"] for row in found} == {"0", "2"}
    last = [{name: value for name, value in row.items() if name != "epoch"} for row in found if row["epoch"] == "2"]
    assert last == trained  # the last snapshot is the trained network
    first = {(row["trial"], row["measure"], row["layer"]): row["value"] for row in found if row["epoch"] == "0"}
    for (trial, measure, layer), value in first.items():
        if measure == "probe" and layer != "pixels":
            assert value == first[trial, "probe_untrained", layer]
    levels = rows(sweep / "inspect" / "training_levels.csv")
    assert {row["epoch"] for row in levels} == {"0", "2"}
    assert "epoch 2" in capsys.readouterr().out
    page = (sweep / "inspect" / "training.html").read_text()
    assert '<p class="cell">accuracy of a linear probe</p>' in page  # not the name of a column
    assert "Snapshots of epochs 0, 2; 0 is before training." in page
    line = next(row for row in levels if (row["epoch"], row["measure"], row["layer"]) == ("2", "probe", "conv1"))
    assert f"conv1, epoch 2: {float(line['value']):.3g}" in page
    capsys.readouterr()
    assert launch(sweep, "--measures=sparsity", "--epochs=all") == 0
    assert {row["epoch"] for row in rows(sweep / "inspect" / "training.csv")} == {"0", "1", "2"}
    assert rows(sweep / "inspect" / "measures.csv") == trained  # as they were


def test_the_same_numbers_every_time(sweep: Path, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        assert launch(sweep, "--measures=probe,effective_field") == 0
        texts.append((sweep / "inspect" / "measures.csv").read_text())
    assert texts[0] == texts[1]


def test_a_fork_has_measures_of_its_own(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "mylab_measures.py").write_text(
        "def ours(network, dataset):\n    return {'test_images': {'all': len(dataset.test_images)}}\n"
        "def broken(network, dataset):\n    return 1 / 0\n"
        "def wrong(network, dataset):\n    return [1]\n"
        "def taken(network, dataset):\n    return {'sparsity': {'all': 1}}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert launch(sweep, "--measures=mylab_measures:ours") == 0
    found = rows(sweep / "inspect" / "measures.csv")
    assert {(row["measure"], row["layer"], row["value"]) for row in found} == {("test_images", "all", "77.0")}
    before = (sweep / "inspect" / "measures.csv").read_bytes()
    capsys.readouterr()
    assert launch(sweep, "--measures=mylab_measures:broken") == 2
    error = capsys.readouterr().err
    assert "--measures: mylab_measures:broken failed on trial" in error
    assert "ZeroDivisionError: division by zero (mylab_measures.py:4)" in error
    assert launch(sweep, "--measures=mylab_measures:wrong") == 2
    assert "returned a list: it must return {name: {layer: number}}" in capsys.readouterr().err
    assert launch(sweep, "--measures=sparsity,mylab_measures:taken") == 2
    assert "mylab_measures:taken returned 'sparsity', as an earlier measure does" in capsys.readouterr().err
    assert (sweep / "inspect" / "measures.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measures=prob"], "--measures: unknown measure 'prob': must be one of probe, edges, dead"),
        (["--measures=nowhere:x"], "--measures: nowhere:x cannot be imported"),
        (["--factor=padding"], "--factor: unknown factor 'padding': must be one of kernel_size"),
        (["--measure=probe"], "--measure: unknown flag: did you mean --measures?"),
        (["--epochs=5,0"], "--epochs=5: no trial kept a snapshot of this epoch: must be among 0, 1, 2, or all"),
        (["--epochs=last"], "--epochs: 'last' is not legal: use an integer of at least 0"),
        (["more"], "measure: takes one folder, not 2"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(sweep: Path, words: list[str], message: str, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in (sweep / "inspect").glob("*")}
    assert launch(sweep, *words) == 2
    out, error = capsys.readouterr()
    assert message in error
    assert error.count("\n") == 1
    assert out == ""
    assert {path: path.stat().st_mtime_ns for path in (sweep / "inspect").glob("*")} == before


def test_a_folder_without_trained_networks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert launch(tmp_path / "none") == 2
    assert "holds no sweep" in capsys.readouterr().err
    diverged = synthetic.record(Trial(), 0.5, status="diverged")
    assert launch(synthetic.folder(tmp_path / "diverged", [diverged])) == 2
    assert "diverged" in capsys.readouterr().err
    assert launch(synthetic.folder(tmp_path / "dropped", [synthetic.record(Trial(), 0.5)])) == 2
    error = capsys.readouterr().err
    assert "parameters were not kept" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*/inspect"))


def test_diverged_trials_are_left_out_and_counted(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "copy"
    out.mkdir()
    for name in ("records", "trials", "sweep.json", "plan"):
        os.symlink(sweep / name, out / name)
    os.unlink(out / "records")
    (out / "records").mkdir()
    for path in (sweep / "records").iterdir():
        (out / "records" / path.name).write_bytes(path.read_bytes())
    config = json.loads(json.dumps(store.read(sweep)[0]["config"]))
    trial = Trial.from_json(json.dumps(config | {"seed": 99}))
    store.Writer(out).finish(synthetic.record(trial, 0.5, status="diverged"))
    assert launch(out, "--measures=sparsity") == 0
    assert "1 trial left out: diverged or failed" in capsys.readouterr().out
    assert len({row["trial"] for row in rows(out / "inspect" / "measures.csv")}) == len(store.read(sweep))


def test_planning_and_help_need_no_jax() -> None:
    code = (
        "import sys; from cnn_jax import cli; status = cli.launch(['launch.py', 'measure', '--help']);"
        "assert 'jax' not in sys.modules, 'jax'; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout.replace("\n", " ") for name in MEASURES)


# -------------------------------------------------------------------------------------------------------------- statistics


def measured(effect: float, seeds: int = 4, sd: float = 0.01) -> tuple[list[dict], list[Value]]:
    """Trials of two kernel sizes and two paddings; values that rise by `effect` with the kernel, 0.3 above untrained ones."""
    rng = np.random.default_rng(0)
    records, values = [], []
    for kernel in (3, 5):
        for padding in ("valid", "same"):
            for seed in range(seeds):
                trial = Trial(ModelConfig("cnn", (8,), (kernel,), (1,), padding, "relu"), DataConfig(), seed=seed)
                records.append(synthetic.record(trial, 0.9))
                value = 0.5 + effect * (kernel == 5) + sd * rng.normal()
                values += [Value(trial.id, "probe", "conv1", value), Value(trial.id, "probe_untrained", "conv1", value - 0.3)]
                values += [Value(trial.id, "probe", "pool1", 0.5 + sd * rng.normal()), Value(trial.id, "dead", "conv1", 0.0)]
    return records, values


def test_effects_of_a_factor_are_found_where_they_are() -> None:
    lines = {(line.name, line.layer): line for line in summarize(*measured(0.1), ["kernel_size"])}
    assert set(lines) == {("probe", "conv1"), ("probe", "pool1"), ("dead", "conv1")}
    line = lines["probe", "conv1"]
    effect = line.effects["kernel_size"]
    span = effect.term.span
    assert (span.a, span.b) == ("3", "5")
    assert span.simultaneous.low < 0.1 < span.simultaneous.high
    assert effect.claimed
    assert line.mean.low < 0.55 < line.mean.high
    assert line.gained.value == pytest.approx(0.3)
    assert not lines["probe", "pool1"].effects["kernel_size"].claimed
    assert lines["dead", "conv1"].effects == {}  # the same for all


def test_the_interval_is_that_of_the_accuracies() -> None:
    """The same numbers as accuracies and as a measure have the same contrasts."""
    records, values = measured(0.05)
    (line,) = summarize(records, [v for v in values if v.layer == "conv1" and v.name == "probe"], ["kernel_size"])
    table = {v.trial: v.value for v in values if v.layer == "conv1" and v.name == "probe"}
    as_accuracy = [r | {"val_accuracy": table[r["trial"]], "val_correct": None} for r in records]
    term = next(t for t in stats.analyse(as_accuracy).effects.terms if t.factors == ("kernel_size",))
    assert line.effects["kernel_size"].term.span.estimate.value == pytest.approx(term.span.estimate.value)
    assert line.effects["kernel_size"].term.span.simultaneous.low == pytest.approx(term.span.simultaneous.low, rel=0.02)


def test_p_values_are_corrected_for_all_lines() -> None:
    records, values = measured(0.02)
    one = [v for v in values if v.layer == "conv1" and v.name == "probe"]
    many = [Value(v.trial, f"copy{i}", v.layer, v.value) for v in one for i in range(10)]
    (alone,) = summarize(records, one, ["kernel_size"])
    together = summarize(records, many, ["kernel_size"])
    assert together[0].effects["kernel_size"].p == pytest.approx(min(1.0, 10 * alone.effects["kernel_size"].p))


def test_missing_values_and_single_seeds_have_no_interval() -> None:
    records, values = measured(0.1, seeds=1)
    (line,) = summarize(records, [v for v in values if v.name == "probe" and v.layer == "pool1"], [])
    assert not line.mean.known
    assert line.effects == {}
    (constant,) = summarize(records, [v for v in values if v.name == "dead"], ["kernel_size"])
    assert constant.effects == {}
    nan = [Value(v.trial, "field", v.layer, math.nan) for v in values]
    assert summarize(records, nan, ["kernel_size"]) == []


def test_similarity_finds_the_layer_of_another_seed() -> None:
    rng = np.random.default_rng(0)
    shared = {name: rng.normal(size=(40, 6)) for name in ("conv1", "conv2", "dense1")}

    def seed() -> dict[str, np.ndarray]:
        noisy = {name: x + 0.3 * rng.normal(size=x.shape) for name, x in shared.items()}
        return {name: cka.unit_gram(x) for name, x in noisy.items()}

    networks = {"filters=8": [seed() for _ in range(3)], "filters=16": [seed() for _ in range(2)]}
    a, b = networks["filters=8"][:2]
    assert similarity.identified(similarity.between(a, b)) == 1.0
    found = similarity.over_seeds(networks)
    by_place = {(s.cell, s.layer, s.other_cell, s.other_layer): s for s in found}
    same = by_place["filters=8", "conv1", "filters=8", "conv1"]
    assert same.pairs == 3
    assert same.mean == pytest.approx(
        np.mean(
            [np.vdot(networks["filters=8"][i]["conv1"], networks["filters=8"][j]["conv1"]) for i, j in ((0, 1), (0, 2), (1, 2))]
        )
    )
    assert same.mean > 0.6 > 0.2 > by_place["filters=8", "conv1", "filters=8", "dense1"].mean
    assert by_place["filters=8", "conv1", "filters=16", "conv1"].pairs == 6
    assert ("filters=8", "conv1", "filters=16", "conv2") not in by_place


def test_networks_that_differ_in_seeds_share_their_programs(sweep: Path) -> None:
    from cnn_jax.analysis import network

    before = network._forward._cache_size()
    over_seeds.measure(sweep, ["sparsity"])
    assert network._forward._cache_size() - before <= 2  # two kernel sizes, not four networks
