"""Reports of sweeps whose answer is known, read back as a reader or a script would."""

import base64
import csv
import html.parser
import io
import json
import math
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import synthetic
from rich.console import Console

from cnn_jax import cli, report, stats
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.report import answer, plots, svg, table
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

LOST = {"status": "diverged", "val_accuracy": None, "test_accuracy": None, "test_loss": None, "test_correct": None}


class Page(html.parser.HTMLParser):
    """A page's ids, links, scripts and text; complains about tags that do not nest."""

    void = frozenset(("meta", "link", "br", "img"))

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.names, self.text, self._open = [], [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[k] for k in ("href", "src") if k in attributes]
        if tag not in self.void:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] not in (["style"], ["script"]):
            self.text.append(data)


def page_of(path, records, planned=()):
    return Page(report.write(synthetic.folder(path, records, planned)).read_text())


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def terminal_of(path):
    console = Console(file=io.StringIO(), width=110)
    report.terminal([path], console)
    return console.file.getvalue()


def test_results_csv_keeps_the_contract(tmp_path):
    records = synthetic.sweep(filters=(8,), kernels=(3,), seeds=2)
    records[0] |= LOST | {"reason": "loss, not finite"}
    rows = rows_of(report.write_results(synthetic.folder(tmp_path, records)).read_text())
    contract = [
        "trial", "status", "dataset", "model", "filters", "kernel_size", "strides", "padding", "activation", "learning_rate",
        "batch_size", "epochs", "seed", "params", "macs", "receptive_field", "train_loss", "val_accuracy", "test_accuracy",
        "test_loss", "train_seconds", "compile_seconds",
    ]  # fmt: skip
    assert list(rows[0])[: len(contract)] == contract
    by_id = {row["trial"]: row for row in rows}
    assert len(by_id) == 4
    lost, done = by_id[records[0]["trial"]], by_id[records[1]["trial"]]
    assert (lost["status"], lost["test_accuracy"], lost["reason"]) == ("diverged", "", "loss, not finite")
    assert float(done["val_accuracy"]) == records[1]["val_accuracy"]
    assert (done["filters"], done["kernel_size"], done["learning_rate"], done["jax"]) == ("8", "3", "0.001", "0.10.2")


def test_stacks_and_models_own_options_in_csv():
    stack = synthetic.record(Trial(ModelConfig("cnn", (16, 32), (3,), options=(("width", 2),))), 0.9, images=8)
    plain = synthetic.record(Trial(ModelConfig("lenet5")), 0.9, images=8) | {"receptive_field": [5, 7]}
    rows = rows_of(table.results_csv([stack, plain]))
    assert [(r["filters"], r["width"], r["receptive_field"]) for r in rows] == [("16-32", "2", "4"), ("", "", "5-7")]


def test_parquet_holds_the_same_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    records = synthetic.sweep(filters=(8,), kernels=(3,))
    records.append(synthetic.record(Trial(ModelConfig("cnn", (16, 32), (3,))), 0.9))
    report.write(synthetic.folder(tmp_path, records))
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert {r["trial"]: r["val_accuracy"] for r in rows} == {r["trial"]: r["val_accuracy"] for r in records}
    assert {r["filters"] for r in rows} == {"8", "16-32"}
    assert {(type(r["seed"]), type(r["dirty"])) for r in rows} == {(int, bool)}


def test_results_of_no_trial_have_the_header():
    assert table.results_csv([]).startswith("trial,status,dataset,model,filters")


def test_page_opens_with_the_answer(tmp_path):
    records = synthetic.sweep(seeds=4, sd=0.003, effect=0.01, rng_seed=1)
    page = page_of(tmp_path, records)
    text = " ".join(page.text)
    headline = answer.headline(stats.analyse(records))
    assert headline.startswith("Validation accuracy depends on filters (32 instead of 8: +")
    assert "no effect of padding was found" in headline
    assert text.index(headline) < text.index("Accuracy by factor")
    assert headline in " ".join(terminal_of(tmp_path).split())


