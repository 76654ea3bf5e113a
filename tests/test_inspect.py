"""`launch.py inspect` on sweeps trained here: its page, its files, its summary, and bad input."""

import csv
import dataclasses
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic
from launching import here
from small_images import images as small_images

from cnn_jax import nn, open_trial
from cnn_jax.analysis import cell, records
from cnn_jax.analysis.attributions import METHODS
from cnn_jax.analysis.inside import default_layers, look_inside
from cnn_jax.analysis.kernels import film
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset, DatasetInfo
from cnn_jax.errors import UsageError
from cnn_jax.records import record as schema
from cnn_jax.records import store
from cnn_jax.report import inside as page
from cnn_jax.report import matrix, tiles
from cnn_jax.trial import DataConfig, ModelConfig, Trial


@pytest.fixture(scope="module")
def sweep(npz: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a network with two convolutions."""
    out = tmp_path_factory.mktemp("inspected") / "out"
    done = here(
        f"--dataset={npz}", "--filters=4-6", "--kernel_size=3", "--padding=same", "--epochs=1", "--workers=1", f"--out={out}",
        "--snapshots=0,1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def inspected(sweep: Path) -> subprocess.CompletedProcess:
    return here("inspect", sweep, env={"COLUMNS": "80"})


class Pictures(HTMLParser):
    """Collects what a page refers to, and text that no tag closes."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [values[name] or "" for name in ("src", "data") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        if tag in ("div", "section", "figure", "table", "main"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("div", "section", "figure", "table", "main"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(sweep: Path, inspected: subprocess.CompletedProcess) -> None:
    assert inspected.returncode == 0, inspected.stderr
    text = (sweep / "inspect" / "inspect.html").read_text()
    found = Pictures(text)
    assert found.open == []
    assert len(found.sources) > 100
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "default-src 'none'" in text
    assert len(set(found.ids)) == len(found.ids)
    assert {link for link in found.links if link.startswith("#")} <= {f"#{name}" for name in found.ids}
    for title in ("First-layer kernels", "Feature maps", "What excites conv1", "Which pixels decide", "Most confused images"):
        assert title in text, title


def test_the_summary_fits_a_screen(sweep: Path, inspected: subprocess.CompletedProcess) -> None:
    lines = inspected.stdout.splitlines()
    best = records.find_record(sweep, "best")
    begin = next(i for i, line in enumerate(lines) if line.startswith(best.trial))
    assert "best on validation" in lines[begin]
    assert f"{100 * best.test_accuracy:.2f} % of 77 test images right" in lines[begin + 1]
    assert any(re.match(r"conv2 +4x4x6 +\d+x\d+ +\d of 6", line) for line in lines)
    assert lines[-1] == f"page: {sweep}/inspect/inspect.html"


def test_the_default_networks_are_the_best_and_the_median_seed(sweep: Path, inspected: subprocess.CompletedProcess) -> None:
    every = [schema.decode(raw) for raw in store.read(sweep)]
    ranked = sorted(every, key=lambda r: (r.val_accuracy, r.trial))
    best = records.find_record(sweep, "best")
    median = cell.seeds_of_cell(best, every).median
    assert median.trial == ranked[1].trial
    written = {path.stem for path in (sweep / "inspect").glob("*.npz")}
    assert written == {best.trial, median.trial}


def test_arrays_and_numbers_agree_with_the_network(sweep: Path, inspected: subprocess.CompletedProcess) -> None:
    network = open_trial(sweep)
    data = network.dataset()
    arrays = np.load(sweep / "inspect" / f"{network.trial.id}.npz")
    np.testing.assert_allclose(arrays["logits"], network.logits(data.test_images), rtol=1e-5, atol=1e-6)
    assert np.trace(arrays["confusion"]) == round(network.record.test_accuracy * 77)
    conv1 = network.features(data.test_images, ["conv1"])["conv1"]
    np.testing.assert_array_equal(arrays["excitation/conv1/images"][:, 0], conv1.max((1, 2)).argmax(0))
    np.testing.assert_allclose(arrays["excitation/conv1/values"][:, 0], conv1.max((0, 1, 2)), rtol=1e-5)
    with open(sweep / "inspect" / "mistakes.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["trial"] == network.trial.id]
    assert len(rows) == 77 - np.trace(arrays["confusion"])
    with open(sweep / "inspect" / "channels.csv") as file:
        channels = [row for row in csv.DictReader(file) if row["trial"] == network.trial.id and row["layer"] == "conv2"]
    assert [int(row["channel"]) for row in channels] == list(range(6))


def test_images_that_no_seed_gets_right_are_wrong_in_every_network(sweep: Path) -> None:
    every = [schema.decode(raw) for raw in store.read(sweep)]
    found = cell.seeds_of_cell(every[0], every).never_right
    wrong = []
    for record in every:
        network = open_trial(sweep, record.trial)
        data = network.dataset()
        wrong.append(set(np.flatnonzero(network.logits(data.test_images).argmax(-1) != data.test_labels)))
    assert set(found) == set.intersection(*wrong)


def test_a_layer_a_channel_and_an_image_can_be_chosen(sweep: Path, tmp_path: Path) -> None:
    done = here("inspect", sweep, "best", "--layer=conv2", "--channel=3", "--image=7", f"--out={tmp_path / 'one'}")
    assert done.returncode == 0, done.stderr
    arrays = np.load(next((tmp_path / "one").glob("*.npz")))
    assert {name for name in arrays if name.startswith("maximised")} == {
        "maximised/conv2/channels", "maximised/conv2/pixels", "maximised/conv2/values",
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["maximised/conv2/channels"], [3])
    np.testing.assert_array_equal(arrays["examples"], [7])
    assert arrays["maps/conv2"].shape == (1, 4, 4, 6)
    assert arrays["attribution/occlusion/trained"].shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer=conv9"], "--layer=conv9: unknown layer .* must be one of conv1, pool1, conv2, pool2, flatten1, dense1"),
        (["--layer=conv1", "--channel=4"], "--channel=4: must be between 0 and 3 in layer conv1"),
        (["--channel=4"], "--channel: name its layer with --layer"),
        (["--channel=x", "--layer=conv1"], "--channel: 'x' is not legal: use an integer from 0"),
        (["--image=77"], "--image=77: must be between 0 and 76"),
        (["--layr=conv1"], "--layr: unknown flag: did you mean --layer"),
        (["nothing"], "'nothing': no trial of .* use 'best', or one of"),
        (["--out=/proc/x"], "--out: /proc/x cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(sweep: Path, tmp_path: Path, words: list[str], message: str) -> None:
    out = tmp_path / "out"
    done = here("inspect", sweep, *([] if "--out" in words[0] else [f"--out={out}"]), *words)
    assert done.returncode == 2
    assert re.match(f"error: {message}", done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    done = here("inspect", tmp_path)
    assert done.returncode == 2
    assert "holds no sweep" in done.stderr
    assert here("inspect").stderr == "error: inspect: name the folder of a sweep\n"


def test_names_of_classes_are_escaped() -> None:
    picture = matrix.confusion(np.array([[3, 1], [0, 2]]), ("<b>", "a & b"))
    assert "<b>" not in picture
    assert "&lt;b&gt;" in picture


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_confusion_matrix_of_any_size_is_drawn(classes: int) -> None:
    counts = np.arange(classes**2).reshape(classes, classes) % 7
    picture = matrix.confusion(counts, [f"class {i}" for i in range(classes)])
    assert picture.count("<rect") == (classes**2 if classes <= 16 else np.count_nonzero(counts))


# ------------------------------------------------------------------------------------------------------------- any network


def dataset(shape: tuple[int, int, int], count: int = 12) -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (count, *shape), np.uint8), (np.arange(count) % 3).astype(np.int32)
    info = DatasetInfo("made", shape, 3, count, count, ("a", "b", "c"))
    nothing = x[:0], y[:0]
    return Dataset(info, x, y, *nothing, x, y, np.arange(count), np.arange(0), "none")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("chapter", (8, 8, 1)),
        ("mlp", (8, 8, 3)),
        pytest.param("lenet5", (28, 28, 1), marks=pytest.mark.slow),
        pytest.param("convmixer", (16, 16, 3), marks=pytest.mark.slow),
        pytest.param("nin", (16, 16, 3), marks=pytest.mark.slow),
    ],
)
def test_any_model_has_a_page(name: str, shape: tuple[int, int, int]) -> None:
    from cnn_jax import zoo

    options = (("depth", 1),) if name == "convmixer" else ()
    spec = zoo.spec(zoo.resolve(ModelConfig(name, options=options)), shape, 3)
    network = TrainedNetwork.from_model(spec, shape, 3)
    found = look_inside(network, dataset(shape))
    assert [view.name for view in found.layers] == default_layers(network)
    assert network.layers[-1] == found.layers[-1].name
    text = page.page([page.Shown(found, cell.SeedsOfCell((), ()))])
    assert Pictures(text).open == []
    assert np.isfinite(found.logits).all()


def test_layers_of_a_residual_network_are_outputs_of_its_blocks() -> None:
    from cnn_jax import zoo

    network = TrainedNetwork.from_model(zoo.spec(zoo.resolve(ModelConfig("resnet20")), (16, 16, 3), 3), (16, 16, 3), 3)
    assert default_layers(network) == ["activation1", "residual3", "residual7", "dense1"]


def test_a_model_without_features_has_no_inside() -> None:
    from test_open_trial import Plain

    with pytest.raises(UsageError, match="model Plain returns no features"):
        look_inside(TrainedNetwork.from_model(Plain(), (8, 8, 1), 3), dataset((8, 8, 1)))


def test_a_linen_model_with_features_is_shown() -> None:
    from test_open_trial import Named

    data = dataset((8, 8, 1))
    data.test_labels[:] %= 2
    found = look_inside(TrainedNetwork.from_model(Named(), (8, 8, 1), 2), data)
    assert [view.name for view in found.layers] == ["map"]
    assert [a.method for a in found.attributions] == list(METHODS)
    assert found.kernels.values.shape == (3, 3, 3, 1)


# ------------------------------------------------------------------------------------------------------------------- tiles


def test_tiles_have_the_colours_of_their_values() -> None:
    grey = tiles.image(np.array([[[0], [255]]], np.uint8), np.array([[True, False]]))
    np.testing.assert_array_equal(grey, [[[0, 0, 0, 255], [255, 255, 255, 0]]])
    np.testing.assert_array_equal(tiles.image(np.array([[[0.0], [1.0]]]))[..., 0], [[0, 255]])
    middle = tiles.diverging(np.array([[0.0, 2.0, -2.0]]), 2.0)
    assert middle[0, :, :3].tolist() == [[0xF7] * 3, [0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2]]
    assert tiles.sequential(np.array([[0.0, 9.0]]), 3.0)[0, :, :3].tolist() == [[0x44, 0x01, 0x54], [0xFD, 0xE7, 0x25]]


def test_a_montage_holds_every_tile() -> None:
    some = [np.full((3, 4, 4), i, np.uint8) for i in range(5)]
    found = tiles.montage(some, 3)
    assert found.shape == (2 * 3 + 2, 3 * 4 + 2 * 2, 4)
    np.testing.assert_array_equal(found[5:8, 6:10], some[4])
    assert (found[5:, 10:] == 0).all()
    assert tiles.fitted(some[0], 20).shape == (15, 20, 4)
    assert tiles.fitted(np.zeros((224, 100, 4), np.uint8), 56).shape == (56, 25, 4)


def test_small_images_are_shown_in_whole_pixels() -> None:
    x, _ = small_images(np.random.default_rng(0), 1)
    tile = tiles.fitted(tiles.image(x[0][..., None]), 50)
    assert tile.shape[:2] == (48, 48)
    np.testing.assert_array_equal(tile[::6, ::6, 0], x[0])


# ------------------------------------------------------------------------------------------------------- which trial is shown


def recorded(seed: int, accuracy: float, **more: object) -> schema.Record:
    trial = Trial(data=DataConfig(validation_fraction=more.pop("held_out", 0.1)), seed=seed)  # type: ignore[arg-type]
    return read_back(synthetic.record(trial, accuracy, images=40, **more))


def read_back(record: dict) -> schema.Record:
    return schema.decode(json.loads(json.dumps(record)))


def test_the_best_is_chosen_on_validation_and_on_test_where_nothing_is_held_out() -> None:
    validated = [recorded(0, 0.8, test_accuracy=0.99), recorded(1, 0.9, test_accuracy=0.5)]
    assert records.best(validated, "DIR").config.seed == 1
    tested = [recorded(s, 0.8, held_out=0.0, test_accuracy=a) for s, a in enumerate((0.5, 0.7, 0.6))]
    assert records.best(tested, "DIR").config.seed == 1
    equal = [recorded(0, 0.8, val_loss=0.3), recorded(1, 0.8, val_loss=0.2)]
    assert records.best(equal, "DIR").config.seed == 1
    with pytest.raises(UsageError, match=r"DIR holds no finished trial: all 1 failed or diverged"):
        records.best([recorded(0, 0.1, status="diverged")], "DIR")


def test_a_cell_has_the_same_settings_and_its_median_is_a_trial() -> None:
    every = [recorded(s, a) for s, a in enumerate((0.7, 0.9, 0.8, 0.6))]
    other = read_back(synthetic.record(Trial(ModelConfig(filters=(7,))), 0.5, images=40))
    found = cell.seeds_of_cell(every[0], [*every, other, recorded(9, 0.1, status="diverged")])
    assert [r.config.seed for r in found.records] == [0, 1, 2, 3]
    assert found.median.config.seed == 0  # of 0.6, 0.7, 0.8, 0.9 the lower middle


# -------------------------------------------------------------------------------------------------- kernels over the training


def test_kernels_over_the_training_are_a_strip_per_filter(sweep: Path, inspected: subprocess.CompletedProcess) -> None:
    text = (sweep / "inspect" / "inspect.html").read_text()
    assert "The kernels of conv1 after epochs 0, 1, from left to right" in text
    trials = {path.stem for path in (sweep / "inspect").glob("*.npz")}
    assert trials
    for trial in trials:
        arrays = np.load(sweep / "inspect" / f"{trial}.npz", allow_pickle=False)
        assert arrays["film/epochs"].tolist() == [0, 1]
        assert np.array_equal(arrays["film/conv1"][1], arrays["kernels/conv1"])
        first = open_trial(sweep, trial, epoch=0).variables["params"]["conv1"]["kernel"]
        assert np.array_equal(arrays["film/conv1"][0], np.moveaxis(first, -1, 0))
    assert text.count("at epochs 0, 1") == 4 * len(trials)  # a strip for each of four filters


def test_without_snapshots_there_is_no_film() -> None:
    network = TrainedNetwork.from_model(nn.named([nn.Conv(2, 3), nn.Flatten(), nn.Dense(3)]), (8, 8, 1), 3)
    assert film([]) is None
    assert film([network]) is None  # of no epoch
    frames = film([dataclasses.replace(network.randomized(seed), epoch=seed) for seed in (0, 4)])
    assert frames is not None
    assert (frames.epochs, frames.values.shape) == ((0, 4), (2, 2, 3, 3, 1))
    assert np.abs(frames.scaled - 0.5).max() == pytest.approx(0.5)  # one scale for all epochs
