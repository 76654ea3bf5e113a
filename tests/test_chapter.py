"""Tests of the chapter experiment: verdicts, arithmetic, which networks decide what, and the whole experiment."""

import csv
import dataclasses
import io
import math
import re
import subprocess
import sys
import types
from pathlib import Path

import hand_made
import numpy as np
import pytest
import synthetic
from test_fuzz_cli import launch

from cnn_jax import nn
from cnn_jax.chapter import geometry, words
from cnn_jax.chapter.claims import Check, Claim, Number, corrected
from cnn_jax.chapter.evidence import Evidence
from cnn_jax.chapter.geometry import Setting
from cnn_jax.chapter.networks import Networks, label
from cnn_jax.cli import experiments
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.stats import Estimate
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------------------------------------------------------- verdicts


def number(value: float, p: float) -> Number:
    return Number("", Estimate(value, value - 1, value + 1, 6, p))


def claim(*parts: Number | Check) -> Claim:
    return Claim("name", "Sentence.", "short", "method", parts)


@pytest.mark.parametrize(
    ("p", "corrected_p", "verdicts"),
    [
        # Holm: the smallest of four times 4, the next times 3, and so on, never below the one before.
        ([0.01, 0.02, 0.005, 0.9], [0.03, 0.04, 0.02, 0.9], ["holds", "holds", "holds", "undecided"]),
        ([0.02, 0.02, 0.02, 0.02], [0.08, 0.08, 0.08, 0.08], ["undecided"] * 4),
        ([0.001, math.nan, 0.04, math.nan], [0.002, math.nan, 0.04, math.nan], ["holds", "undecided", "holds", "undecided"]),
    ],
)
def test_numbers_are_corrected_for_the_whole_page(p: list[float], corrected_p: list[float], verdicts: list[str]) -> None:
    # Two of them in one claim, and a check between that takes no part.
    claims = [claim(number(1, p[0])), claim(Check("", 2, 2), number(1, p[1]), number(1, p[2])), claim(number(1, p[3]))]
    parts = [part for one in corrected(claims) for part in one.parts if isinstance(part, Number)]
    assert [part.p for part in parts] == pytest.approx(corrected_p, nan_ok=True)
    assert [part.verdict for part in parts] == verdicts


def test_the_sign_decides_what_is_known() -> None:
    assert [part.verdict for part in corrected([claim(number(-1, 0.01))])[0].parts] == ["does not hold"]
    assert Check("", 3, 3).verdict == "holds"
    assert Check("", 2, 3).verdict == "does not hold"
    assert Check("", 0, 0).verdict == "undecided"


HOLDS, FAILS, OPEN = number(1, 0.001), number(-1, 0.001), number(1, math.nan)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ((HOLDS, HOLDS), "holds"),
        ((HOLDS, OPEN), "undecided"),
        ((HOLDS, OPEN, FAILS), "does not hold"),
        ((HOLDS, Check("", 1, 1)), "holds"),
        ((HOLDS, Check("", 0, 1)), "does not hold"),
        ((), "undecided"),
    ],
)
def test_a_sentence_holds_where_all_of_its_parts_do(parts: tuple, verdict: str) -> None:
    assert corrected([claim(*parts)])[0].verdict == verdict


def test_the_deciding_number_is_shown() -> None:
    sure, less, failing = number(1, 0.001), number(2, 0.02), number(-3, 0.001)
    shown = [words.deciding(one) for one in corrected([claim(sure, less), claim(sure, failing), claim(less, OPEN)])]
    assert [part.estimate.value for part in shown if isinstance(part, Number)] == [2, -3, 1]
    assert words.measured(shown[0]) == "+200.0 (+100.0 to +300.0)"
    assert words.measured(dataclasses.replace(less, share=False)) == "+2.000 (+1.000 to +3.000)"
    assert words.measured(Number("", Estimate(math.nan, math.nan, math.nan, 0))) == "–"


# --------------------------------------------------------------------------------------------------------------- arithmetic


def test_output_sizes() -> None:
    # The chapter's layer, AlexNet's first, ResNet's first (He et al. 2015: 224 -> 112), and one that leaves pixels out.
    known = {
        Setting(28, 3, 1): 26,
        Setting(227, 11, 4): 55,
        Setting(224, 7, 2, 3): 112,
        Setting(8, 3, 2): 3,
        Setting(28, 5, 1, "same"): 28,
        Setting(28, 3, 3, "same"): 10,
    }
    assert geometry.outputs(list(known)) == known
    assert geometry.Sizes.of(known | {Setting(28, 3, 2): 14}) == geometry.Sizes(6, 7)