def test_page_is_complete_and_fetches_nothing(tmp_path):
    page = page_of(tmp_path, synthetic.sweep())
    sections = {
        "accuracy_by_factor", "effects", "interactions", "against_best", "noise_floor", "cost", "learning_curves", "parallel",
        "disagreement", "cells", "trials", "plan", "provenance",
    }  # fmt: skip
    assert sections <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    outside = [link for link in page.links if not link.startswith(("#", "data:")) and link != "results.csv"]
    assert outside == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_every_picture_has_its_data(tmp_path):
    records = synthetic.sweep()
    page = page_of(tmp_path, records)
    prefix = "data:text/csv;charset=utf-8;base64,"
    tables = [base64.b64decode(link.removeprefix(prefix)).decode() for link in page.links if link.startswith(prefix)]
    assert len(tables) == 10
    runs = rows_of(tables[0])
    assert len(runs) == 3 * len(records)  # once per factor
    assert {float(r["val_accuracy"]) for r in runs} == {r["val_accuracy"] for r in records}


def test_what_failed_is_counted_and_what_is_missing_named(tmp_path):
    records = synthetic.sweep()
    records[3] |= LOST | {"reason": "loss is nan at step 7"}
    records[4] |= LOST | {"status": "failed", "reason": "out of memory"}
    planned = Trial(ModelConfig("cnn", (64,), (3,), padding="same"), seed=5)
    text = " ".join(page_of(tmp_path, records, [planned]).text)
    for words in (
        "loss is nan at step 7",
        "out of memory",
        "1 trial diverged",
        "1 trial failed",
        "1 planned trial of the command python launch.py grid not run yet",
        planned.id,
    ):
        assert words in text
    assert "37 planned, 34 done, 2 diverged or failed, 1 not run yet" in text
    assert "1 planned trial of the command python launch.py grid not run yet" in terminal_of(tmp_path)


def test_selection_on_test_is_said(tmp_path):
    text = " ".join(page_of(tmp_path, synthetic.sweep(validation_fraction=0.0)).text)
    assert "the best cell was selected on the test set" in text
    assert "Best on the test set" in text


def test_nothing_in_the_data_becomes_markup(tmp_path):
    evil = "</script><script src=//x.example/></script><b>&\"'"
    records = synthetic.sweep(filters=(8, 16), kernels=(3,))
    for r in records:
        r |= {"command": evil, "device": evil, "reason": evil if r["config"]["seed"] == 0 else None}
        r["config"]["data"]["dataset"] = evil
        if r["config"]["seed"] == 0:
            r |= LOST
    page = page_of(tmp_path, records)
    assert "b" not in page.names
    assert not any("example" in link for link in page.links)
    assert evil in "".join(page.text)
    assert page.names.count("script") == 2  # the images' data and page.js


@pytest.mark.parametrize(
    "records",
    [
        synthetic.sweep(seeds=1),
        synthetic.sweep(seeds=3)[:1],
        synthetic.sweep(seeds=3)[:3],
        synthetic.sweep(seeds=2, filters=(8,), kernels=(3,)),
        synthetic.sweep(seeds=2)[:-3],
        [r | LOST for r in synthetic.sweep(filters=(8,))],
        [r | {"test_correct": None, "history": [], "params": None, "macs": None} for r in synthetic.sweep()],
        [r | {"val_accuracy": 1.0, "test_accuracy": 1.0} for r in synthetic.sweep()],
        [synthetic.record(Trial(ModelConfig("lenet5"), seed=s), 0.9) for s in range(12)],
        [synthetic.record(Trial(ModelConfig(m, f), DataConfig(d), TrainConfig(epochs=e), s), 0.9)
         for m, f, d, e in (("cnn", (8,), "digits", 60), ("lenet5", None, "mnist", 5)) for s in (0, 1)],
    ],
    ids=[
        "one seed", "one run", "one cell", "one factor", "incomplete", "all lost", "bare", "perfect", "no factor", "datasets",
    ],
)  # fmt: skip
def test_any_sweep_gets_a_report(tmp_path, records):
    page = page_of(tmp_path, records)
    assert "provenance" in page.ids
    unknown = re.compile(r".{30}\b(nan|None|inf)\b.{30}")
    assert not unknown.findall(" ".join(page.text))
    assert not unknown.findall(terminal_of(tmp_path))


def test_an_empty_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="holds no sweep"):
        report.write(tmp_path)


def test_merge_takes_each_trial_once_and_prefers_the_finished(tmp_path):
    records = synthetic.sweep(filters=(8, 16), kernels=(3,))
    a, b = records[:8], [r | LOST if i == 0 else r for i, r in enumerate(records[6:])]
    folders = [synthetic.folder(tmp_path / name, part) for name, part in (("a", b), ("b", a))]
    report.merge(folders, tmp_path / "both")
    rows = rows_of((tmp_path / "both" / "results.csv").read_text())
    assert len(rows) == len(records) == len({r["trial"] for r in rows})
    assert {r["status"] for r in rows} == {"done"}


