"""The section "Inside" of a report: kernels, maps, measures and confusions, from files alone."""

import base64
import io
import re

import numpy as np
import pytest
import synthetic
from PIL import Image

from cnn_jax import lowering, nn, report, stats
from cnn_jax.analysis import padding_card, values
from cnn_jax.analysis.padding_card import PaddingCard
from cnn_jax.analysis.values import Value
from cnn_jax.nn.network import CNN
from cnn_jax.records import confusion, store
from cnn_jax.report import tiles
from cnn_jax.report.explorer import kept
from cnn_jax.report.inside_sweep import cells, confused
from tests.kept_sweep import SHAPE, cell_of, folder_of
from tests.random_networks import trained


def inside(folder):
    """The section's markup; '' if there is none."""
    found = re.search(r'<section id="inside">(.*?)</section>', report.write(folder).read_text(), re.S)
    return found[1] if found else ""


def image_of(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def loaded(folder):
    sweep = report.load([folder])
    ((part, analysis),) = sweep.parts
    return part, analysis


# -------------------------------------------------------------------------------------------------------- kernels and maps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two paddings, three seeds; the seed with the highest accuracy is 2, the median 1."""
    out = tmp_path_factory.mktemp("kept") / "sweep"
    trials = [cell_of(padding, seed) for padding in ("valid", "same") for seed in range(3)]
    folder_of(out, trials)
    return out


def test_each_cell_shows_its_best_and_its_median_seed(folder):
    text = inside(folder)
    parts = re.findall(r'<details class="cell-inside[^>]*>.*?</details>', text, re.S)
    assert len(parts) == 2
    for part in parts:
        assert re.findall(r"<h4>(.*?)</h4>", part) == ["best seed: 2", "median seed: 1"]
        assert re.findall(r"conv1: 4 kernels of 3×3", part)
    assert [" open>" in part for part in parts] == [True, False]  # the others are drawn when they are unfolded


def test_maps_are_the_features_of_the_network(folder):
    part, analysis = loaded(folder)
    images = next(iter(part.images.values()))
    shown = cells.pick(images, SHAPE, {})
    networks = cells.networks(part.folders, analysis.cells[0], analysis.metric, images, SHAPE)
    for network in networks:
        flat = store.load_params(folder, network.record["trial"])
        params = {name.split("/")[1]: {} for name in flat}
        for name, array in flat.items():
            params[name.split("/")[1]][name.split("/")[2]] = array
        spec = (
            nn.Conv(4, 3, padding=network.cell.levels["padding"], activation="relu"),
            nn.MaxPool(2),
            nn.Flatten(),
            nn.Dense(10),
        )
        logits, features = CNN(nn.named(spec)).apply({"params": params}, shown.pixels[None] / np.float32(255))
        outputs = dict(network.outputs(shown.pixels))
        np.testing.assert_allclose(outputs["conv1"], features["conv1"][0], atol=1e-5)
        np.testing.assert_allclose(outputs["pool1"], features["pool1"][0], atol=1e-5)
        np.testing.assert_allclose(network.logits(shown.pixels[None]), logits, atol=1e-4)


def test_a_picture_of_maps_has_their_colours():
    maps_HWC = np.zeros((2, 3, 2))
    maps_HWC[0, 0, 0], maps_HWC[1, 2, 1], maps_HWC[0, 1, 1] = 2.0, 1.0, -5.0
    markup = cells._maps("conv1", maps_HWC, 2.0)
    picture = np.asarray(image_of(re.search(r'src="([^"]*)"', markup)[1]).convert("RGBA"))
    colours = tiles.palette(cells.SHADES)
    assert picture.shape == (2, 3 + 1 + 3, 4)
    assert tuple(picture[0, 0, :3]) == tuple(colours[-1])  # the largest
    assert tuple(picture[1, 6, :3]) == tuple(colours[round(0.5 * (cells.SHADES - 1))])
    assert tuple(picture[0, 5, :3]) == tuple(colours[0])  # below 0
    assert (picture[:, 3, 3] == 0).all()  # between two maps
    assert (np.delete(picture[..., 3], 3, axis=1) == 255).all()
    assert "2 maps of 2×3, up to 2" in markup


@pytest.mark.parametrize("channels", [1, 3])
def test_kernels_have_one_scale_and_the_colours_of_the_image(channels):
    kernel_FHWC = np.zeros((2, 1, 2, channels), np.float32)
    kernel_FHWC[0, 0, 0, 0], kernel_FHWC[1, 0, 1, -1] = 1.0, -0.5
    markup = cells._kernels("conv1", kernel_FHWC, 1.0)
    picture = np.asarray(image_of(re.search(r'src="([^"]*)"', markup)[1]).convert("RGBA")).astype(int)
    assert picture.shape == (1, 5, 4)
    assert picture[0, 0, 0] == 255
    assert picture[0, 4, 2] == 64  # a quarter of the way from black to white
    assert set(picture[0, 1, :3]) == {128}
    assert picture[0, 2, 3] == 0


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ((nn.Conv(4, 3), nn.Flatten(), nn.Dense(3)), (4, 3, 3, 2)),
        ((nn.BatchNorm(), nn.Conv(4, 3), nn.Flatten(), nn.Dense(3)), None),  # the norm has weights, and sees the image first
        ((nn.Flatten(), nn.Dense(5), nn.Dense(3)), (5, 6, 6, 2)),
        ((nn.MaxPool(2), nn.Flatten(), nn.Dense(3)), None),
    ],
)
def test_the_first_kernels_are_those_that_see_the_image(spec, shape):
    named = nn.named(spec)
    ops = lowering.lower(named, (6, 6, 2), trained(named, (6, 6, 2)))
    found = kept.first_kernels(ops, (6, 6, 2))
    assert (found and found[1].shape) == shape


