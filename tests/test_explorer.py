"""The network that runs in the page gives the logits that Python gives."""

import base64
import json
import re
import shutil
from importlib import resources

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnn_jax import lowering, nn, report
from cnn_jax.data.normalization import Normalization
from cnn_jax.nn.network import CNN
from cnn_jax.report import explorer
from cnn_jax.report.explorer import forward, packing
from cnn_jax.trial import ModelConfig
from cnn_jax.zoo.models import PUBLISHED_FOR
from cnn_jax.zoo.resolve import spec as network_of
from tests import random_networks
from tests.chromium import dumped, needs_chromium, output
from tests.kept_sweep import SHAPE, cell_of, folder_of
from tests.random_networks import trained

ENGINE = resources.files("cnn_jax.report.explorer").joinpath("engine.js").read_text()


def lowered(spec, shape, variables):
    return lowering.fold(lowering.lower(spec, shape, variables))


def logits_and_features(spec, variables, images):
    logits, features = CNN(spec).apply(traverse_util.unflatten_dict(variables, sep="/"), jnp.asarray(images))
    return np.asarray(logits), {name: np.asarray(value) for name, value in features.items()}


def in_page(cases, tmp_path, bytes=4):
    """(logits, features) of each case (spec, variables, image) by the page's own forward pass."""
    data = []
    for spec, variables, image in cases:
        packed = packing.pack(lowered(spec, image.shape, variables), bytes)
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
    for spec, variables, image in cases:  # the report's own forward pass
        right = logits_and_features(spec, variables, image[None])[0]
        found = forward.run(lowered(spec, image.shape, variables), image[None])
        np.testing.assert_allclose(found, right, atol=tolerance * max(1.0, float(np.abs(right).max())), rtol=0)
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
    check([case(spec, shape) for spec, shape in random_networks.every_padding()], tmp_path)


@needs_chromium
def test_every_kind_of_layer(tmp_path):
    found = random_networks.every_kind_of_layer()
    check([case(spec, shape, seed) for seed, (spec, shape) in enumerate(found)], tmp_path)
    shown = {type(layer) for spec, _ in found for layer in nn.flat(spec)}
    assert shown >= set(lowering._MAKERS)  # each kind that is lowered is tested here


_SLOW = ("resnet20", "nin", "all_cnn_c", "convmixer", "mnist_m5")


@needs_chromium
@pytest.mark.parametrize(
    "name",
    ["chapter", "mlp", "simple_convnet", "lenet5", "lenet5_dense", *(pytest.param(n, marks=pytest.mark.slow) for n in _SLOW)],
)
def test_models_of_the_zoo(name, tmp_path):
    shape = PUBLISHED_FOR[name][0]
    check([case(network_of(ModelConfig(name), shape, 10), shape)], tmp_path)


def test_parameters_of_another_network_are_refused():
    spec = (nn.Conv(4, 3), nn.Flatten(), nn.Dense(3))
    variables = trained(spec, (6, 6, 1))
    with pytest.raises(lowering.NotLowered, match="params/dense1/kernel: float32 of shape"):
        lowering.lower(spec, (7, 7, 1), variables)
    with pytest.raises(lowering.NotLowered, match="missing"):
        lowering.lower(spec, (6, 6, 1), {})


@needs_chromium
def test_half_precision_is_read_exactly(tmp_path):
    values = np.array([0, 1, -1, 1 / 3, 65504, -6e-8, 6.1e-5, 5.9e-5, 1e-3], np.float16)
    text = base64.b64encode(values.tobytes()).decode()
    script = f"""const [step] = cnnJaxEngine.attach([{{arrays: {{a: [0, 9]}}, paths: []}}], "{text}", 2);
    document.getElementById("out").textContent = JSON.stringify([...step.arrays.a.data]);"""
    found = output(dumped(f'<pre id="out"></pre><script>{ENGINE}{script}</script>', tmp_path))
    np.testing.assert_array_equal(np.array(found, np.float32), values.astype(np.float32))


# --------------------------------------------------------------------------------------------------------------- the page


def in_report(path, tmp_path, script):
    """What a script that runs in the page after its own writes."""
    text = report.write(path).read_text()
    test = f"""<pre id="out"></pre><script>{{
      const box = document.querySelector(".explorer"), out = (value) =>
        document.getElementById("out").textContent = JSON.stringify(value);
      {script}
    }}</script></body>"""
    return output(dumped(text.replace("</body>", test), tmp_path))


