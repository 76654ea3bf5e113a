"""SVG pictures of the page: windows on an image, parameters as areas, values with intervals."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnn_jax import stats
from cnn_jax.report import pictures, svg, tiles

if TYPE_CHECKING:
    from cnn_jax.chapter.looks import Looks

_SIDE = 236  # pixels of a drawn image
_GRID = 40  # maximum positions along an axis for drawing single ones
_SERIES = ("c0", "c1", "c2", "c3")
Series = tuple[str, Sequence[stats.Estimate]]  # its name, and a value per position


def _picture(tile: tiles.Tile, x: float, y: float, width: float, height: float) -> str:
    return svg.tag(
        "image", href=pictures.png(tile), x=float(x), y=float(y), width=float(width), height=float(height),
        preserveAspectRatio="none", style="image-rendering:pixelated",
    )  # fmt: skip


def _grid(x: float, y: float, columns: int, rows: int, cell: float) -> str:
    if max(columns, rows) > _GRID:
        return ""
    lines = [f"M{x + i * cell:g} {y:g}v{rows * cell:g}" for i in range(columns + 1)]
    lines += [f"M{x:g} {y + i * cell:g}h{columns * cell:g}" for i in range(rows + 1)]
    return svg.tag("path", d="".join(lines), class_="cells")


def _box(x: float, y: float, width: float, height: float, class_: str) -> str:
    return svg.tag("rect", x=float(x), y=float(y), width=float(width), height=float(height), class_=f"window {class_}")


def windows(looks: "Looks", padding: str, stride: int) -> str:
    """Draw the image with its first two windows and the last one, and the output with their results.

    Pixels outside all windows are red; padding is outlined around the image.
    """
    found = looks.maps[padding, stride]
    (rows, columns), k = looks.image_HWC.shape[:2], looks.kernel_size
    low, high = found.pads
    cell = _SIDE / (max(rows, columns) + low + high)
    out_rows, out_columns = found.values.shape
    x0, y0 = 4.0, 4.0
    left, top = x0 + low * cell, y0 + low * cell
    body = [_picture(tiles.image(looks.image_HWC), left, top, columns * cell, rows * cell)]
    body.append(_grid(x0, y0, columns + low + high, rows + low + high, cell))
    if low + high:
        body.append(svg.tag("rect", x=left, y=top, width=columns * cell, height=rows * cell, class_="border"))
    used = [(n - 1) * stride + k for n in (out_rows, out_columns)]
    over = (rows + low + high - used[0], columns + low + high - used[1])
    if over[0] or over[1]:
        h, w = (rows + low + high) * cell, (columns + low + high) * cell
        d = f"M{x0:g} {y0:g}h{w:g}v{h:g}h{-w:g}zM{x0:g} {y0:g}v{used[0] * cell:g}h{used[1] * cell:g}v{-used[0] * cell:g}z"
        body.append(svg.tag("path", d=d, class_="unseen", fill_rule="evenodd"))
    at = x0 + (columns + low + high) * cell + 34
    body.append(svg.text(at - 17, y0 + (rows + low + high) * cell / 2 + 5, "→", anchor="middle", class_="tick"))
    top_value = tiles.robust_top(found.values)
    body.append(_picture(tiles.diverging(found.values, top_value), at, y0, out_columns * cell, out_rows * cell))
    body.append(_grid(at, y0, out_columns, out_rows, cell))
    places = [((0, 0), "c1"), ((0, min(1, out_columns - 1)), "c2"), ((out_rows - 1, out_columns - 1), "c5")]
    for (i, j), class_ in places:
        body.append(_box(x0 + j * stride * cell, y0 + i * stride * cell, k * cell, k * cell, class_))
        body.append(_box(at + j * cell, y0 + i * cell, cell, cell, class_))
    height = max(rows + low + high, out_rows) * cell + 8
    label = f"{columns} x {rows} pixels, {k} x {k} windows with stride {stride}: {out_columns} x {out_rows} outputs"
    return svg.picture(at + max(out_columns * cell, 40) + 4, height, body, label)


def formula(looks: "Looks", padding: str, stride: int) -> str:
    """'n = 28, k = 3, s = 2: floor((28 − 3)/2) + 1 = 13'; for a non-square image, its height."""
    found = looks.maps[padding, stride]
    n, k, p = looks.image_HWC.shape[0], looks.kernel_size, sum(found.pads)
    whole = f"({n} + {p} − {k})" if p else f"({n} − {k})"
    added = f", padding {padding} ({found.pads[0]} + {found.pads[1]})" if p else ""
    return f"n = {n}, k = {k}, s = {stride}{added}: floor({whole}/{stride}) + 1 = {found.values.shape[0]}"


def areas(conv: int, connections: int, dense: int) -> str:
    """Draw squares for the parameters of the dense layer, its non-zero entries, and the parameters of the convolution."""
    side = 190.0
    body = []
    for count, class_ in ((dense, "c7"), (connections, "c1"), (conv, "c0")):
        s = max(side * math.sqrt(count / dense), 1.5)
        body.append(svg.tag("rect", x=4.0, y=4.0 + side - s, width=s, height=s, class_=f"area {class_}"))
    y = 30.0
    for count, what, class_ in (
        (dense, "weights and biases of the dense layer", "c7"), (connections, "of them not zero by construction", "c1"),
        (conv, "parameters of the convolution", "c0"),
    ):  # fmt: skip
        body.append(svg.tag("rect", x=side + 22, y=y - 11, width=13, height=13, class_=f"area {class_}"))
        body.append(svg.text(side + 42, y, f"{count:,}"))
        body.append(svg.text(side + 42, y + 17, what, class_="tick"))
        y += 52
    return svg.picture(side + 290, side + 8, body, f"{dense:,} parameters of a dense layer, {conv:,} of the convolution")


def values(places: Sequence[str], series: Sequence[Series], axis: str, scale: float = 100.0, zero: float | None = None) -> str:
    """Plot values with intervals at `places`, a colour per series; `zero` is the position of a reference line."""
    width, height, left = 420.0, 236.0, 46.0
    every = [v for _, found in series for e in found for v in (e.value, e.low, e.high)] + ([zero] if zero is not None else [])
    y = svg.Scale.around([scale * v for v in every], height - 40, 26)
    x = svg.Scale(-0.5, len(places) - 0.5, left, width - 8)
    body = svg.left_axis(y, left, width - 8, lambda v: f"{v:g}".replace("-", "−"), axis)
    if zero is not None:
        body.append(svg.tag("line", class_="zero", x1=left, x2=width - 8, y1=y(scale * zero), y2=y(scale * zero)))
    for i, place in enumerate(places):
        body.append(svg.text(x(i), height - 22, place, anchor="middle", class_="tick"))
    for s, (name, found) in enumerate(series):
        shift = 7.0 * (s - (len(series) - 1) / 2)
        points = [(x(i) + shift, e) for i, e in enumerate(found) if math.isfinite(e.value)]
        body.append(svg.line([(at, y(scale * e.value)) for at, e in points], _SERIES[s]))
        for at, e in points:
            low, high = (y(scale * bound) if math.isfinite(bound) else math.nan for bound in (e.low, e.high))
            body.append(svg.whisker(at, low, y(scale * e.value), high, _SERIES[s]))
        if len(series) > 1:
            body.append(svg.tag("rect", x=left + 10 + 150 * s, y=height - 13, width=10, height=10, class_=f"area {_SERIES[s]}"))
            body.append(svg.text(left + 25 + 150 * s, height - 4, name, class_="tick"))
    return svg.picture(width, height, body, f"{axis} of {', '.join(name for name, _ in series)}")


def against_parameters(groups: Sequence[tuple[str, Sequence[tuple[str, int, stats.Estimate]]]], axis: str) -> str:
    """Plot accuracy with its interval against parameters, a colour per kind of network."""
    width, height, left = 500.0, 320.0, 46.0
    points = [point for _, found in groups for point in found]
    y = svg.Scale.around([100 * v for _, _, e in points for v in (e.value, e.low, e.high)], height - 66, 26)
    x = svg.Scale.around([n for _, n, _ in points], left + 24, width - 60, log=True)
    body = svg.left_axis(y, left, width - 8, lambda v: f"{v:g}", axis)
    body += svg.bottom_axis(x, 26, height - 66, lambda v: f"{v:,.0f}", "parameters")
    for s, (name, found) in enumerate(groups):
        ordered = sorted(found, key=lambda point: point[1])
        if len(ordered) > 2:
            body.append(svg.line([(x(n), y(100 * e.value)) for _, n, e in ordered], f"{_SERIES[s]} training"))
        for label, n, e in ordered:
            low, high = (y(100 * bound) if math.isfinite(bound) else math.nan for bound in (e.low, e.high))
            body.append(svg.whisker(x(n), low, y(100 * e.value), high, _SERIES[s]))
            body.append(svg.text(x(n) + 8, y(100 * e.value) + (-8 if s == 0 else 16), label, class_="halo"))
        body.append(svg.tag("rect", x=left + 10 + 110 * s, y=height - 13, width=10, height=10, class_=f"area {_SERIES[s]}"))
        body.append(svg.text(left + 25 + 110 * s, height - 4, name, class_="tick"))
    return svg.picture(width, height, body, f"{axis} against parameters")