def test_compare_finds_what_changed(tmp_path):
    def runs(shift):
        cells = ((8, 0.9), (16, 0.9 + shift), (32, 0.95))
        return [
            synthetic.record(Trial(ModelConfig("cnn", (f,)), seed=s), mean + 0.002 * math.sin(7 * s + f + 50 * shift))
            for f, mean in cells
            for s in range(5)
        ]

    a, b = synthetic.folder(tmp_path / "a", runs(0)), synthetic.folder(tmp_path / "b", runs(0.03))
    console = Console(file=io.StringIO(), width=120)
    report.compare(a, b, console)
    out = console.file.getvalue()
    assert "1 of 3 shared cells differ in validation accuracy" in out
    assert re.search(r"filters=16 .*\+3\.", out)
    elsewhere = [synthetic.record(Trial(ModelConfig("cnn", (64,)), seed=s), 0.9) for s in range(2)]
    other = synthetic.folder(tmp_path / "c", elsewhere)
    with pytest.raises(UsageError, match="no cell with finished runs in common"):
        report.compare(a, other, console)


def test_a2_a_report_covers_the_command_that_was_given(tmp_path):
    old, new = synthetic.sweep(filters=(8, 16)), synthetic.sweep(filters=(32,), kernels=(3,), paddings=("same",))
    scope = [Trial.from_json(json.dumps(r["config"])) for r in new]
    out = synthetic.folder(tmp_path, old)
    synthetic.folder(out, new)
    text = " ".join(Page(report.write(out, scope).read_text()).text)
    console = Console(file=io.StringIO(), width=400)
    report.terminal([out], console, scope)
    for shown in (text, console.file.getvalue()):
        assert answer.headline(stats.analyse(report.load([out], scope).records)) in shown
        assert f"also holds {len(old)} trials of other commands" in shown
        assert "depends on" not in shown
    assert len(rows_of((out / "results.csv").read_text())) == len(old) + len(new)
    everything = " ".join(Page(report.write(out).read_text()).text)
    assert "of other commands" not in everything
    assert answer.headline(stats.analyse(old + new)) in everything


def test_a14_missing_trials_are_those_of_the_command(tmp_path):
    records = synthetic.sweep(filters=(8,), kernels=(3,))
    scope = [Trial.from_json(json.dumps(r["config"])) for r in records]
    store.begin(tmp_path, "python launch.py large", "2026-01-01", [Trial(seed=s) for s in range(120)])
    out = synthetic.folder(tmp_path, records)
    assert report.load([out], scope).notes == []
    assert "not run yet: rerun" not in report.write(out, scope).read_text()
    (note,) = report.load([out]).notes
    assert note.startswith("120 planned trials of the command python launch.py large not run yet")
    (note,) = report.load([out], [*scope, Trial(seed=0)]).notes
    assert note == "1 planned trial not run yet: rerun the same command to complete the sweep."


def test_a12_data_of_the_same_name_and_other_bytes_are_refused(tmp_path):
    a = synthetic.sweep(filters=(8,), kernels=(3,))
    b = [r | {"data": r["data"] | {"checksum": "other"}} for r in synthetic.sweep(filters=(16,), kernels=(3,))]
    folders = [synthetic.folder(tmp_path / name, records) for name, records in (("a", a), ("b", b))]
    for action in (lambda: report.merge(folders, tmp_path / "out"), lambda: report.compare(*folders)):
        with pytest.raises(UsageError, match="sha256:0f1e2d and other"):
            action()
    assert not (tmp_path / "out").exists()