def right_logits(trial, found, pixels):
    spec, variables = found[trial.id]
    x = pixels.reshape(1, *SHAPE).astype(np.float32)
    if trial.data.normalize == "standardize":
        x = Normalization("standardize")(pixels.reshape(1, *SHAPE))
    elif trial.data.normalize == "per_channel":
        x = Normalization("per_channel", (0.3,), (0.4,))(pixels.reshape(1, *SHAPE))
    else:
        x = x / 255
    return logits_and_features(spec, variables, x)[0][0]


@needs_chromium
@pytest.mark.parametrize("normalize", ["none", "per_channel", "standardize"])
def test_the_page_answers_as_python_for_every_padding(normalize, tmp_path):
    trials = [cell_of(padding, seed, normalize=normalize) for padding in nn.PADDINGS for seed in (0, 1)]
    found = folder_of(tmp_path / "sweep", trials)
    pixels = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
    script = f"""const pixels = {pixels.ravel().tolist()};
    out(box.explorer.data.cells.map((cell, i) => [cell.trial, box.explorer.logits(i, pixels)]));"""
    logits = dict(in_report(tmp_path / "sweep", tmp_path, script))
    by_id = {t.id: t for t in trials}
    assert {by_id[i].model.padding for i in logits} == set(nn.PADDINGS)
    assert {by_id[i].seed for i in logits} == {1}  # the better of the two
    for i, values in logits.items():
        np.testing.assert_allclose(values, right_logits(by_id[i], found, pixels), atol=1e-4)


@needs_chromium
def test_drawing_changes_the_answer_to_that_of_what_was_drawn(tmp_path):
    trials = [cell_of("valid", 0), cell_of("same", 0)]
    found = folder_of(tmp_path / "sweep", trials)
    script = """
    const listed = () => Object.fromEntries([...box.querySelectorAll(".desk option")].map((option) => {
      option.parentElement.value = option.value;
      option.parentElement.dispatchEvent(new Event("change"));
      return [option.value, [...box.querySelectorAll(".strip button")].map((one) => one.title)];
    }));
    const canvas = box.querySelector("canvas.pixels"), [clear] = box.querySelectorAll(".buttons button");
    clear.click();
    const area = canvas.getBoundingClientRect();
    const at = (name, x, y) => canvas.dispatchEvent(new PointerEvent(name,
      { clientX: area.left + area.width * x, clientY: area.top + area.height * y, bubbles: true, pointerId: 1 }));
    canvas.setPointerCapture = undefined;
    const empty = [...box.explorer.pixels()];
    at("pointerdown", 0.2, 0.2); at("pointermove", 0.8, 0.2); at("pointermove", 0.4, 0.9); at("pointerup", 0.4, 0.9);
    box.querySelector(".compare").click();
    box.explorer.redraw();
    const pixels = [...box.explorer.pixels()];
    [...box.querySelectorAll(".buttons button")].find((one) => one.textContent === "Centre").click();
    const centred = [...box.explorer.pixels()];
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
    const keyed = [...box.explorer.pixels()];
    const map = box.querySelector(".maps canvas:not(.padded)");
    map.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    out({ empty, pixels, centred, keyed, says: [...box.querySelectorAll(".says")].map((one) => one.textContent),
          logits: box.explorer.logits(0, pixels), trial: box.explorer.data.cells[0].trial,
          why: box.querySelector(".why").textContent, cells: box.querySelectorAll(".why td").length,
          images: [...box.querySelectorAll(".strip button")].map((one) => one.title), groups: listed() });
    """
    got = in_report(tmp_path / "sweep", tmp_path, script)
    assert not any(got["empty"])
    drawn = np.array(got["pixels"], np.uint8).reshape(SHAPE[:2])
    assert drawn[1, 2:6].min() > 200  # the bar of the 7
    assert drawn[6].max() > 0
    assert sum(got["keyed"]) > sum(got["centred"])
    moved = np.array(got["centred"], float).reshape(SHAPE[:2])
    for axis in (0, 1):
        line = moved.sum(axis=1 - axis)
        assert abs((line * np.arange(8)).sum() / line.sum() - 3.5) <= 0.5
    trial = next(t for t in trials if t.id == got["trial"])
    logits = right_logits(trial, found, drawn)
    np.testing.assert_allclose(got["logits"], logits, atol=1e-4)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert got["says"][0].startswith(f"{shares.argmax()}: {100 * shares.max():.1f} %")
    assert len(got["says"]) == 2
    # The first value of the first map: nine products, a bias and relu.
    spec, variables = found[trial.id]
    value = logits_and_features(spec, variables, drawn.reshape(1, *SHAPE) / np.float32(255))[1]["conv1"][0, 0, 0, 0]
    shown = re.search(r"conv1, map 1, row 1, column 1: ([-−\d.e]+)Products", got["why"])[1].replace("−", "-")
    assert float(shown) == pytest.approx(float(value), abs=max(5e-3 * abs(value), 5e-4))
    assert got["cells"] == 9
    assert [name for name in got["images"] if "test image" in name] == []
    assert len(got["groups"].pop("training: one of each class")) == 10
    kinds = {name.split(":")[0]: (kind, name.split(":")[1]) for kind, names in got["groups"].items() for name in names}
    assert set(kinds) == {"test image 17 of class 3", "test image 18 of class 4", "test image 19 of class 5"}
    share = {
        " right in 0 % of runs": "no run is",
        " right in 50 % of runs": "some runs are",
        " right in 100 % of runs": "all runs are",
    }
    assert all(kind == f"test: {share[says]} right" for kind, says in kinds.values())