def test_the_median_of_an_even_number_is_the_lower_one():
    def cell(*values):
        trials = [cell_of("valid", seed) for seed in range(len(values))]
        records = [synthetic.record(t, 0.9) | {"val_accuracy": v} for t, v in zip(trials, values, strict=True)]
        return stats.design(records).cells[0]

    def seeds(*values):
        return {role: r["config"]["seed"] for role, r in kept.best_and_median(cell(*values), "val_accuracy")}

    assert seeds(0.9, 0.7, 0.8) == {"best seed": 0, "median seed": 2}
    assert seeds(0.9, 0.6, 0.7, 0.8) == {"best seed": 0, "median seed": 2}
    assert seeds(0.9, 0.8) == {"best seed": 0, "median seed": 1}
    assert seeds(0.9) == {"only seed": 0}


def test_without_parameters_or_measures_a_line_says_how_to_get_them(tmp_path):
    out = synthetic.folder(tmp_path / "a 'b", synthetic.sweep(seeds=2))
    text = inside(out)
    assert "does not hold" in text
    assert f"measure &#x27;{tmp_path}/a &#x27;&quot;&#x27;&quot;&#x27;b&#x27;" in text
    folder_of(tmp_path / "fork", [cell_of("valid", 0), cell_of("same", 0)], model="os:getcwd")
    assert "train without --nokeep_params" in inside(tmp_path / "fork")


def test_pictures_have_a_budget(folder, monkeypatch):
    monkeypatch.setattr(cells, "PICTURE_BYTES", 1)
    text = inside(folder)
    assert text.count('<details class="cell-inside') == 1
    assert "1 cell without kept parameters, or beyond the size of this page: not drawn" in text


def test_networks_that_are_not_finite_or_do_not_fit_are_no_end_of_the_report(tmp_path):
    trials = [cell_of(padding, 0, normalize="per_channel") for padding in ("valid", "same")]
    folder_of(tmp_path / "out", trials)
    path = tmp_path / "out" / "trials" / trials[0].id / "params.npz"
    arrays = store.from_npz(path.read_bytes())
    path.write_bytes(store.to_npz({name: np.full_like(a, np.nan) for name, a in arrays.items()}))
    assert inside(tmp_path / "out").count('<details class="cell-inside') == 2
    sweep, analysis = loaded(tmp_path / "out")
    record = sweep.records[0] | {"data": sweep.records[0]["data"] | {"normalization": {"mean": [0.1, 0.2, 0.3], "std": [1, 1]}}}
    cell = stats.design([record]).cells[0]
    images = next(iter(sweep.images.values()))
    assert cells.networks(sweep.folders, cell, analysis.metric, images, SHAPE) == []