def test_a12_trials_that_both_folders_hold_count_once(tmp_path):
    runs = [
        synthetic.record(Trial(ModelConfig("cnn", (f,)), seed=s), 0.9 + 0.01 * math.sin(7 * s))
        for f in (8, 16)
        for s in range(6)
    ]
    early, late = ([r for r in runs if (r["config"]["seed"] < 3) == first] for first in (True, False))
    a, b = synthetic.folder(tmp_path / "a", early), synthetic.folder(tmp_path / "b", runs)
    console = Console(file=io.StringIO(), width=160)
    report.compare(a, b, console)
    out = console.file.getvalue()
    assert "6 trials with the same results in both: counted in A alone." in out
    assert re.search(r"filters=16 .* %  .* %  .* 3  +3", out)
    assert "((" not in out
    difference = np.mean([r["val_accuracy"] for r in late]) - np.mean([r["val_accuracy"] for r in early])
    assert f"Mean difference over 2 shared cells, B - A: {100 * difference:+.2f}".replace("A: -", "A: −") in out
    report.compare(a, a, console)
    assert "no difference to report" in console.file.getvalue()
    sweep = report.load([a, synthetic.folder(tmp_path / "c", [early[0] | {"test_loss": 9.0}])])
    assert sweep.notes == ["1 trial has different results in two folders: those of the first folder are used."]
    assert {r["test_loss"] for r in sweep.records} == {0.12}


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, section 12.1), bit by bit, masked as in LevelDB's crc32c.h."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_event_files_hold_the_history(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    record = synthetic.sweep(filters=(8,), kernels=(3,), seeds=1)[0]
    record["history"] = [{"epoch": 300, "val_accuracy": 0.5, "val_loss": None}]
    folder = report.write_tensorboard(synthetic.folder(tmp_path, [record]))
    (path,) = folder.rglob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:  # TFRecords: length, checksum of it, the event, checksum of that
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(data[12 : 12 + length])
        data = data[16 + length :]
    head, scalar = events
    assert head.file_version == "brain.Event:2"
    assert (scalar.step, len(scalar.summary.value)) == (300, 1)
    assert (scalar.summary.value[0].tag, scalar.summary.value[0].simple_value) == ("val_accuracy", 0.5)