@needs_chromium
def test_factors_choose_the_network_and_a_second_one_differs_in_padding(tmp_path):
    trials = [cell_of(padding, 0, filters=f) for padding in ("valid", "same") for f in (2, 4)]
    folder_of(tmp_path / "sweep", trials)
    script = """
    const menus = () => [...box.querySelectorAll(".net:not([hidden]) .choice select")];
    const named = () => menus().map((menu) => `${menu.getAttribute("aria-label")}: ${menu.selectedOptions[0].textContent}`);
    const chosen = () => box.explorer.nets.map((one) => one.chosen()?.label);
    const found = [chosen()];
    box.querySelector(".compare").click();
    box.explorer.redraw();
    found.push(chosen());
    const options = named();
    const menu = menus()[0];
    menu.value = 1 - menu.value;
    menu.dispatchEvent(new Event("change"));
    found.push(chosen());
    box.querySelector(".compare").click();
    found.push(chosen());
    out({ found, options });
    """
    got = in_report(tmp_path / "sweep", tmp_path, script)
    first = got["found"][0][0]
    assert got["found"][0] == [first, None]

    def with_level(label, name, other):
        return " ".join(f"{name}={other[value]}" if key == name else f"{key}={value}"
                        for key, value in (part.split("=") for part in label.split()))  # fmt: skip

    beside = with_level(first, "padding", {"valid": "same", "same": "valid"})
    assert got["found"][1] == [first, beside]
    assert got["found"][2] == [with_level(first, "filters", {"2": "4", "4": "2"}), beside]
    assert got["found"][3][1] is None
    levels = dict(part.split("=") for part in first.split())
    assert got["options"][:2] == [f"{name} of the first network: {levels[name]}" for name in ("filters", "padding")]
    assert got["options"][3] == f"padding of the second network: {'same' if levels['padding'] == 'valid' else 'valid'}"


@needs_chromium
def test_keys_walk_from_map_to_map_and_what_is_under_them_is_said(tmp_path):
    folder_of(tmp_path / "sweep", [cell_of("valid", 0), cell_of("same", 0)])
    script = """
    const canvas = box.querySelector("canvas.pixels"), heard = box.querySelector(".heard");
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }));
    const drawn = heard.textContent;
    const [layer] = box.querySelectorAll(".layer"), maps = [...layer.querySelectorAll(".maps canvas:not(.padded)")];
    const stops = maps.map((map) => map.tabIndex);
    maps[0].focus();
    const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key }));
    for (let i = 0; i <= maps[0].width; i++) press("ArrowRight");
    const walked = [maps.indexOf(document.activeElement), heard.textContent, box.querySelector(".why").textContent];
    press("ArrowLeft");
    out({ drawn, stops, walked, width: maps[0].width, back: [maps.indexOf(document.activeElement), heard.textContent],
          after: maps.map((map) => map.tabIndex), role: heard.getAttribute("role") });
    """
    got = in_report(tmp_path / "sweep", tmp_path, script)
    assert got["role"] == "status"
    assert re.match(r"row 4, column 5: \d+$", got["drawn"])
    assert got["stops"] == [0] + [-1] * (len(got["stops"]) - 1)  # one stop of the tab key per layer
    at, said, why = got["walked"]
    assert at == 1
    assert said.startswith("conv1, map 2, row 1, column 1: ")
    assert "It sees rows 1 to " in why
    assert got["back"][0] == 0
    assert got["back"][1].startswith(f"conv1, map 1, row 1, column {got['width']}: ")
    assert got["after"] == got["stops"]


