"""Every chart of a report as a separate file: SVG, and PNG drawn from it."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax.records import files
from cnn_jax.report import chart_style, plots, raster, words
from cnn_jax.report.inside_sweep import charts as inside

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep

KINDS = ("svg", "png")
FOLDER = "charts"
_SVG = "http://www.w3.org/2000/svg"
_TITLE = 26  # units above a picture whose title is outside of it
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write(sweep: "Sweep", folder: Path, kinds: Sequence[str]) -> list[Path]:
    """Write the charts of a sweep into folder/charts, NAME.svg and NAME.png, and return their paths."""
    out = folder / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in charts(sweep):
        for kind in kinds:
            data = raster.png(picture) if kind == "png" else picture.encode()
            path = out / f"{name}.{kind}"
            files.replace(path, data)
            paths.append(path)
    return paths


def charts(sweep: "Sweep") -> Iterator[tuple[str, str]]:
    """Name and text of each chart as a self-contained SVG file."""
    for part, analysis in sweep.parts:
        first = f"{_slug(part.records[0]['config']['data']['dataset'])}_" if len(sweep.parts) > 1 else ""
        found = [(figure.name, figure.pictures) for _, figure in plots.every(analysis)] + inside.charts(part, analysis)
        for name, pictures in found:
            shared = "".join(re.findall(r"<clipPath.*?</clipPath>", "".join(pictures), re.S))
            for i, picture in enumerate(pictures, 1):
                yield f"{first}{name}{f'_{i}' if len(pictures) > 1 else ''}", alone(picture, shared)


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("._")[-40:] or "data"


def alone(markup: str, shared: str = "") -> str:
    """A picture of the page as the text of an SVG file.

    Args:
      markup: a picture, perhaps with its title in a paragraph before it; of several pictures the first counts.
      shared: clip paths that it may refer to.
    """
    text = _NOT_XML.sub(" ", markup)
    title = re.search(r"<p[^>]*>(.*?)</p>", text, re.S)
    picture = re.search(r"<svg.*?</svg>", text, re.S)
    assert picture is not None
    root = ET.fromstring(picture[0].replace("<svg", f'<svg xmlns="{_SVG}"', 1))
    if shared and "url(#" in picture[0] and "<clipPath" not in picture[0]:
        root.insert(0, ET.fromstring(f'<defs xmlns="{_SVG}">{shared}</defs>'))
    _style(root, {})
    left, top, width, height = map(float, root.get("viewBox", "0 0 1 1").split())
    if title:
        top, height = top - _TITLE, height + _TITLE
        attributes, _ = chart_style.attributes("text", ["strong"], {})
        heading = ET.Element(f"{{{_SVG}}}text", attributes | {"x": "4", "y": str(top + 17)})
        heading.text = ET.fromstring(f"<p>{title[1]}</p>").text
        root.insert(0, heading)
    paper = {
        "x": f"{left:g}",
        "y": f"{top:g}",
        "width": f"{width:g}",
        "height": f"{height:g}",
        "fill": chart_style.colour("var(--paper)"),
    }
    root.insert(0, ET.Element(f"{{{_SVG}}}rect", paper))
    root.set("viewBox", f"{left:g} {top:g} {width:g} {height:g}")
    root.set("width", f"{width:g}")
    root.set("height", f"{height:g}")
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode") + "\n"


def _style(element: ET.Element, inherited: dict[str, str]) -> None:
    """Put attributes in place of classes, here and below."""
    tag = element.tag.rpartition("}")[2]
    classes = element.attrib.pop("class", "").split()
    found, custom = chart_style.attributes(tag, classes, inherited)
    if tag not in ("svg", "title", "defs", "clipPath"):
        element.attrib.update(found)
    for name in ("fill", "stroke"):
        if "var(" in element.get(name, ""):
            element.set(name, chart_style.colour(element.attrib[name].replace("var(--c)", custom.get("--c", "none"))))
    for name in [n for n in element.attrib if n.startswith("data-") or n in ("tabindex", "style")]:
        del element.attrib[name]
    for child in element:
        _style(child, custom)


def summary(paths: Sequence[Path]) -> str:
    """'charts: DIR/charts, 24 files'."""
    return f"charts: {paths[0].parent}, {words.count(len(paths), 'file')}" if paths else "charts: there are none to draw"
