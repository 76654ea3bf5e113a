"""Which test images cells disagree on."""

import math
from collections.abc import Sequence

import numpy as np

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.report import svg, words
from cnn_jax.report.plots.figure import Figure, Row, clip, in_heat

HEATMAP = 20  # cells of the matrix


def disagreement(analysis: stats.Analysis) -> tuple[Figure, JsonObject] | None:
    """A matrix of how often runs of two cells disagree on a test image; page.js lists the images on which two cells differ.

    None for fewer than two cells, and where no two runs disagree. Also returns its data: per cell the number of runs, and
    for each image with disagreement its correct runs.
    """
    shown, rate = stats.rates(analysis.cells[:HEATMAP])
    if len(shown) < 2:
        return None
    images = rate.shape[1]
    between = (rate @ (1 - rate).T + (1 - rate) @ rate.T) / images
    runs = [len(stats.correct_SN(c)) for c in shown]
    for i, n in enumerate(runs):  # two different runs of one cell: without the pairs of a run with itself
        between[i, i] = between[i, i] * n / (n - 1) if n > 1 else math.nan
    rows: list[Row] = [
        {"a": a.label, "b": b.label, "disagreement": between[i, j], "images_flipped": len(stats.flipped(rate[i], rate[j]))}
        for i, a in enumerate(shown)
        for j, b in enumerate(shown)
    ]
    if not np.nanmax(between) > 0:
        return None
    # On a phone the names stand above the squares: beside them they would leave no room.
    wide, narrow = (_matrix(shown, between, names=names) for names in (True, False))
    listed = svg.tag("ol", "".join(svg.tag("li", svg.escape(c.label)) for c in shown), class_="only-narrow")
    picture = wide + listed + narrow
    varied = np.flatnonzero((rate.min(axis=0) < 1) & (rate.max(axis=0) > 0))
    data = {
        "cells": [c.label for c in shown],
        "runs": runs,
        "images": varied.tolist(),
        "right": np.rint(rate[:, varied] * np.array(runs)[:, None]).astype(int).tolist(),
    }
    more = f" The best {HEATMAP} of {len(analysis.cells)} cells are shown." if len(analysis.cells) > HEATMAP else ""
    note = (
        f"Percent of the {images:,} test images on which a run of one cell and a run of the other disagree; on the diagonal "
        f"two seeds of one cell. A pair no larger than its diagonal differs by seed only. Choose a square to list "
        f"the images on which the two cells differ.{more}"
    )
    return Figure("disagreement", "On which images do cells disagree?", note, [picture], rows, "wide natural"), data


def _matrix(shown: Sequence[stats.Cell], between: np.ndarray, *, names: bool) -> str:
    """Squares, each a button, with names of cells beside their numbers or numbers alone."""
    size, left = 30, 14 + 7 * (4 + min(40, max(len(c.label) for c in shown))) if names else 24
    top, peak = 26, np.nanmax(between)
    body = []
    for i, a in enumerate(shown):
        said = f"{clip(a.label, 40)}  {i + 1}" if names else f"{i + 1}"
        body.append(svg.text(left - 8, top + size * i + 19, said, anchor="end", class_="tick strong"))
        body.append(svg.text(left + size * (i + 0.5), top - 8, i + 1, anchor="middle", class_="tick strong"))
        for j, b in enumerate(shown):
            value = between[i, j]
            title = f"{a.label} and {b.label}: a run of each disagree on {words.percent(value)} of the images"
            opacity = round(0.06 + 0.94 * (float(value / peak) if np.isfinite(value) else 0.0), 3)
            x, y = left + size * j, top + size * i
            box = svg.tag("rect", class_="heat", x=x, y=y, width=size - 2, height=size - 2, rx=3, fill_opacity=opacity)
            number = f"{100 * value:.1f}" if np.isfinite(value) else "–"
            label = svg.text(x + size / 2 - 1, y + 18, number, anchor="middle", class_=in_heat(opacity))
            body.append(
                svg.tag(
                    "g", svg.tag("title", svg.escape(title)) + box + label, class_="pair", data_a=i, data_b=j,
                    tabindex=-1 if i or j else 0, role="button", aria_label=title,
                )
            )  # fmt: skip
    width, height = left + size * len(shown) + 10, top + size * len(shown) + 6
    # Squares of a finger's size: a matrix of many cells scrolls.
    least = f"min-width:{round(0.8 * width)}px;max-width:{2 * width}px"
    fit = {"class_": "only-wide"} if names else {"class_": "only-narrow", "style": least}
    return svg.picture(max(width, 360) if names else width, height, body, "disagreement between cells", role="group", **fit)
