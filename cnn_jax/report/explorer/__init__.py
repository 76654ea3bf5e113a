"""The section "Try a network": trained networks of a sweep that run in the page, on images that are drawn or picked."""

import base64
import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.lowering import Op
from cnn_jax.report import pictures, svg, words
from cnn_jax.report.explorer import forward, kept, static
from cnn_jax.report.explorer.packing import halved, pack, values

BUDGET = 4_000_000  # characters of base64, of all networks of a page
PICKED = 60  # images to pick from


@dataclasses.dataclass(frozen=True)
class Network:
    """The best run of a cell, ready for the page."""

    cell: stats.Cell
    record: stats.Record
    ops: tuple[Op, ...]
    bytes: int = 4  # of a parameter

    @property
    def size(self) -> int:
        """Characters of base64."""
        return values(self.ops) * self.bytes * 4 // 3


def block(folders: Sequence[Path], images: dict[str, pictures.Images], analysis: stats.Analysis) -> str:
    """The markup with everything it needs; '' where no parameters or images were kept."""
    records = [r for c in analysis.cells for r in c.done if r.get("data")]
    found = images.get(records[0]["data"]["checksum"]) if records else None
    if found is None or not found.class_names:
        return ""
    shape = next(iter(found.examples.values()))[0].shape
    networks = _within_budget(folders, analysis, found, shape)
    if not networks:
        return ""
    data = {
        "shape": shape,
        "classes": found.class_names,
        "images": _images(found, shape, records),
        "cells": [_cell(network, analysis) for network in networks],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    left = len(analysis.cells) - len(networks)
    more = (
        f" {words.count(left, 'cell')} without kept parameters, or beyond the size of this page, {_are(left)} left out."
        if left
        else ""
    )
    note = (
        "Draw with the mouse or a finger, or pick an image. The trained networks of this sweep answer in this page, by the run "
        "of each cell that is best in validation. Point at a map, or move over it with the arrow keys, to see the products "
        f"behind a value.{more}"
    )
    source = "".join(
        resources.files(__name__).joinpath(name).read_text(encoding="utf-8") for name in ("engine.js", "explorer.js")
    )
    style = resources.files(__name__).joinpath("explorer.css").read_text(encoding="utf-8")
    return (
        f"<style>{style}</style><h2>Try a network</h2>{svg.tag('p', svg.escape(note), class_='note')}"
        f'<div class="explorer">{static.kernels(networks[0].ops, networks[0].cell.label)}</div>'
        f'<script type="application/json" class="explorer-data">{text}</script><script>{{{source}}}</script>'
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _within_budget(
    folders: Sequence[Path], analysis: stats.Analysis, images: pictures.Images, shape: tuple[int, ...]
) -> list[Network]:
    """The networks of the best cells that fit into the page together, in half precision if more do so without other answers."""
    found = []
    for cell in analysis.cells:
        best = max(cell.runs(analysis.metric), key=lambda r: r[analysis.metric])
        network = _network(folders, cell, best, shape, len(images.class_names))
        if network:
            found.append(network)
        if sum(one.size for one in found) > 2 * BUDGET:
            break
    if sum(one.size for one in found) <= BUDGET:
        return found
    stored = [image for image, _ in (*images.test.values(), *images.picked.values())]
    stored += [image for examples in images.examples.values() for image in examples]
    images_NHWC = np.array([image for image in stored if image.shape == tuple(shape)])
    out, size = [], 0
    for network in found:
        if _same_answers(network.ops, network.record, images_NHWC):
            network = dataclasses.replace(network, bytes=2)
        if size + network.size <= BUDGET:
            size += network.size
            out.append(network)
    return out


def _same_answers(ops: Sequence[Op], record: stats.Record, images_NHWC: np.ndarray) -> bool:
    """Whether half precision leaves the class of every stored image as it is."""
    if not len(images_NHWC) or not all(np.isfinite(a).all() for op in halved(ops) for a in op.arrays.values()):
        return False
    x_NHWC = kept.normalization(record)(images_NHWC)
    single, half = (forward.run(steps, x_NHWC).argmax(axis=-1) for steps in (ops, halved(ops)))
    return bool((single == half).all())


def _network(
    folders: Sequence[Path], cell: stats.Cell, record: stats.Record, shape: tuple[int, ...], classes: int
) -> Network | None:
    """The run's network with its parameters, if it has some that fit into the page."""
    if (record.get("params") or 0) * 2 * 4 // 3 > BUDGET:
        return None
    ops = kept.steps(folders, record, shape, classes)
    return Network(cell, record, ops) if ops else None


def _cell(network: Network, analysis: stats.Analysis) -> JsonObject:
    packed = pack(network.ops, network.bytes)
    units, record = words.units(analysis), network.record
    return {
        "label": network.cell.label, "trial": record["trial"], "seed": record["config"]["seed"],
        "value": f"{units.value(record[analysis.metric])} {units.noun}", "steps": packed.steps, "parameters": packed.parameters,
        "bytes": packed.bytes,
        "normalization": dataclasses.asdict(kept.normalization(record)),
    }  # fmt: skip


def _images(found: pictures.Images, shape: tuple[int, ...], records: Sequence[stats.Record]) -> list[dict[str, Any]]:
    """A training image of each class, then test images: right in all runs, in some, in none."""
    share = stats.share_right(records)
    picked = [(images[0], label, f"training image of class {label}") for label, images in found.examples.items()]
    for i, (image, label) in sorted((found.picked | found.test).items(), key=lambda item: -share.get(item[0], 0.0)):
        of_runs = f": right in {100 * share[i]:.0f} % of runs" if i in share else ""
        picked.append((image, label, f"test image {i} of class {label}{of_runs}"))
    return [
        {"pixels": base64.b64encode(np.ascontiguousarray(image).tobytes()).decode(), "label": label, "name": name}
        for image, label, name in picked[:PICKED]
        if image.shape == tuple(shape)
    ]