def test_tensorboard_without_tensorboardx_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert cli.launch(["launch.py", "--tensorboard", "--out=out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--tensorboard: tensorboardX is not available" in line
    assert line.endswith("pip install tensorboardX")
    assert not list(tmp_path.iterdir())


def test_pareto_front_by_hand():
    rows = [
        {"name": n, "cost": c, "value": v}
        for n, c, v in (("d", 4, 0.9), ("a", 1, 0.5), ("b", 2, 0.8), ("c", 3, 0.7), ("e", 2, 0.6))
    ]
    assert [r["name"] for r in plots.cells.pareto(rows, "cost", "value")] == ["a", "b", "d"]


def test_disagreement_by_hand():
    def run(filters, seed, right):
        bits = base64.b64encode(np.packbits(np.array(right, dtype=bool))).decode()
        trial = Trial(ModelConfig("cnn", (filters,)), seed=seed)
        return synthetic.record(trial, 0.9 + filters / 1000, images=4) | {"test_correct": bits}

    records = [run(8, 0, [1, 1, 0, 0]), run(8, 1, [1, 0, 0, 0]), run(16, 0, [1, 0, 1, 0]), run(16, 1, [1, 0, 1, 0])]
    figure, data = plots.disagreement(stats.analyse(records))
    share = {(r["a"], r["b"]): r["disagreement"] for r in figure.rows}
    assert share["filters=8", "filters=8"] == 1 / 4  # the two runs differ on one image of four
    assert share["filters=16", "filters=16"] == 0
    assert share["filters=8", "filters=16"] == (2 + 1) / 2 / 4  # two images against the first run, one against the second
    assert {(r["a"], r["b"]): r["images_flipped"] for r in figure.rows}["filters=8", "filters=16"] == 1
    assert data == {"cells": ["filters=16", "filters=8"], "runs": [2, 2], "images": [1, 2], "right": [[0, 2], [1, 0]]}


def test_reading_a_report_imports_no_jax(tmp_path):
    synthetic.folder(tmp_path, synthetic.sweep(seeds=2))
    code = f"import sys; from cnn_jax import report; report.write({str(tmp_path)!r}); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_of_the_default_sweep_is_small(tmp_path):
    synthetic.folder(tmp_path, synthetic.sweep())
    path = report.write(tmp_path)
    assert path.stat().st_size < 1e6


@pytest.mark.slow
def test_the_page_of_ten_thousand_trials_is_small(tmp_path):
    records = synthetic.sweep(filters=tuple(range(1, 51)), kernels=tuple(range(1, 11)), paddings=("valid", "same"), seeds=10)
    synthetic.folder(tmp_path, records)
    path = report.write(tmp_path)
    assert path.stat().st_size < 20e6
    assert len(records) == 10_000


def test_json_in_the_page_cannot_end_its_script(tmp_path):
    records = synthetic.sweep(filters=(8, 16), kernels=(3,))
    for r in records:
        r["config"]["model"]["name"] = "</script>" + str(r["config"]["model"]["filters"])
    text = report.write(synthetic.folder(tmp_path, records)).read_text()
    (data,) = re.findall(r'<script type="application/json" class="image-answers">(.*?)</script>', text)
    assert json.loads(data)["runs"] == [3, 3, 3, 3]


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.0), (0.97341, 0.97342), (0, 0), (3, 40000), (-2e-3, 5e-3)])
def test_ticks_are_few_round_and_inside(low, high):
    scale = svg.Scale.around([low, high], 0, 100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 11
    assert all(scale.low - 1e-9 <= t <= scale.high + 1e-9 for t in ticks)
    assert scale(low) <= scale(high)


def test_log_ticks_span_decades():
    assert svg.Scale.around([1e-4, 1e-1], 0, 100, log=True).ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert len(svg.Scale.around([900, 4000], 0, 100, log=True).ticks()) >= 2


# ------------------------------------------------------------------------------------------------------------ the page


class Figures(html.parser.HTMLParser):
    """Of each box of a figure: how many marks its pictures have, and its text."""

    marks = frozenset(("circle", "path", "rect"))

    def __init__(self, text):
        super().__init__()
        self.boxes, self._depth, self._defs = [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        classes = (dict(attributes).get("class") or "").split()
        if tag == "div" and "panels" in classes:
            self._depth = 1
        elif tag == "div" and self._depth:
            self._depth += 1
            self.boxes += [[0, ""]] if self._depth == 2 else []
        elif tag == "defs":
            self._defs = True
        elif self._depth > 1 and tag in self.marks and not self._defs and "brush" not in classes:
            place = dict(attributes).get("d", "M0 0L1 1")  # a path of a single place draws nothing
            self.boxes[-1][0] += any(step in place for step in "LhHvVZ")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        self._depth -= tag == "div" and self._depth > 0
        self._defs = self._defs and tag != "defs"

    def handle_data(self, data):
        if self._depth > 1:
            self.boxes[-1][1] += data + "\n"


def one_epoch(records):
    return [r | {"history": r["history"][:1]} for r in records]


@pytest.mark.parametrize(
    "records",
    [
        one_epoch(synthetic.sweep()),
        one_epoch(synthetic.sweep(seeds=1)),
        synthetic.sweep(seeds=3)[:1],
        synthetic.sweep(seeds=3)[:3],
        [r | LOST for r in synthetic.sweep(filters=(8,))],
        [r | {"test_correct": None, "history": [], "params": None, "macs": None} for r in synthetic.sweep()],
        [synthetic.record(Trial(ModelConfig("lenet5"), seed=s), 0.9) for s in range(12)],
    ],
    ids=["one epoch", "one epoch, one seed", "one run", "one cell", "all lost", "bare", "no factor"],
)
def test_d2_every_picture_shows_something(tmp_path, records):
    text = report.write(synthetic.folder(tmp_path, records)).read_text()
    figures = Figures(text)
    assert [box for box in figures.boxes if box[0] < 2] == []  # one mark has nothing to be compared with
    assert "<section id=" in text
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', text, re.DOTALL)
    assert [name for name, markup in sections if 'class="panels' in markup and "<svg" not in markup] == []


def test_d2_one_epoch_has_no_learning_curves(tmp_path):
    assert "learning_curves" not in page_of(tmp_path, one_epoch(synthetic.sweep())).ids


def test_d2_learning_curves_have_axes_both_parts_and_a_legend():
    figure = plots.curves(stats.analyse(synthetic.sweep()))
    for picture in figure.pictures:
        assert ">epoch</text>" in picture
        assert ">accuracy, %</text>" in picture
        assert picture.count('class="line') == 2 * 3  # validation and training of three seeds
    for word in ("validation", "training", "seed 0", "seed 1", "seed 2"):
        assert word in figure.legend
    many = plots.curves(stats.analyse(synthetic.sweep(filters=(8,), kernels=(3,), seeds=12)))
    assert "12 seeds" in many.legend


def test_d2_no_cost_panel_where_all_cells_cost_the_same():
    records = [r | {"params": 10, "macs": 20} for r in synthetic.sweep()]
    assert len(plots.cost(stats.analyse(records)).pictures) == 1  # training time alone


def test_d2_no_interaction_of_factors_that_never_vary_together():
    records = [
        synthetic.record(Trial(ModelConfig("cnn", (f,), (k,)), seed=s), 0.9 + f / 1000)
        for f, k in ((8, 3), (16, 3), (8, 5))
        for s in range(3)
    ]
    assert plots.interactions(stats.analyse(records)) is None


PADDINGS = ("valid", "same", "full", "reflect", "symmetric", "replicate", "circular")


def test_d3_names_of_levels_and_cells_are_whole(tmp_path):
    records = synthetic.sweep(filters=(8,), kernels=(3,), paddings=PADDINGS)
    text = " ".join(page_of(tmp_path, records).text)
    assert "…" not in text
    for figure in (plots.by_factor(stats.analyse(records)), plots.curves(stats.analyse(synthetic.sweep(paddings=PADDINGS)))):
        assert not any("…" in picture for picture in figure.pictures)


def test_d3_row_names_of_the_matrix_begin_inside_of_it():
    figure, _ = plots.disagreement(stats.analyse(synthetic.sweep()))
    wide, names, narrow = re.fullmatch("(<svg.*</svg>)<ol(.*)</ol>(<svg.*</svg>)", figure.pictures[0]).groups()
    rows = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"[^>]*>([^<]+)</text>', wide)
    assert len(rows) == names.count("<li>") == 12
    assert all(float(x) > 6.8 * len(name) for x, name in rows)  # of a character of 12 pixels in the widest common fonts
    assert 'text-anchor="end" class="tick strong">12</text>' in narrow  # on a phone numbers alone


def test_d3_tables_scroll_in_boxes_that_have_a_name_and_take_the_focus(tmp_path):
    text = report.write(synthetic.folder(tmp_path, synthetic.sweep())).read_text()
    boxes = re.findall(r'<div class="table"([^>]*)><table', text)
    assert len(boxes) == text.count("<table") == 4
    assert all('tabindex="0"' in box and 'role="region" aria-label=' in box for box in boxes)


def test_d3_the_difference_is_among_the_first_columns_of_effects(tmp_path):
    text = report.write(synthetic.folder(tmp_path, synthetic.sweep())).read_text()
    (head,) = re.findall(r'<table class="effects"><thead>(.*?)</thead>', text)
    columns = re.findall(r"<th[^>]*>(.*?)</th>", head)
    assert columns[2].startswith("difference")
    assert re.search(r"@media \(max-width: 560px\) \{[^@]*\.effects td \{ white-space: normal", text)


def test_d4_every_rule_of_the_page_is_inside_of_its_own_class(tmp_path):
    text = report.write(synthetic.folder(tmp_path, synthetic.sweep())).read_text()
    (css,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    outside, depth = "", 0
    for character in css:
        depth -= character == "}"
        outside += character if not depth else ""
        depth += character == "{"
    assert depth == 0
    assert {rule.strip(" {}\n") for rule in outside.split("}")} - {""} == {".cnn-jax"}
    assert re.findall(r'<div class="cnn-jax">.*</div>\n<script>', text, re.DOTALL)


def test_d4_the_script_touches_nothing_outside_of_its_pages(tmp_path):
    text = report.write(synthetic.folder(tmp_path, synthetic.sweep())).read_text()
    script = text.rpartition("<script>")[2]
    assert set(re.findall(r"document\.(\w+)", script)) == {"querySelectorAll", "createElement", "elementFromPoint"}
    assert 'document.querySelectorAll(".cnn-jax:not([data-ready])")' in script


def test_d4_a_notebook_shows_the_page_in_a_frame(tmp_path):
    path = report.write(synthetic.folder(tmp_path, synthetic.sweep()))
    for page in (report.Page(path), report.Page(tmp_path), report.Page(str(tmp_path), height=300)):
        frame = page._repr_html_()
        (attributes,) = re.findall(r"^<iframe ([^>]*)></iframe>$", frame, re.DOTALL)
        assert 'sandbox="allow-scripts allow-downloads"' in attributes
        inside = html.unescape(re.search(r'srcdoc="([^"]*)"', attributes)[1])
        assert inside == path.read_text().replace('<a href="results.csv">results.csv</a>', "results.csv")
    with pytest.raises(UsageError, match=r"report\.html cannot be read"):
        report.Page(tmp_path / "none")._repr_html_()


def test_d5_images_that_no_run_got_right_are_counted_over_all_runs():
    def run(filters, right):
        bits = base64.b64encode(np.packbits(np.array(right, dtype=bool))).decode()
        return synthetic.record(Trial(ModelConfig("cnn", (filters,))), 0.5 + filters / 1000, images=4) | {"test_correct": bits}

    # The worst of 30 cells alone got image 2 right: none of the cells of the matrix did.
    records = [run(1, [1, 0, 1, 0]), *(run(f, [1, 0, 0, 0]) for f in range(2, 31))]
    assert stats.never_right(records).tolist() == [1, 3]
    assert stats.never_right([r | LOST for r in records]).tolist() == []