# ---------------------------------------------------------------------------------------------------------------- measures


def write_measures(folder, rows):
    sweep = report.load([folder])
    (folder / "inspect").mkdir(exist_ok=True)
    (folder / values.FILE).write_text(values.to_csv(sweep.records, rows))
    return sweep


def test_values_are_read_as_they_were_written(tmp_path):
    out = synthetic.folder(tmp_path / "out", synthetic.sweep(filters=(8,), paddings=("valid",)))
    ids = [r["trial"] for r in store.read(out)]
    rows = [Value(trial, "probe", "conv1", 0.1 * i + 1 / 3) for i, trial in enumerate(ids)]
    write_measures(out, rows)
    assert values.read(out, set(ids)) == rows
    assert values.read(out, set(ids[:1])) == rows[:1]
    assert values.read(tmp_path, set(ids)) == []


def test_effects_on_measures_are_drawn_by_factor_and_claimed_where_they_are(tmp_path):
    out = synthetic.folder(tmp_path / "out", synthetic.sweep(filters=(8,), seeds=4))
    rng = np.random.default_rng(0)
    rows = []
    for record in store.read(out):
        kernel = record["config"]["model"]["kernel_size"][0]
        rows.append(Value(record["trial"], "edges", "conv1", 0.5 + 0.1 * (kernel == 5) + 0.005 * rng.normal()))
        rows.append(Value(record["trial"], "shift", "shift 1", 0.999 + 0.0005 * rng.normal()))
    write_measures(out, rows)
    text = inside(out)
    assert "edges of conv1 by kernel_size (5 against 3: +0.1" in text
    assert "shift of shift 1 by" not in text
    assert "By kernel_size: 2 measures" in text
    assert "By padding: 2 measures" in text
    assert "16 networks" in text
    drawn = re.findall(
        r"edges of conv1, kernel_size (\d): ([\d.]+) \(([\d.]+) to ([\d.]+)\), 8 runs; the effect is claimed", text
    )
    found = {level: tuple(map(float, numbers)) for level, *numbers in drawn}
    assert found["3"][1] < 0.5 < found["3"][2]
    assert found["5"][1] < 0.6 < found["5"][2]
    assert all(high <= 1 for high in map(float, re.findall(r"shift of shift 1, [^:]*: [\d.]+ \([\d.]+ to ([\d.]+)\)", text)))


HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00garbage", b"", b"trial,measure\n", b'trial,measure,layer,value\n"open', b"a" * 200_000,
        b"trial,measure,layer,value\nID,probe,conv1,nan\nID,probe,conv1\nID,probe,conv1,x\nID,probe,conv1,1e999\n",
    ],
)  # fmt: skip
def test_a_file_of_measures_may_hold_anything(content, tmp_path):
    out = synthetic.folder(tmp_path / "out", synthetic.sweep(filters=(8,), kernels=(3,)))
    (out / "inspect").mkdir()
    trial = store.read(out)[0]["trial"].encode()
    (out / values.FILE).write_bytes(content.replace(b"ID", trial))
    assert "further measures by factor: run" in inside(out)


def test_names_from_a_file_of_measures_are_escaped(tmp_path):
    out = synthetic.folder(tmp_path / "out", synthetic.sweep(filters=(8,), kernels=(3,)))
    rng = np.random.default_rng(0)
    write_measures(out, [Value(r["trial"], HOSTILE, HOSTILE, rng.random()) for r in store.read(out)])
    text = inside(out)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


# -------------------------------------------------------------------------------------------------------------- confusions


