"""Which test images cells disagree on."""

import math

import numpy as np

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.report import svg, words
from cnn_jax.report.plots.figure import Figure, Row, clip

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
    size, left = 30, 14 + 7 * (4 + min(40, max(len(c.label) for c in shown)))  # the name, and a number behind it
    width, top = left + size * len(shown) + 10, 26
    peak = np.nanmax(between)
    if not peak > 0:
        return None
    body = []
    for i, a in enumerate(shown):
        body.append(
            svg.text(left - 8, top + size * i + 19, f"{clip(a.label, 40)}  {i + 1}", anchor="end", class_="tick strong")
        )
        body.append(svg.text(left + size * (i + 0.5), top - 8, i + 1, anchor="middle", class_="tick strong"))
        for j, b in enumerate(shown):
            value = between[i, j]
            title = f"{a.label} and {b.label}: a run of each disagree on {words.percent(value)} of the images"
            strength = float(value / peak) if np.isfinite(value) else 0.0
            box = svg.tag(
                "rect",
                class_="heat",
                x=left + size * j,
                y=top + size * i,
                width=size - 2,
                height=size - 2,
                rx=3,
                fill_opacity=round(0.06 + 0.94 * strength, 3),
            )
            label = svg.text(
                left + size * (j + 0.5) - 1,
                top + size * i + 18,
                f"{100 * value:.1f}" if np.isfinite(value) else "–",
                anchor="middle",
                class_="in-heat dark" if strength > 0.55 else "in-heat",
            )
            body.append(
                svg.tag("g", svg.tag("title", svg.escape(title)) + box + label, class_="pair", data_a=i, data_b=j, tabindex=0)
            )
    picture = svg.picture(max(width, 360), top + size * len(shown) + 6, body, "disagreement between cells")
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
