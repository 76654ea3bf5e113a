"""The padding card of a sweep: errors and answers under every shift per padding mode, and measures of the border."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax import stats
from cnn_jax.analysis import padding_card
from cnn_jax.analysis.lines import Line
from cnn_jax.analysis.padding_card import PaddingCard
from cnn_jax.program import PROGRAM
from cnn_jax.report import page_tables, pictures, svg, tiles, words
from cnn_jax.report.inside_sweep import measures

FACTOR = "padding"
# Measures that the card shows again, by padding.
MEASURES = ("border_error", "border_noise", "position_noise", "padding_aware", "border_blind", "shift")
SHADES = 64
_MAP = 124  # pixels of the side of a map


def block(folders: Sequence[Path], records: Sequence[stats.Record], lines: Sequence[Line], analysis: stats.Analysis) -> str:
    """The markup; without cards, a line that says how to get them if padding varies, else ''."""
    levels = analysis.design.factors.get(FACTOR, ())
    cards = _cards(folders, records, analysis)
    numbers = measures.panels(lines, FACTOR, levels, MEASURES) if levels else []
    title = "<h3>Padding card</h3>"
    if not cards:
        command = svg.tag("code", svg.escape(f"{PROGRAM} measure {shlex.quote(str(folders[0]))} --padding_card"))
        ask = f"<p class='note'>Errors and answers under every shift, per padding mode: run {command}, then report again.</p>"
        return title + ask if levels else ""
    names = list(cards)
    height, width = cards[names[0]].error_HW.shape
    note = (
        f"Left, the error rate of test images moved by every shift of up to {height // 2} rows and {width // 2} columns, with "
        "blank pixels shifted in, over images whose content stays inside; empty where there are none. Right, "
        "the share of images that keep their answer under circular shifts. The middle is no "
        "shift. Means over networks; numbers with intervals below."
    )
    boxes = "".join(svg.tag("div", picture(name, cards[name])) for name in names)
    more = "".join(svg.tag("div", panel) for panel in numbers)
    rows = [row for name in names for row in _rows(name, cards[name])]
    return (
        title
        + svg.tag("p", svg.escape(note), class_="note")
        + svg.tag("div", boxes, class_="panels measures")
        + svg.tag("p", svg.escape(finding(names, cards)), class_="finding")
        + (svg.tag("div", more, class_="panels measures") if more else "")
        + page_tables.download("padding_card", rows)
    )


def pictures_of(folders: Sequence[Path], records: Sequence[stats.Record], analysis: stats.Analysis) -> list[str]:
    """The pictures of all paddings."""
    return [picture(name, card) for name, card in _cards(folders, records, analysis).items()]


def _cards(folders: Sequence[Path], records: Sequence[stats.Record], analysis: stats.Analysis) -> dict[str, PaddingCard]:
    """The stored cards of some runs, averaged by padding, in order of the levels."""
    trials = [record["trial"] for record in records]
    found = [card for folder in folders for card in padding_card.read(folder, trials)]
    cards = padding_card.by_padding(card for card in found if card.error_HW.shape == found[0].error_HW.shape)
    order = [stats.text(level) for level in analysis.design.factors.get(FACTOR, ())]
    return {
        name: cards[name] for name in sorted(cards, key=lambda name: (name not in order, name in order and order.index(name)))
    }


def finding(names: Sequence[str], cards: dict[str, PaddingCard]) -> str:
    """Share of unchanged answers under circular shifts by one pixel, and under all shifts, per padding."""
    parts = []
    for name in names:
        kept_HW = cards[name].circular_HW
        y, x = kept_HW.shape[0] // 2, kept_HW.shape[1] // 2
        places = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [kept_HW[at] for at in places if at[0] < kept_HW.shape[0] and at[1] < kept_HW.shape[1] and min(at) >= 0]
        all_but_none = np.delete(kept_HW.ravel(), y * kept_HW.shape[1] + x)
        if near:
            parts.append(f"{name} {words.percent(float(np.mean(near)))} and {words.percent(float(all_but_none.mean()))}")
    return f"Same answer after a circular shift by one pixel, and over all shifts: {'; '.join(parts)}." if parts else ""


def picture(name: str, card: PaddingCard) -> str:
    """The two maps of a padding."""
    body = [svg.text(2, 14, f"padding {name[:24]}, {words.count(card.networks, 'network')}", class_="axis")]
    for left, values_HW, title in ((24.0, card.error_HW, "error"), (168.0, card.circular_HW, "same answer")):
        body.append(svg.text(left + _MAP / 2, 34, title, anchor="middle", class_="tick strong"))
        body += _map(values_HW, left, 42.0, f"{title} under every shift, padding {name}")
    width = 256 / 16
    for i in range(16):  # the scale of both maps
        red, green, blue = tiles.palette(16)[i]
        body.append(
            svg.tag("rect", x=24 + width * i, y=198.0, width=width + 0.3, height=8, fill=f"#{red:02x}{green:02x}{blue:02x}")
        )
    body += [svg.text(24 + 128 * i, 220, text, anchor="middle", class_="tick") for i, text in enumerate(("0", "50", "100 %"))]
    return svg.picture(300, 226, body, f"padding card of {name}")


def _map(values_HW: np.ndarray, left: float, top: float, what: str) -> list[str]:
    """A map of shares with its shifts along both axes."""
    height, width = values_HW.shape
    indices = np.where(np.isnan(values_HW), SHADES, np.rint(np.nan_to_num(values_HW) * (SHADES - 1))).astype(np.uint8)
    zoom = max(1, 96 // max(height, width))  # printers smooth small images
    address = pictures.paletted(indices.repeat(zoom, axis=0).repeat(zoom, axis=1), tiles.palette(SHADES))
    place = {"x": left, "y": top, "width": float(_MAP), "height": float(_MAP)}
    options = {"preserveAspectRatio": "none", "style": "image-rendering:pixelated"}
    title = svg.tag("title", svg.escape(what))
    out = [svg.tag("g", title + svg.tag("image", href=address, **place, **options))]
    for shift in sorted({-(width // 2), 0, width - width // 2 - 1}):
        x = left + _MAP * (shift + width // 2 + 0.5) / width
        out.append(svg.text(x, top + _MAP + 14, measures.number(shift), anchor="middle", class_="tick"))
    for shift in sorted({-(height // 2), 0, height - height // 2 - 1}):
        y = top + _MAP * (shift + height // 2 + 0.5) / height
        out.append(svg.text(left - 4, y + 4, measures.number(shift), anchor="end", class_="tick"))
    return out


def _rows(name: str, card: PaddingCard) -> list[dict[str, object]]:
    """A row per shift."""
    height, width = card.error_HW.shape
    return [
        {
            "padding": name, "down": i - height // 2, "right": j - width // 2, "error_on_blank": card.error_HW[i, j],
            "same_answer_on_blank": card.blank_HW[i, j], "same_answer_circular": card.circular_HW[i, j],
        }
        for i in range(height) for j in range(width)
    ]  # fmt: skip
