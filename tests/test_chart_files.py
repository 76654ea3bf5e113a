"""Charts as files: SVG without style sheets, and PNG drawn from it."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import synthetic
from PIL import Image

from cnn_jax import cli, report
from cnn_jax.report import chart_files, chart_style, plots, raster, svg

HOSTILE = "<script>&\x00\ud800"


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def drawn(*body, size=20):
    """Pixels of a picture of that size; a unit is two pixels."""
    return pixels(raster.png(chart_files.alone(svg.picture(size, size, body, "test"))))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return synthetic.folder(tmp_path_factory.mktemp("charts") / "sweep", synthetic.sweep(seeds=2))


def test_every_chart_of_the_page_is_a_file(sweep, capsys):
    assert cli.launch(["launch.py", "report", str(sweep), "--charts=svg,png"]) == 0
    ((_, analysis),) = report.load([sweep]).parts
    figures = [figure for _, figure in plots.every(analysis)]
    expected = {
        f"{figure.name}{f'_{i}' if len(figure.pictures) > 1 else ''}"
        for figure in figures
        for i in range(1, len(figure.pictures) + 1)
    }
    assert {"accuracy_by_factor_3", "against_best", "noise_floor", "learning_curves_12", "parallel", "disagreement"} <= expected
    found = list((sweep / "charts").iterdir())
    assert {path.stem for path in found if path.suffix == ".svg"} == expected
    assert {path.stem for path in found if path.suffix == ".png"} == expected
    assert f"charts: {sweep}/charts, {2 * len(expected)} files" in capsys.readouterr().out
    for path in found:
        if path.suffix == ".svg":
            text = path.read_text()
            ET.fromstring(text)
            assert "class=" not in text
            assert "var(" not in text
            for name in re.findall(r"url\(#(\w+)\)", text):
                assert f'id="{name}"' in text
        else:
            assert (np.abs(pixels(path.read_bytes()) - 255).max(axis=-1) > 20).mean() > 0.005  # something is drawn


@pytest.mark.parametrize(("words", "message"), [("pdf", "use svg, png or svg,png"), ("", "--charts")])
def test_other_kinds_are_refused_and_nothing_is_written(words, message, tmp_path, capsys):
    out = synthetic.folder(tmp_path / "out", synthetic.sweep(filters=(8,), kernels=(3,)))
    assert cli.launch(["launch.py", "report", str(out), f"--charts={words}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (out / "charts").exists()
    assert not (out / "report.html").exists()


def test_every_class_of_every_picture_has_a_rule(sweep):
    ((_, analysis),) = report.load([sweep]).parts
    rules, _ = chart_style._sheet()
    known = {name for rule in rules for name in rule.classes}
    layout = {"parallel", "only-wide", "only-narrow", "axis-of-runs", "pair", "cell"}  # of the page alone
    layout |= {"validation"}  # as a solid line has no rule
    text = "".join(picture for _, figure in plots.every(analysis) for picture in figure.pictures)
    assert {name for found in re.findall(r'class="([^"]*)"', text) for name in found.split()} - layout <= known


def test_styles_are_those_of_the_style_sheet():
    found, _ = chart_style.attributes("path", ["line", "training", "c1"], {})
    assert found == {
        "fill": "none", "stroke": "#d98200", "stroke-width": "1.2", "stroke-linejoin": "round", "stroke-dasharray": "3 2.5",
        "stroke-opacity": ".8",
    }  # fmt: skip
    found, _ = chart_style.attributes("text", ["tick", "strong"], {})
    assert (found["font-size"], found["fill"]) == ("12", "#16191d")


def test_marks_are_drawn_where_they_are():
    image = drawn(svg.tag("rect", x=2.0, y=4.0, width=6, height=3, fill="#ff0000"))
    red = (image == [255, 0, 0]).all(axis=-1)
    assert [axis.min() for axis in np.nonzero(red)] == pytest.approx([8, 4], abs=1)
    assert [axis.max() for axis in np.nonzero(red)] == pytest.approx([14, 16], abs=1)
    image = drawn(svg.tag("path", d="M2 2h0", class_="dots c0"))  # a dot: a line without length with round caps
    dark = (image != 255).any(axis=-1)
    assert np.mean(np.nonzero(dark), axis=1) == pytest.approx([4, 4], abs=0.6)
    assert 40 < dark.sum() < 120  # pi 4.4^2
    image = drawn(svg.tag("path", d="M2 2L2 18L18 18Z", fill="#00ff00"))
    green = (image == [0, 255, 0]).all(axis=-1)
    assert green[30, 10]
    assert not green[10, 30]


def test_half_opaque_marks_are_half_as_dark():
    image = drawn(svg.tag("rect", x=0.0, y=0.0, width=20, height=20, fill="#000000", fill_opacity=0.5))
    assert image[20, 20] == pytest.approx([127, 127, 127], abs=2)


def test_dashes_have_gaps():
    image = drawn(svg.tag("line", x1=0, x2=20, y1=10, y2=10, stroke="#000000", stroke_width=2, stroke_dasharray="4 4"))
    dark = image[20, :, 0] < 100
    assert dark[4]
    assert not dark[12]
    assert dark[20]


def test_what_is_clipped_is_not_drawn():
    clip = svg.tag("defs", svg.tag("clipPath", svg.tag("rect", x=0, y=0, width=10, height=20), id="curve"))
    line = svg.tag("g", svg.tag("line", x1=0, x2=20, y1=10, y2=10, stroke="#000000", stroke_width=2), clip_path="url(#curve)")
    dark = drawn(clip, line)[20, :, 0] < 100
    assert dark[:18].all()
    assert not dark[21:].any()


@pytest.mark.parametrize("anchor", ["start", "middle", "end"])
def test_turned_text_runs_upwards_from_its_anchor(anchor):
    body = svg.text(50, 50, "IIIIIIIIII", anchor=anchor, transform="rotate(-90 50 50)")
    rows, columns = np.nonzero(drawn(body, size=100)[..., 0] < 128)
    assert np.ptp(rows) > 2 * np.ptp(columns)
    assert columns.max() <= 102  # the baseline
    low, high = {"start": (0, 101), "middle": (50, 150), "end": (99, 200)}[anchor]
    assert low <= rows.min() <= rows.max() <= high


def test_names_that_are_markup_stay_text():
    text = chart_files.alone(svg.tag("p", svg.escape(HOSTILE)) + svg.picture(20, 20, [svg.text(1, 9, HOSTILE)], HOSTILE))
    root = ET.fromstring(text)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert [element.text for element in root.iter() if element.tag.endswith("text")] == ["<script>&  "] * 2
    raster.png(text)


def test_several_data_sets_have_charts_of_their_own():
    assert chart_files._slug("npz:/data/a b.npz") == "npz_data_a_b.npz"
    assert chart_files._slug("../..") == "data"
