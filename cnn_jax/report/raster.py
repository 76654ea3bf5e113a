"""Pictures of this package as PNG: the elements and path commands that `svg` writes, drawn with Pillow."""

import base64
import io
import itertools
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # pixels of the file per unit of a picture
FINE = 2  # drawn at this many times the size, then averaged, so that lines are smooth
# Characters that Pillow's font lacks.
PLAIN = str.maketrans({"−": "-", "×": "x", "–": "-", "²": "2", "ω": "w", "…": "~", "→": ">", "≤": "<="})
Point = tuple[float, float]
_TOKEN = re.compile(r"[A-Za-z]|-?[\d.]+(?:e-?\d+)?")


def font(size: float) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """The font that Pillow includes."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def png(picture: str) -> bytes:
    """Draw an SVG file of `chart_files`.

    Args:
      picture: text of the file; styles are attributes.
    """
    from PIL import Image, ImageDraw

    root = ET.fromstring(picture)
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    sheet = Image.new("RGB", (round(width * SCALE * FINE), round(height * SCALE * FINE)), "#ffffff")
    clips = {clip.get("id"): next(iter(clip)) for clip in root.iter() if _tag(clip) == "clipPath"}
    _draw(root, _Sheet(sheet, ImageDraw.Draw(sheet, "RGBA"), left, top, clips))
    buffer = io.BytesIO()
    size = round(width * SCALE), round(height * SCALE)
    sheet.resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


class _Sheet:
    """A picture that is drawn on, in units of the SVG."""

    def __init__(
        self, image: "Image.Image", draw: "ImageDraw.ImageDraw", left: float, top: float, clips: dict[str | None, ET.Element]
    ):
        self.image, self.draw, self.left, self.top, self.clips = image, draw, left, top, clips
        self.unit = SCALE * FINE

    def at(self, x: float, y: float) -> Point:
        return (x - self.left) * self.unit, (y - self.top) * self.unit


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _draw(element: ET.Element, sheet: _Sheet) -> None:
    tag = _tag(element)
    if tag in ("title", "defs", "clipPath"):
        return
    clip = re.fullmatch(r"url\(#(.*)\)", element.get("clip-path", ""))
    if clip and clip[1] in sheet.clips:
        _clipped(element, sheet, sheet.clips[clip[1]])
        return
    if tag in _ELEMENTS:
        _ELEMENTS[tag](element, sheet)
    for child in element:
        _draw(child, sheet)


def _clipped(element: ET.Element, sheet: _Sheet, window: ET.Element) -> None:
    """Draw an element clipped to a rectangle, through a copy."""
    from PIL import ImageDraw

    copy = sheet.image.copy()
    del element.attrib["clip-path"]
    _draw(element, _Sheet(copy, ImageDraw.Draw(copy, "RGBA"), sheet.left, sheet.top, sheet.clips))
    x, y, width, height = (_number(window, name) for name in ("x", "y", "width", "height"))
    (x0, y0), (x1, y1) = sheet.at(x, y), sheet.at(x + width, y + height)
    box = (round(x0), round(y0), round(x1), round(y1))
    sheet.image.paste(copy.crop(box), box[:2])


def _number(element: ET.Element, name: str, default: float = 0.0) -> float:
    return float(element.get(name, default))


def _colour(element: ET.Element, name: str, default: str) -> tuple[int, ...] | None:
    """Fill or stroke with its opacity; None for 'none'."""
    from PIL import ImageColor

    value = element.get(name, default)
    if value == "none":
        return None
    return (*ImageColor.getrgb(value)[:3], round(255 * _number(element, f"{name}-opacity", 1.0)))


def _rect(element: ET.Element, sheet: _Sheet) -> None:
    x, y, width, height = (_number(element, name) for name in ("x", "y", "width", "height"))
    fill, stroke = _colour(element, "fill", "#000000"), _colour(element, "stroke", "none")
    line = round(_number(element, "stroke-width", 1.0) * sheet.unit) if stroke else 0
    corners = (*sheet.at(x, y), *sheet.at(x + width, y + height))
    sheet.draw.rounded_rectangle(corners, _number(element, "rx") * sheet.unit, fill, stroke, line)


def _circle(element: ET.Element, sheet: _Sheet) -> None:
    x, y, r = (_number(element, name) for name in ("cx", "cy", "r"))
    sheet.draw.ellipse((*sheet.at(x - r, y - r), *sheet.at(x + r, y + r)), _colour(element, "fill", "#000000"))


def _line(element: ET.Element, sheet: _Sheet) -> None:
    ends = [(_number(element, "x1"), _number(element, "y1")), (_number(element, "x2"), _number(element, "y2"))]
    _stroke(element, sheet, ends)


def _path(element: ET.Element, sheet: _Sheet) -> None:
    for points, closed in _outlines(element.get("d", "")):
        fill = _colour(element, "fill", "#000000")
        if fill and len(points) > 2:
            sheet.draw.polygon([sheet.at(*p) for p in points], fill)
        _stroke(element, sheet, [*points, points[0]] if closed else points)


def _outlines(d: str) -> list[tuple[list[Point], bool]]:
    """Lines of a path of M, L, H, V, h, v, l and Z: points, and whether they are closed."""
    out: list[tuple[list[Point], bool]] = []
    points: list[Point] = []
    tokens = _TOKEN.findall(d)
    command, i = "M", 0
    while i < len(tokens):
        if tokens[i].isalpha():
            command, i = tokens[i], i + 1
            if command in "Zz":
                out.append((points, True))
                points = []
            elif command == "M" and points:
                out.append((points, False))
                points = []
            continue
        x, y = points[-1] if points else (0.0, 0.0)
        value = float(tokens[i])
        if command in "HhVv":
            across = command in "Hh"
            new = value + (0.0 if command.isupper() else x if across else y)
            points.append((new, y) if across else (x, new))
            i += 1
        else:
            other = float(tokens[i + 1])
            points.append((value, other) if command.isupper() else (x + value, y + other))
            i += 2
    return out + ([(points, False)] if points else [])


def _stroke(element: ET.Element, sheet: _Sheet, points: Sequence[Point]) -> None:
    colour = _colour(element, "stroke", "none")
    if colour is None:
        return
    width = _number(element, "stroke-width", 1.0) * sheet.unit
    pixels = [sheet.at(*point) for point in points]
    if all(math.dist(pixels[0], point) == 0 for point in pixels[1:]):  # a dot of a line without length and round caps
        x, y = pixels[0]
        sheet.draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), colour)
        return
    dashes = [float(part) * sheet.unit for part in element.get("stroke-dasharray", "").replace(",", " ").split()]
    for piece in _dashed(pixels, dashes) if dashes else [pixels]:
        sheet.draw.line(piece, colour, max(1, round(width)), "curve" if len(piece) > 2 else None)


def _dashed(points: Sequence[Point], dashes: Sequence[float]) -> list[list[Point]]:
    """A line as its dashes."""
    out: list[list[Point]] = [[points[0]]]
    at, left = 0, dashes[0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = math.dist((x0, y0), (x1, y1))
        done = 0.0
        while length - done > left:
            done += left
            place = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if at % 2 == 0:
                out[-1].append(place)
            else:
                out.append([place])
            at += 1
            left = dashes[at % len(dashes)]
        left -= length - done
        if at % 2 == 0:
            out[-1].append((x1, y1))
    return [piece for piece in out if len(piece) > 1]


def _text(element: ET.Element, sheet: _Sheet) -> None:
    from PIL import Image, ImageDraw

    content = (element.text or "").translate(PLAIN)
    if not content:
        return
    x, y = _number(element, "x"), _number(element, "y")
    size, fill = _number(element, "font-size", 12.0) * sheet.unit, _colour(element, "fill", "#000000")
    anchor = {"middle": "ms", "end": "rs"}.get(element.get("text-anchor", ""), "ls")
    halo = element.get("stroke")
    around = round(1.5 * sheet.unit) if halo else 0
    turned = re.fullmatch(r"rotate\(-90 ([-\d.]+) ([-\d.]+)\)", element.get("transform", ""))
    if not turned:
        sheet.draw.text(sheet.at(x, y), content, fill, font(size), anchor=anchor, stroke_width=around, stroke_fill=halo)
        return
    length = math.ceil(sheet.draw.textlength(content, font(size)))
    strip = Image.new("L", (length + 2, math.ceil(1.6 * size)), 0)
    ImageDraw.Draw(strip).text((0, 1.2 * size), content, 255, font(size), anchor="ls")
    strip = strip.rotate(90, expand=True)
    left, bottom = sheet.at(x, y)
    above = {"ms": length / 2, "rs": 0.0}.get(anchor, length)  # the text runs upwards
    sheet.image.paste((fill or (0, 0, 0))[:3], (round(left - 1.2 * size), round(bottom - above)), strip)


def _image(element: ET.Element, sheet: _Sheet) -> None:
    from PIL import Image

    data = base64.b64decode(element.get("href", "").partition("base64,")[2])
    x, y, width, height = (_number(element, name) for name in ("x", "y", "width", "height"))
    size = round(width * sheet.unit), round(height * sheet.unit)
    picture = Image.open(io.BytesIO(data)).convert("RGBA").resize(size, Image.Resampling.NEAREST)
    left, top = sheet.at(x, y)
    sheet.image.paste(picture, (round(left), round(top)), picture)


_ELEMENTS = {"rect": _rect, "circle": _circle, "line": _line, "path": _path, "text": _text, "image": _image}
