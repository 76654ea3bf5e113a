"""The section "Try a network": trained networks of a sweep that run in the page, on images that are drawn or picked."""

import base64
import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.lowering import Op
from cnn_jax.report import pictures, svg, words
from cnn_jax.report.explorer import forward, kept, static
from cnn_jax.report.explorer.packing import halved, pack, values

BUDGET = 4_000_000  # characters of base64, of all networks of a page
PICKED = 16  # images to pick from, of each kind of test images


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
    factors = _factors(networks, analysis)
    data = {
        "shape": shape,
        "classes": found.class_names,
        "images": _images(found, shape, records),
        "factors": [{"name": name, "levels": levels} for name, levels in factors.items()],
        "cells": [_cell(network, analysis, factors) for network in networks],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    left = len(analysis.cells) - len(networks)
    more = (
        f" {words.count(left, 'cell')} without kept parameters, or beyond the size of this page, {_are(left)} left out."
        if left
        else ""
    )
    note = (
        "Draw with the mouse or a finger, or pick an image. The trained networks run in this page: for each cell, its best run "
        "on validation. A second network can be shown beside the first. Point at a map, or move over it with the arrow "
        f"keys, to see the products behind a value and its receptive field.{more}"
    )
    source = "".join(
        resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
        for name in ("engine.js", "markup.js", "products.js", "explorer.js")
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


def _factors(networks: Sequence[Network], analysis: stats.Analysis) -> dict[str, list[str]]:
    """The factors that the networks differ in, each with their levels."""
    found = {}
    for name, levels in analysis.design.factors.items():
        known = {network.cell.levels[name] for network in networks}
        if len(known) > 1:
            found[name] = [stats.text(level) for level in levels if level in known]
    return found


def _cell(network: Network, analysis: stats.Analysis, factors: dict[str, list[str]]) -> JsonObject:
    packed = pack(network.ops, network.bytes)
    units, record = words.units(analysis), network.record
    return {
        "label": network.cell.label, "trial": record["trial"], "seed": record["config"]["seed"],
        "value": f"{units.value(record[analysis.metric])} {units.noun}", "steps": packed.steps, "parameters": packed.parameters,
        "bytes": packed.bytes, "levels": [at.index(stats.text(network.cell.levels[name])) for name, at in factors.items()],
        "normalization": dataclasses.asdict(kept.normalization(record)),
    }  # fmt: skip


def _images(found: pictures.Images, shape: tuple[int, ...], records: Sequence[stats.Record]) -> list[JsonObject]:
    """A training image of each class, then test images: right in all runs, in some, in none; each kind by classes in turn."""
    share = stats.share_right(records)
    kinds: dict[str, list[tuple[np.ndarray, str, str]]] = {
        "training: one of each class": [
            (images[0], label, f"training image of class {label}") for label, images in found.examples.items()
        ]
    }
    stored = (found.picked | found.test).items()
    for i, (image, label) in sorted(stored, key=lambda item: -share.get(item[0], 0.0)):
        of_runs = f": right in {100 * share[i]:.0f} % of runs" if i in share else ""
        kinds.setdefault(_kind(share.get(i)), []).append((image, label, f"test image {i} of class {label}{of_runs}"))
    return [
        {
            "pixels": base64.b64encode(np.ascontiguousarray(image).tobytes()).decode(),
            "label": label,
            "name": name,
            "group": kind,
        }
        for at, (kind, images) in enumerate(kinds.items())
        for image, label, name in (_in_turn(images)[:PICKED] if at else images)
        if image.shape == tuple(shape)
    ]


def _kind(share_right: float | None) -> str:
    """The kind of a test image by the share of runs that get it right."""
    if share_right is None:
        return "test"
    return f"test: {'all runs are' if share_right == 1 else 'some runs are' if share_right else 'no run is'} right"


def _in_turn(images: Sequence[tuple[np.ndarray, str, str]]) -> list[tuple[np.ndarray, str, str]]:
    """Images with one of each class first, then a second one of each."""
    seen: dict[str, int] = {}
    turns = []
    for one in images:
        turns.append(seen.get(one[1], 0))
        seen[one[1]] = turns[-1] + 1
    return [images[i] for i in np.argsort(turns, kind="stable")]