def test_what_the_chapter_says_of_sizes() -> None:
    for sizes in (geometry.formula(), *geometry.paddings(), geometry.strides()[0]):
        assert sizes.agree == sizes.tried > 15
    assert geometry.strides()[1].agree < geometry.strides()[1].tried


CHAPTERS = (nn.Conv(32, 3, activation="relu"), nn.MaxPool(2), nn.Flatten(), nn.Dense(10))


def test_the_chapters_network() -> None:
    rows = geometry.layers(hand_made.network(CHAPTERS, (28, 28, 1), 10), hand_made.noise(1, 28, 28, 1)[0])
    assert [row.expected_shape for row in rows] == [(26, 26, 32), (13, 13, 32), (5408,), (10,)]
    assert [row.expected_params for row in rows] == [320, 0, 0, 54_090]
    assert all(row.agrees for row in rows)
    without = (nn.Conv(32, 3, use_bias=False), nn.MaxPool(2), nn.Flatten(), nn.Dense(10))
    rows = geometry.layers(hand_made.network(without, (28, 28, 1), 10), hand_made.noise(1, 28, 28, 1)[0])
    assert [row.agrees for row in rows] == [False, True, True, True]  # 288 parameters, not 320


def test_the_equal_dense_layer() -> None:
    network = hand_made.network(CHAPTERS, (28, 28, 1), 10)
    found = geometry.as_dense(network, hand_made.noise(1, 28, 28, 1)[0])
    assert (found.conv_params, found.dense_params) == (320, (28 * 28 + 1) * 26 * 26 * 32)
    assert found.connections == 26 * 26 * 32 * 9
    assert found.equal and found.far_fewer  # noqa: PT018
    assert found.drawn.matrix.shape == (81, 49)
    colour = geometry.as_dense(hand_made.network(CHAPTERS[:1], (40, 300, 3)), hand_made.noise(1, 40, 300, 3)[0])
    assert colour.input_shape == (40, 48, 3)  # cut, so that the matrix of a filter has at most 2^24 entries
    assert colour.equal


# ----------------------------------------------------------------------------------------------------------------- networks


def record(name: str, filters: tuple[int, ...], params: int, accuracy: float, seed: int = 0, **options: str) -> dict:
    model = ModelConfig(name, filters or None, padding="valid", options=tuple(options.items()))
    return synthetic.record(Trial(model, DataConfig("digits"), TrainConfig(), seed), accuracy, params=params)


def records(accuracies: dict[str, float], seeds: int = 3) -> list[dict]:
    """The experiment's networks, with the accuracy of each kind."""
    kinds = [
        ("cnn", (4,), 400, {}), ("cnn", (32,), 3000, {}), ("cnn", (8, 16, 32), 6000, {}), ("mlp", (4,), 390, {}),
        ("mlp", (32,), 3100, {}), ("mlp", (8, 16, 32), 24_000, {}), ("cnn", (32,), 3000, {"pool": "stride"}),
        ("lenet5_dense", (), 61_000, {}),
    ]  # fmt: skip
    return [record(n, f, p, accuracies[n], s, **o) for n, f, p, o in kinds for s in range(seeds)]


ACCURACIES = {"cnn": 0.97, "mlp": 0.9, "lenet5_dense": 0.9}


def test_the_networks_of_each_claim() -> None:
    found = Networks.of([*records(ACCURACIES), record("cnn", (2,), 1, 0.5) | {"status": "diverged"}])
    assert [label(cell) for cell in found.convnets] == ["cnn 4", "cnn 32", "cnn 8-16-32"]
    assert [(label(a), label(b)) for a, b in found.pairs] == [
        ("cnn 4", "mlp 4"), ("cnn 32", "mlp 32"), ("cnn 8-16-32", "mlp 8-16-32"),
    ]  # fmt: skip
    assert found.chapters is not None
    assert label(found.chapters) == "cnn 32"
    for pair, labels in (
        (found.pooling, ["cnn 32", "cnn 32, strides for pooling"]),
        (found.frugal, ["cnn 8-16-32", "mlp 8-16-32"]),
        (found.lenet_pair, ["LeNet-5", "mlp 8-16-32"]),
    ):
        assert pair is not None
        assert [label(cell) for cell in pair] == labels
    few = Networks.of([one for one in records(ACCURACIES) if one["config"]["model"]["name"] == "mlp"])
    assert (few.chapters, few.frugal, few.lenet_pair, few.pooling, few.pairs) == (None, None, None, None, ())


@dataclasses.dataclass
class Measured:
    values: tuple = ()


