"""The block "What was trained": the question, what was varied and what was fixed, the networks, and images of the data."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cnn_jax import stats
from cnn_jax.aliases import JsonObject
from cnn_jax.report import pictures, svg, words
from cnn_jax.report.plots.figure import clip
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, added_defaults

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep

LEVELS = 12  # of a factor that are listed
EXAMPLE_BYTES = 150_000  # of the page, for the example images of one data set
SETS = 4  # data sets whose images are shown
_SECTIONS = {"model": "network", "train": "training", "data": "data"}
_ORDER = [field.name for part in (ModelConfig, TrainConfig, DataConfig) for field in dataclasses.fields(part)]


def block(sweep: "Sweep", analysis: stats.Analysis) -> str:
    """The markup; each part is left out where its files are missing."""
    abouts = [about for c in sweep.commands if isinstance(about := c.get("about"), dict)]
    questions = dict.fromkeys(str(a["question"]) for a in abouts if a.get("question"))
    lead = "".join(svg.tag("p", svg.escape(question), class_="question") for question in questions)
    drawn = _networks(abouts[-1].get("networks") if abouts else None)
    # Side by side where there is room.
    setup = svg.tag("div", _settings(sweep.records, analysis.design) + (f"<div>{drawn}</div>" if drawn else ""), class_="setup")
    return f"<h2>What was trained</h2>{lead}{setup}{_examples(sweep)}"


# --------------------------------------------------------------------------------------------------------------- settings


def _settings(records: Sequence[stats.Record], design: stats.Design) -> str:
    rows = [("varied", _varied(design))]
    fixed = _fixed(design)
    rows += [(_SECTIONS[section], ", ".join(parts)) for section, parts in fixed.items()]
    rows += [("images", line) for line in _counts(records)]
    items = "".join(f"<div><dt>{svg.escape(k)}</dt><dd>{svg.escape(v)}</dd></div>" for k, v in rows if v)
    return f'<dl class="settings">{items}</dl>'


def _varied(design: stats.Design) -> str:
    parts = []
    for name, levels in design.factors.items():
        listed = ", ".join(map(stats.text, levels[:LEVELS]))
        more = f" and {len(levels) - LEVELS} more" if len(levels) > LEVELS else ""
        parts.append(f"{name} {listed}{more}")
    parts += [f"{name} (with {factor})" for name, factor in design.aliases.items()]
    counts = [len(c.seeds) for c in design.cells]
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"{words.count(high, 'seed')} per cell" if low == high else f"{low} to {high} seeds per cell")
    return "; ".join(parts)


def _fixed(design: stats.Design) -> dict[str, list[str]]:
    """Per part of a trial's configuration the settings that all cells share, as '--help' names them."""
    seen: dict[str, dict[str, set[stats.Level]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    empty: JsonObject = {"model": {"name": ""}, "data": {}, "train": {}}
    for cell in design.cells:
        for section, part in cell.config.items():
            if isinstance(part, Mapping):
                for name, value in stats.flat(empty | {section: part}).items():
                    if section == "model" or name != "model":
                        seen[section][name].add(value)
    usual = added_defaults(TrainConfig) | {"metrics": ()}
    unused = {name for name, values in seen["train"].items() if name in usual and values == {usual[name]}}
    unused |= set() if seen["train"]["optimizer"] & {"sgd", "rmsprop"} else {"momentum"}
    shared = {
        section: {n: next(iter(v)) for n, v in seen[section].items() if len(v) == 1 and v != {None} and n not in unused}
        for section in _SECTIONS
    }
    return {
        section: [f"{name} {stats.text(values[name])}" for name in sorted(values, key=_place)]
        for section, values in shared.items()
    }


def _place(name: str) -> int:
    """Sort key of a setting: the model first, then in order of the configuration, options of models last."""
    return -1 if name == "model" else _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _counts(records: Sequence[stats.Record]) -> list[str]:
    lines = dict.fromkeys(
        f"{r['config']['data']['dataset']}: {d['train']:,} to train on, {d['validation']:,} to validate on, "
        f"{d['test']:,} to test on"
        for r in records
        if (d := r.get("data"))
    )
    return [*list(lines)[:SETS], *([f"and {len(lines) - SETS} more"] if len(lines) > SETS else [])]


# --------------------------------------------------------------------------------------------------------------- networks


def _networks(found: object) -> str:
    """A list of blocks for each network that was stored; the file is untrusted, so invalid entries are left out."""
    out = []
    for network in found if isinstance(found, list) else ():
        try:
            out.append(_network(network))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue
    return "".join(out)


def _network(network: JsonObject) -> str:
    start = {"kind": "input", "detail": clip(network["dataset"], 18), "shape": network["input_shape"], "params": 0}
    blocks = [start, *network["blocks"]]
    sizes = [math.prod(block["shape"][:-1]) ** 0.5 for block in blocks if len(block["shape"]) > 1]
    items = "".join(svg.tag("li", _block(block, max(sizes, default=1.0))) for block in blocks)
    if network["left_out"]:
        items += svg.tag("li", svg.escape(f"and {network['left_out']} more"))
    name = " ".join(filter(None, (network["model"], network["settings"])))
    costs = f"{network['params']:,} parameters, {network['macs']:,} multiply-accumulates per image"
    caption = f"The first network of the sweep: {name}; {costs}."
    label = f"layers of {network['model']}"
    return svg.tag("p", svg.escape(caption), class_="note") + svg.tag("ol", items, class_="network", aria_label=label)


def _block(block: JsonObject, largest: float) -> str:
    shape = [int(n) for n in block["shape"]]
    lines = [svg.tag("b", svg.escape(block["kind"]))]
    if block["detail"]:
        lines.append(svg.tag("span", svg.escape(block["detail"])))
    lines.append(svg.tag("span", svg.escape("×".join(map(str, shape))), class_="shape"))
    if block["params"]:
        lines.append(svg.tag("span", f"{words.short(int(block['params']))} parameters"))
    return _volume(shape, largest, str(block["kind"])) + "".join(lines)


def _volume(shape: Sequence[int], largest: float, kind: str) -> str:
    """A box as high as its image, as deep as it has channels (logarithmic); a column for values without spatial axes."""
    colour = {"input": "c7", "conv": "c0", "dense": "c3"}.get(kind, "c0" if "conv" in kind or kind == "residual" else "c2")
    if len(shape) > 1:
        side = 14 + 34 * math.prod(shape[:-1]) ** 0.5 / largest
        depth = min(26.0, 3 + 2.6 * math.log2(shape[-1]))
    else:
        side, depth = 0.0, 0.0
    height = side or min(52.0, 10 + 4.5 * math.log2(shape[-1]))
    width, slant = side or 8.0, 0.5 * depth
    left, bottom = (88 - width - depth) / 2, 32 + (height + slant) / 2
    top, right = bottom - height, left + width
    d = f"M{left:.1f} {bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}Z"
    if depth:
        d += f"M{left:.1f} {top:.1f}l{depth:.1f} {-slant:.1f}h{width:.1f}l{-depth:.1f} {slant:.1f}Z"
        d += f"M{right:.1f} {bottom:.1f}l{depth:.1f} {-slant:.1f}v{-height:.1f}l{-depth:.1f} {slant:.1f}Z"
    return svg.tag("svg", svg.tag("path", d=d, class_=f"volume {colour}"), viewBox="0 0 88 64", aria_hidden="true")


# ----------------------------------------------------------------------------------------------------------------- images


def _examples(sweep: "Sweep") -> str:
    names = {r["data"]["checksum"]: r["config"]["data"]["dataset"] for r in sweep.records if r.get("data")}
    shown = [(name, sweep.images[checksum]) for checksum, name in names.items() if checksum in sweep.images][:SETS]
    out = []
    for name, images in shown:
        items, size = [], 0
        for label, strip in images.examples.items():
            address = pictures.png(pictures.strip(strip))
            size += len(address)
            if size > EXAMPLE_BYTES:
                break
            what = f"{words.count(len(strip), 'training image')} of class {label}"
            items.append(picture(address, strip[0].shape, what, svg.escape(label)))
        if items:
            out.append(svg.tag("p", svg.escape(f"Training images of {name}, by class."), class_="note"))
            out.append(svg.tag("div", "".join(items), class_="gallery examples"))
    return "".join(out)


def picture(address: str, shape: Sequence[int], what: str, caption: str) -> str:
    """An image with its caption, which is markup; `what` is its text alternative."""
    pixels = "pixels" if shape[0] <= 40 else None  # enlarged without blurring
    image = svg.tag("img", src=address, alt=what, class_=pixels)
    return svg.tag("figure", image + svg.tag("figcaption", caption))