def test_confusions_are_summed_over_runs(tmp_path):
    matrix = np.diag([40, 40, 20]).astype(np.int64)
    matrix[0] = [35, 5, 0]
    trials = [cell_of("valid", seed) for seed in range(3)]
    records = [synthetic.record(t, 0.9, images=100, confusion=confusion.encode(matrix)) for t in trials]
    text = inside(synthetic.folder(tmp_path / "out", records))
    assert "Answers of 3 runs on test images" in text
    assert "0 for 1 (12.50 % of class 0)" in text
    assert "15 images of class 0 taken for 1" in text


def test_confused_images_are_those_that_most_runs_get_wrong(folder):
    part, analysis = loaded(folder)
    images = next(iter(part.images.values()))
    networks = cells.networks(part.folders, analysis.cells[0], analysis.metric, images, SHAPE)
    share = dict.fromkeys(range(500), 1.0) | {18: 0.5, 19: 1.0, 17: 0.0}
    text = confused._gallery(6, networks[:1], share, images)
    assert re.findall(r"#(\d+), right in (\d+) %", text) == [("17", "0"), ("18", "50")]
    answer = int(networks[0].logits(images.test[17][0][None]).argmax())
    assert (f"3 → {answer} (1)" in text) == (answer != 3)


# ------------------------------------------------------------------------------------------------------------ padding card


def card(padding, same, error=0.25):
    circular_HW, error_HW = np.full((4, 6), same), np.full((4, 6), error)
    circular_HW[2, 3], error_HW[0] = 1.0, np.nan
    return PaddingCard(padding, error_HW, {}, circular_HW, 1 - error_HW, {})


def test_cards_are_averaged_by_padding_and_drawn(tmp_path):
    out = synthetic.folder(tmp_path / "out", synthetic.sweep(filters=(8,), kernels=(3,), seeds=2))
    assert "--padding_card" in inside(out)
    same = iter((0.5, 0.7, 0.8, 1.0))
    trials = sorted(store.read(out), key=lambda r: r["config"]["model"]["padding"])
    cards = {r["trial"]: card(r["config"]["model"]["padding"], next(same)) for r in trials}
    (out / "inspect").mkdir()
    (out / padding_card.FILE).write_bytes(padding_card.to_file(cards))
    text = inside(out)
    assert "valid 90.00 % and 90.00 %; same 60.00 % and 60.00 %" in text
    assert text.count("2 networks</text>") == 2
    assert "--padding_card" not in text
    csv = base64.b64decode(re.search(r'base64,([^"]*)" download="padding_card.csv"', text)[1]).decode().splitlines()
    assert len(csv) == 1 + 2 * 24
    assert csv[1].startswith("valid,-2,-3,nan,nan,0.9") or csv[1].startswith("valid,-2,-3,nan,nan,0.8999")
    pictures = [image_of(found) for found in re.findall(r'<image href="([^"]*)"', text)]
    assert [picture.size for picture in pictures] == [(6 * 16, 4 * 16)] * 4
    errors = np.asarray(pictures[0].convert("RGBA"))
    assert (errors[:16, :, 3] == 0).all()  # no image stays inside: nothing is drawn
    assert tuple(errors[16, 0, :3]) == tuple(tiles.palette(64)[16])  # a quarter


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK\x03\x04", store.to_npz({"ID/padding": np.array("same"), "ID/maps": np.zeros((3, 0, 4))}),
        store.to_npz({"ID/padding": np.array(3), "ID/maps": np.zeros((3, 4, 4))}),
        store.to_npz({"ID/padding": np.array("same"), "ID/maps": np.zeros((3, 4, 4), int)}),
        store.to_npz({"ID/padding": np.array("same"), "ID/maps": np.zeros((3, 4, 999))}),
    ],
)  # fmt: skip
def test_a_file_of_cards_may_hold_anything(content, tmp_path):
    (tmp_path / "inspect").mkdir()
    (tmp_path / padding_card.FILE).write_bytes(content)
    assert padding_card.read(tmp_path, ["ID"]) == []