def test_an_accuracy_is_a_contrast_of_pairs() -> None:
    networks = Networks.of(records(ACCURACIES))
    found = Evidence(networks, Measured()).accuracy("", networks.pairs, "")  # type: ignore[arg-type]
    means = [a.mean("test_accuracy") - b.mean("test_accuracy") for a, b in networks.pairs]
    assert found.estimate.value == pytest.approx(np.mean(means))
    assert found.estimate.low > 0
    assert corrected([claim(found)])[0].verdict == "holds"
    assert Evidence(networks, Measured()).accuracy("", [], "none").beside == "none"  # type: ignore[arg-type]


def test_one_seed_decides_nothing() -> None:
    networks = Networks.of(records(ACCURACIES, seeds=1))
    found = Evidence(networks, Measured()).accuracy("", networks.pairs, "")  # type: ignore[arg-type]
    assert found.estimate.value > 0.03
    assert corrected([claim(found)])[0].verdict == "undecided"


# --------------------------------------------------------------------------------------------------------------- experiment


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_terminal_fits_and_the_table_has_every_part() -> None:
    claims = corrected([claim(HOLDS, OPEN), dataclasses.replace(claim(FAILS), short="m" * 28), claim(Check("c", 1, 2, "b"))])
    out = io.StringIO()
    words.terminal(claims, "digits", 3, Console(out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["m" * 28, "−100.0", "(−200.0", "to", "+0.0)", "0.002", "does", "not", "hold"]
    assert "0 of 3 sentences hold on digits (3 seeds), 2 do not, 1 is undecided." in out.getvalue()
    assert "add --seeds=3" in words.headline(claims, "digits", 1)
    found = rows(words.table(claims))
    assert [row["part_verdict"] for row in found] == ["holds", "undecided", "does not hold", "does not hold"]
    assert (found[3]["agree"], found[3]["cases"], found[3]["value"]) == ("1", "2", "")


@pytest.mark.parametrize(
    ("words_", "error"),
    [
        (["--nokeep_params"], "--nokeep_params: experiment 'chapter' needs the trained networks"),
        (["--normalize=none,standardize"], "asks its questions of one data set at a time"),
        (["--dataset=digits", "--image_size=1"], "larger than its input"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    words_: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = launch(["chapter", *words_])
    assert (status, err.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert error in err, err


def test_a_forks_experiment_concludes(npz: str, tmp_path: Path) -> None:
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "mine.py").write_text(
        '"""?"""\nDEFAULTS = {"filters": 2, "seeds": 1, "epochs": 1}\n\n\ndef conclude(folder, records, console):\n'
        '    (folder / "mine.txt").write_text(records[0]["trial"])\n    console.print(f"{len(records)} of mine")\n'
    )
    command = [sys.executable, str(ROOT / "launch.py"), "mylab.mine", f"--dataset={npz}", "--workers=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of mine\nreport: " in done.stdout
    assert "small-npz-cnn-f2" in (tmp_path / "runs" / "mine" / "mine.txt").read_text()


def test_a_conclusion_that_raises_is_one_line(tmp_path: Path) -> None:
    module = types.ModuleType("mine")

    def conclude(folder: Path, records: list, console: Console) -> None:
        raise RuntimeError("no")

    module.conclude = conclude  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"^experiment 'mine': conclude failed: RuntimeError: no \(.*test_chapter.py:\d+\)$"):
        experiments.conclusion_of(module)(tmp_path, [], Console())  # type: ignore[misc]
    module.conclude = 3  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="conclude is a int: it must be a function"):
        experiments.conclusion_of(module)
    assert experiments.conclusion_of(types.ModuleType("mine")) is None


@pytest.mark.slow
def test_the_chapter_on_digits(tmp_path: Path) -> None:
    """The whole experiment with two seeds and few epochs: every sentence has a verdict, numbers and a picture."""
    command = [sys.executable, str(ROOT / "launch.py"), "chapter", "--seeds=2", "--epochs=8", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = rows((tmp_path / "chapter.csv").read_text())
    by_claim = {row["claim"]: row["verdict"] for row in found}
    assert len(by_claim) == 14
    assert {by_claim[name] for name in ("network", "size", "padding", "stride", "dense")} == {"holds"}
    for row in found:
        assert row["verdict"] in ("holds", "does not hold", "undecided")
        if row["cases"] == "":
            assert float(row["low"]) < float(row["value"]) < float(row["high"]), row
    page = (tmp_path / "chapter.html").read_text()
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    assert [name for name, _ in sections] == ["verdicts", *by_claim]
    assert all("<svg" in text or "<img" in text or name in ("verdicts", "lenet") for name, text in sections)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert len(page) < 2_000_000