def test_images_to_pick_from_are_of_all_classes():
    images = [(np.zeros((1, 1, 1), np.uint8), label, f"{label}{i}") for label in "aab" for i in range(2)]
    assert [name for _, _, name in explorer._in_turn(images)] == ["a0", "b0", "a1", "b1", "a0", "a1"]


def test_a_report_runs_no_code_of_a_fork(tmp_path):
    folder_of(tmp_path / "sweep", [cell_of("valid", 0), cell_of("same", 0)], model="os:getcwd")
    assert 'class="explorer"' not in report.write(tmp_path / "sweep").read_text()


def test_without_parameters_or_images_there_is_no_explorer(tmp_path):
    trials = [cell_of("valid", 0), cell_of("same", 0)]
    folder_of(tmp_path / "sweep", trials)
    assert 'class="explorer"' in report.write(tmp_path / "sweep").read_text()
    (tmp_path / "sweep/trials" / trials[0].id / "params.npz").write_bytes(b"damaged")
    text = report.write(tmp_path / "sweep").read_text()
    assert "1 cell without kept parameters" in text
    shutil.rmtree(tmp_path / "sweep/images")
    assert 'class="explorer"' not in report.write(tmp_path / "sweep").read_text()


def test_networks_beyond_the_budget_are_left_out(tmp_path, monkeypatch):
    folder_of(tmp_path / "sweep", [cell_of("valid", 0, filters=f) for f in (2, 4, 8)])
    whole = explorer.BUDGET
    monkeypatch.setattr(explorer, "BUDGET", 2500)
    text = report.write(tmp_path / "sweep").read_text()
    assert 'class="explorer"' in text
    assert "left out" in text
    monkeypatch.setattr(explorer, "BUDGET", whole)
    assert "left out" not in report.write(tmp_path / "sweep").read_text().split("Try a network")[1][:900]


def test_half_precision_is_used_where_room_is_short_and_no_answer_changes(tmp_path, monkeypatch):
    trials = [cell_of("valid", 0, filters=f) for f in (2, 4, 8)]
    found = folder_of(tmp_path / "sweep", trials)

    def cells():
        text = report.write(tmp_path / "sweep").read_text()
        data = re.search(r'<script type="application/json" class="explorer-data">(.*?)</script>', text, re.S)[1]
        return {cell["trial"]: cell for cell in json.loads(data)["cells"]}

    assert [cell["bytes"] for cell in cells().values()] == [4, 4, 4]
    monkeypatch.setattr(explorer, "BUDGET", 5000)
    short = cells()
    assert [cell["bytes"] for cell in short.values()] == [2, 2, 2]
    for trial in trials:
        ops = lowered(found[trial.id][0], SHAPE, found[trial.id][1])
        assert short[trial.id]["parameters"] == packing.pack(ops, 2).parameters
    # A network whose answers change keeps single precision, or has no place.
    monkeypatch.setattr(explorer, "_same_answers", lambda *arguments: False)
    assert {cell["bytes"] for cell in cells().values()} == {4}
    assert len(cells()) < 3


def test_a_network_on_the_edge_between_two_answers_is_not_halved():
    spec = (nn.Flatten(), nn.Dense(2, use_bias=False))
    kernel = np.array([[1.0, 1.0002]], np.float32)  # both are 1.0 in half precision
    ops = lowered(spec, (1, 1, 1), {"params/dense1/kernel": kernel})
    record = {"data": {}, "config": {"data": {}}}
    assert not explorer._same_answers(ops, record, np.full((1, 1, 1, 1), 255, np.uint8))
    clear = lowered(spec, (1, 1, 1), {"params/dense1/kernel": np.array([[1.0, 1.3]], np.float32)})
    assert explorer._same_answers(clear, record, np.full((1, 1, 1, 1), 255, np.uint8))


def test_the_page_asks_for_nothing(tmp_path):
    folder_of(tmp_path / "sweep", [cell_of("valid", 0)])
    text = report.write(tmp_path / "sweep").read_text()
    assert not re.findall(r"fetch\(|XMLHttpRequest|import\(|importScripts|eval\(|new Function|https?://(?!www\.w3\.org)", text)
