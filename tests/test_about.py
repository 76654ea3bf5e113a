"""What a report shows besides results: the question, the networks, the settings and images of the data."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import synthetic
from PIL import Image

from cnn_jax import data, description, report, zoo
from cnn_jax.cli import about, experiments
from cnn_jax.records import lines, store
from cnn_jax.sweep import plan
from cnn_jax.trial import DataConfig, ModelConfig, Trial

QUESTION = "Does <padding> matter?"


def sweep(path: Path, dataset: str, *, images: bool = True) -> str:
    """Writes the folder of a sweep over two cells of `dataset` whose results are made up, and returns its page."""
    loaded = data.load(DataConfig(dataset))
    trials = [
        Trial(ModelConfig("cnn", (f,), (3,), (1,), "same", "relu"), DataConfig(dataset), seed=s) for f in (4, 8) for s in (0, 1)
    ]
    right = np.ones(len(loaded.test_labels), dtype=bool)
    right[[1, 5]] = False
    bits = base64.b64encode(np.packbits(right)).decode()
    counts = {"train": len(loaded.train_labels), "validation": len(loaded.validation_labels), "test": len(right)}
    records = [
        synthetic.record(t, 0.9, images=len(right)) | {"test_correct": bits, "data": {"checksum": loaded.checksum} | counts}
        for t in trials
    ]
    planned = plan.preflight(trials)
    path.mkdir()
    store.begin(path, "python launch.py padding", "2026-11-01T00:00:00", trials, about.describe(planned, QUESTION))
    writer = store.Writer(path)
    for record in records:
        writer.finish(record)
    if images:
        about.keep_images(path, planned.info, records)
    return report.write(path).read_text()


def pixels(address: str) -> np.ndarray:
    head, _, body = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def colours(tmp_path: Path) -> str:
    rng = np.random.default_rng(3)
    arrays = {}
    for part, n in (("train", 60), ("test", 20)):
        arrays |= {f"x_{part}": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), f"y_{part}": np.arange(n) % 3}
    np.savez(tmp_path / "colour.npz", **arrays)
    return f"npz:{tmp_path / 'colour.npz'}"


def test_d1_the_page_says_what_was_trained(tmp_path: Path, npz: str) -> None:
    page = sweep(tmp_path / "out", npz)
    (block,) = re.findall(r'<section id="trained">(.*?)</section>', page, re.DOTALL)
    words = (
        "Does &lt;padding&gt; matter?", "filters 4, 8", "2 seeds per cell", "optimizer adam", "learning_rate 0.001",
        "batch_size 32", "epochs 60", "padding same", "validation_fraction 0.1", "split_seed 0",
        "183 to train on, 20 to validate on, 77 to test on", "8×8×1", "8×8×4", "4×4×4", "filters=4",
    )  # fmt: skip
    assert [word for word in words if word not in block] == []
    assert re.findall(r"<b>(.*?)</b>", block) == ["input", "conv", "max pool", "flatten", "dense"]
    assert "momentum" not in block  # of adam
    assert page == report.write(tmp_path / "out").read_text()  # the folder alone tells it


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_d1_example_images_are_those_of_the_data(tmp_path: Path, npz: str, kind: str) -> None:
    dataset = npz if kind == "grey" else colours(tmp_path)
    page = sweep(tmp_path / "out", dataset)
    loaded = data.load(DataConfig(dataset))
    (block,) = re.findall(r'<div class="gallery examples">(.*?)</div>', page, re.DOTALL)
    found = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', block)
    labels = np.unique(loaded.train_labels)
    assert len(found) == len(labels)
    for (address, alt), label in zip(found, labels, strict=True):
        mine = loaded.train_images[loaded.train_labels == label][: about.EXAMPLES]
        assert alt == f"{len(mine)} training images of class {loaded.info.class_names[label]}"
        shown = pixels(address)
        assert (shown[:, :8] == mine[0].squeeze()).all()
        assert (shown[:, 9:17] == mine[1].squeeze()).all()


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_d5_images_that_no_run_got_right_are_shown(tmp_path: Path, npz: str, kind: str) -> None:
    dataset = npz if kind == "grey" else colours(tmp_path)
    page = sweep(tmp_path / "out", dataset)
    loaded = data.load(DataConfig(dataset))
    (section,) = re.findall(r'<section id="never_right">(.*?)</section>', page, re.DOTALL)
    found = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', section)
    names = [loaded.info.class_names[label] for label in loaded.test_labels]
    assert [alt for _, alt in found] == [f"test image {i} of class {names[i]}" for i in (1, 5)]
    for (address, _), i in zip(found, (1, 5), strict=True):
        assert (pixels(address) == loaded.test_images[i].squeeze()).all()
    assert "2 images" in section


def test_d5_without_the_images_their_numbers_are_listed(tmp_path: Path, npz: str) -> None:
    page = sweep(tmp_path / "out", npz, images=False)
    (section,) = re.findall(r'<section id="never_right">(.*?)</section>', page, re.DOTALL)
    assert "Numbers: 1, 5" in section
    assert "<img" not in page


@pytest.mark.parametrize("damage", ["empty", "half", "bit", "pickle", "shapes", "names", "folder", "large"])
def test_d1_a_damaged_file_of_images_is_left_out(tmp_path: Path, npz: str, damage: str) -> None:
    out = tmp_path / "out"
    sweep(out, npz)
    (path,) = (out / "images").iterdir()
    content, arrays = path.read_bytes(), store.from_npz(path.read_bytes())
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "pickle":
        np.savez(path, **{**arrays, "class_names": np.array([{}], dtype=object)})
    elif damage == "shapes":
        path.write_bytes(store.to_npz({**arrays, "example_labels": arrays["example_labels"][:-1]}))
    elif damage == "names":
        path.write_bytes(store.to_npz({**arrays, "class_names": np.arange(3)}))
    elif damage == "large":
        path.write_bytes(store.to_npz({**arrays, "more": np.zeros(2 * store.IMAGE_BYTES, np.uint8)}))
    else:
        flipped = bytearray(content)
        flipped[len(content) // 3] ^= 4
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "bit": bytes(flipped)}[damage])
    page = report.write(out).read_text()
    assert "<img" not in page
    assert "Numbers: 1, 5" in page


def test_images_in_a_page_have_a_budget(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (400, 64, 64, 3), dtype=np.uint8)  # does not compress
    np.savez(tmp_path / "noise.npz", x_train=noise, y_train=np.arange(400) % 40, x_test=noise[:200], y_test=np.arange(200) % 40)
    dataset = f"npz:{tmp_path / 'noise.npz'}"
    loaded = data.load(DataConfig(dataset))
    trial = Trial(ModelConfig("cnn", (4,)), DataConfig(dataset))
    record = synthetic.record(trial, 0.5, images=200)
    record |= {
        "test_correct": base64.b64encode(bytes(25)).decode(),
        "data": {"checksum": loaded.checksum, "train": 360, "validation": 40, "test": 200},
    }
    out = synthetic.folder(tmp_path / "out", [record])
    about.keep_images(out, [trial.data], [record])
    page = report.write(out).read_text()
    inside = page.index('<section id="inside">')
    behind = page.index("<section", inside + 1)
    addresses = re.findall(r'<img src="([^"]*)"', page[:inside] + page[behind:])
    assert len(addresses) > 1
    assert sum(map(len, addresses)) < 350_000
    assert behind - inside < 350_000
    assert "Others: " in page
    (path,) = (out / "images").iterdir()
    assert path.stat().st_size < 1_000_000


def test_large_and_unusual_images_become_small_ones() -> None:
    assert about.small(np.zeros((2, 200, 100, 3), np.uint8)).shape == (2, 64, 32, 3)
    assert about.small(np.zeros((2, 8, 8, 4), np.uint8)).shape == (2, 8, 8, 3)
    five = np.arange(5, dtype=np.uint8) * np.ones((1, 8, 8, 1), np.uint8)
    assert (about.small(five) == 2).all()
    chess = np.indices((128, 128)).sum(axis=0)[None, ..., None] % 2 * np.uint8(200)
    assert (about.small(chess) == 100).all()  # the mean of what a pixel covers


@pytest.mark.parametrize(
    "foreign",
    [
        {"question": 3, "networks": "none"},
        {"networks": [{"model": "x"}, 7, None]},
        {"networks": [{"dataset": 1, "blocks": [{"shape": "abc"}], "input_shape": [8, 8, 1], "left_out": 0}]},
        {"networks": [{"dataset": "d", "blocks": [{"shape": [], "kind": "", "detail": "", "params": 0}], "input_shape": []}]},
        {"networks": {"a": 1}},
        ["question"],
    ],
)
def test_what_does_not_fit_in_the_header_is_left_out(tmp_path: Path, foreign: object) -> None:
    out = synthetic.folder(tmp_path, synthetic.sweep(filters=(8,), kernels=(3,)))
    header = json.loads((out / "sweep.json").read_text())
    del header["crc32"]
    header["commands"][-1]["about"] = foreign
    (out / "sweep.json").write_bytes(lines.encode(header))
    assert '<ol class="network"' not in report.write(out).read_text()


def test_what_a_command_is_about_is_stored_once(tmp_path: Path) -> None:
    for question in ("first", "first", "second", "first"):
        store.begin(tmp_path, "command", "2026-11-01T00:00:00", [Trial()], {"question": question, "networks": []})
    assert [c.get("about", {}).get("question") for c in store.commands(tmp_path)] == [None, None, "second", "first"]


@pytest.mark.parametrize("name", ["cnn", "mlp", "lenet5", "resnet20", "vgg16", "convmixer", "nin", "alexnet"])
def test_an_outline_has_all_parameters_and_ends_in_the_classes(name: str) -> None:
    shape, classes = {"cnn": ((8, 8, 1), 10), "mlp": ((8, 8, 1), 10)}.get(name) or zoo.PUBLISHED_FOR[name]
    outline = description.outline(ModelConfig(name), shape, classes)
    assert sum(block["params"] for block in outline["blocks"]) == outline["params"]
    assert outline["blocks"][-1]["shape"] == [classes]
    assert json.loads(json.dumps(outline)) == outline


def test_an_outline_in_words() -> None:
    blocks = description.outline(ModelConfig("resnet20"), (32, 32, 3), 10)["blocks"]
    assert [(b["kind"], b["detail"]) for b in (*blocks[:2], *blocks[-2:])] == [
        ("conv", "3x3, padded, batch norm, relu"),
        ("residual", "conv 3x3, conv 3x3"),
        ("global avg pool", ""),
        ("dense", ""),
    ]


def test_the_question_of_an_experiment_is_its_first_line() -> None:
    assert experiments.question_of(experiments.find("padding")) == experiments.known()["padding"]


def test_images_on_which_runs_disagree_are_of_all_classes_of_a_sorted_test_set(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(10), 40)
    arrays = {f"x_{part}": np.zeros((400, 8, 8, 1), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "sorted.npz", **arrays, y_train=labels, y_test=labels)
    loaded = data.load(DataConfig(f"npz:{tmp_path / 'sorted.npz'}"))
    trials = [Trial(ModelConfig("cnn", (4,), (3,), (1,), "same", "relu"), DataConfig("digits"), seed=s) for s in (0, 1)]
    bits = [base64.b64encode(np.packbits(np.full(400, bool(t.seed)))).decode() for t in trials]  # one right, one wrong
    records = [synthetic.record(t, 0.5, images=400) | {"test_correct": b} for t, b in zip(trials, bits, strict=True)]
    assert set(about._picked(loaded, records)["picked_labels"]) == set(range(10))
