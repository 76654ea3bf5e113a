"""chapter.html: each sentence with its measurement, numbers, verdict and a picture of this run. Works offline."""

from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

import cnn_jax
from cnn_jax import stats
from cnn_jax.chapter import drawings, words
from cnn_jax.chapter.claims import Claim, Number, Part
from cnn_jax.chapter.evidence import Layers
from cnn_jax.chapter.networks import label
from cnn_jax.report import html, page_tables, svg, tiles
from cnn_jax.report import words as report_words
from cnn_jax.report.inside import figure

if TYPE_CHECKING:
    from cnn_jax.chapter.findings import Findings
    from cnn_jax.chapter.looks import Filters

COLOURS = {"holds": "c2", "does not hold": "c3", "undecided": "c7"}
_KERNELS, _MAPS = 32, 16  # maximum number shown


def page(found: "Findings") -> str:
    """Render the page as one HTML file."""
    parts = [(claim.name, claim.name.capitalize(), _section(claim, found)) for claim in found.claims]
    css = html.style("page.css") + html.style("inside.css")
    css += resources.files("cnn_jax.chapter").joinpath("chapter.css").read_text(encoding="utf-8")
    parts.insert(0, ("verdicts", "Verdicts", _verdicts(found)))
    return html.document(f"cnn_jax: the chapter on {found.dataset}", _header(found), parts, _footer(), css)


def _header(found: "Findings") -> str:
    kicker = svg.tag("p", svg.escape(f"Convolution Layers & CNNs, {found.dataset}"), class_="kicker")
    headline = svg.tag("h1", svg.escape(words.headline(found.claims, found.dataset, found.seeds)))
    return f"<header><div>{kicker}{headline}</div></header>"


def _footer() -> str:
    text = "The rows of this page are in chapter.csv, and the networks in the same folder. Methods: docs/chapter.md."
    return f"<footer>{text} cnn_jax {cnn_jax.__version__}.</footer>"


def _verdicts(found: "Findings") -> str:
    rows = [(c.verdict, c.sentence, words.measured(part), _p(part)) for c in found.claims for part in [words.deciding(c)]]
    classes = ["marked" if c.verdict == "holds" else "" for c in found.claims]
    note = (
        "Every number is defined such that the sentence predicts a positive value. Intervals are 95 %: for accuracies over new "
        "seeds and new images, for all others over new seeds on these images. p is Holm-corrected over all numbers here. "
        "A sentence with several numbers holds if all of them do. A number decides if p is at most 5 %. The "
        "deciding number is shown. The rules are the same for all data."
    )
    table = page_tables.table(("verdict", "sentence", "measured", "p"), rows, classes=classes, label="Verdicts", kind="effects")
    return page_tables.heading("Verdicts", note) + table


def _section(claim: Claim, found: "Findings") -> str:
    mark = svg.tag("span", claim.verdict, class_=f"verdict {COLOURS[claim.verdict]}")
    numbers = "".join(svg.tag("li", _part(part), class_=COLOURS[part.verdict]) for part in claim.parts)
    head = svg.tag("h2", svg.escape(claim.sentence)) + svg.tag("p", svg.escape(claim.method), class_="note")
    return head + svg.tag("p", mark) + svg.tag("ul", numbers, class_="numbers") + _PICTURES[claim.name](found)


def _part(part: Part) -> str:
    unit = " points" if isinstance(part, Number) and part.share and part.estimate.n else ""
    p = f", p {_p(part)}" if isinstance(part, Number) and part.estimate.known else ""
    beside = svg.tag("br") + svg.tag("small", svg.escape(part.beside)) if part.beside else ""
    return f"{svg.escape(part.what)}: <b>{svg.escape(words.measured(part))}{unit}</b>{svg.escape(p)}{beside}"


def _p(part: Part) -> str:
    return report_words.p_value(part.p) if isinstance(part, Number) else "–"


def _drawn(*pictures: tuple[str, str]) -> str:
    figures = [svg.tag("figure", picture + svg.tag("figcaption", svg.escape(text))) for picture, text in pictures if picture]
    return svg.tag("div", "".join(figures), class_="drawings")


def _tiles(*figures: str) -> str:
    return svg.tag("div", "".join(figures), class_="tiles")


# ---------------------------------------------------------------------------------------------------------------- pictures


def _see(found: "Findings") -> str:
    networks = found.evidence.networks
    groups = [("cnn", networks.convnets), ("mlp", networks.dense)]
    groups += [("LeNet-5", (networks.lenet,))] if networks.lenet else []
    points = [
        (name, [(label(c).removeprefix(f"{name} "), int(c.fact("params") or 0), found.evidence.interval(c)) for c in cells])
        for name, cells in groups
        if cells
    ]
    text = (
        "Mean test accuracy over the seeds, with its 95 % interval. Labels are filters per layer; an mlp has as "
        "many parameters as the cnn with the same label."
    )
    return _drawn((drawings.against_parameters(points, "test accuracy, %"), text))


def _network(found: "Findings") -> str:
    rows = [
        (
            row.layer,
            "×".join(map(str, row.shape)),
            "×".join(map(str, row.expected_shape)),
            f"{row.params:,}",
            f"{row.expected_params:,}",
        )
        for row in found.rows
    ]
    table = page_tables.table(("layer", "output", "by formula", "parameters", "by formula"), rows, label="Layers")
    picture = tiles.fitted(tiles.image(found.looks.image_HWC), 140)
    shown = [figure(picture, "the first test image", f"<b>{svg.escape(found.looks.label)}</b> the image")]
    for name, values in found.looks.features.items():
        if values.ndim == 3:
            top = tiles.robust_top(values)
            maps = [tiles.fitted(tiles.sequential(values[..., c], top), 56) for c in range(min(values.shape[-1], _MAPS))]
            shown.append(
                figure(
                    tiles.montage(maps, 4),
                    f"maps of {name}",
                    f"<b>{svg.escape(name)}</b> first {len(maps)} of {values.shape[-1]}",
                )
            )
    return table + _tiles(*shown)


def _size(found: "Findings") -> str:
    looks = found.looks
    drawn = [(p, s) for p, s in looks.maps if p == "valid"] + [("same", 1)]
    note = (
        "Left: the image with its first two windows and the last one; red pixels are outside all windows. Right: output of one "
        "filter of this run, with a square per window."
    )
    return svg.tag("p", note, class_="note") + _drawn(
        *((drawings.windows(looks, p, s), drawings.formula(looks, p, s)) for p, s in drawn if (p, s) in looks.maps)
    )


def _padding(found: "Findings") -> str:
    looks = found.looks
    shown = [padding for padding, stride in looks.maps if stride == 1]
    return _drawn(*((drawings.windows(looks, p, 1), f"{p}: {drawings.formula(looks, p, 1)}") for p in shown))


def _stride(found: "Findings") -> str:
    scale = max(2, 168 // max(found.looks.image_HWC.shape[:2]))
    figures = [
        figure(
            _enlarged(tiles.image(found.looks.image_HWC), scale),
            "the image",
            f"<b>the image</b> {_size_of(found.looks.image_HWC)}",
        )
    ]
    for (padding, stride), one in found.looks.maps.items():
        if padding == "valid":
            tile = tiles.diverging(one.values, tiles.robust_top(one.values))
            figures.append(
                figure(_enlarged(tile, scale), f"map with stride {stride}", f"<b>stride {stride}</b> {_size_of(one.values)}")
            )
    return _tiles(*figures)


def _enlarged(tile: tiles.Tile, factor: int) -> tiles.Tile:
    return np.kron(tile, np.ones((factor, factor, 1), np.uint8))


def _size_of(values: np.ndarray) -> str:
    return f"{values.shape[0]}×{values.shape[1]}"


def _dense(found: "Findings") -> str:
    dense = found.dense
    kernel = dense.kernel_KKC.mean(-1)
    top = float(np.abs(dense.drawn.matrix).max())
    matrix = tiles.diverging(dense.drawn.matrix, top)
    inputs = "×".join(map(str, dense.input_shape))
    figures = (
        figure(tiles.fitted(tiles.diverging(kernel, float(np.abs(kernel).max())), 120), "kernel of the first filter",
            f"<b>kernel</b> {dense.kernel_KKC.size} weights"),
        figure(
            _enlarged(matrix, max(1, 320 // max(matrix.shape[:2]))), "matrix of the first filter",
            f"<b>the same as a matrix</b> of {matrix.shape[0]}×{matrix.shape[1]} for a crop: a column per output, a row per "
            "pixel; blue is negative, orange positive, white 0",
        ),
    )  # fmt: skip
    text = f"Areas are proportional to parameters: {dense.layer} from {inputs} to {'×'.join(map(str, dense.output_shape))}."
    if dense.input_shape != found.looks.image_HWC.shape:
        text += " Only the centre of the image is used: the matrix for the whole image would be too large."
    return _tiles(*figures) + _drawn((drawings.areas(dense.conv_params, dense.connections, dense.dense_params), text))


def _filters(found: "Filters", *, before: bool = False) -> str:
    figures = []
    for i, channel in enumerate(found.channels):
        sides = [(found.patches[i], "trained")] + ([(found.before[i], "untrained")] if before else [])
        montages = [
            (tiles.montage([tiles.fitted(tiles.image(p.pixels, p.inside), 40) for p in patches], 3), what)
            for patches, what in sides
        ]
        (first, what), *more = montages
        text = f"<b>filter {channel}</b>{' trained, and before training' if before else ''}"
        figures.append(figure(first, f"patches that excite filter {channel} of {found.layer}, {what}", text, *more))
    return svg.tag("h3", svg.escape(found.layer)) + svg.tag("div", "".join(figures), class_="tiles cards")


def _detectors(found: "Findings") -> str:
    return _filters(found.looks.filters[0], before=True)


def _patterns(found: "Findings") -> str:
    filters = found.looks.filters
    return _filters(filters[len(filters) // 2]) + _probes(found)


def _objects(found: "Findings") -> str:
    return _filters(found.looks.filters[-1]) + _by_layer(
        found, [("trained", "purity"), ("untrained", "purity_untrained")], "share of the most frequent class, %"
    )


def _probes(found: "Findings") -> str:
    return _by_layer(found, [("trained", "probe"), ("untrained", "probe_untrained")], "probe accuracy, %")


def _by_layer(found: "Findings", series: list[tuple[str, str]], axis: str) -> str:
    """Plot a measure by layer, for the largest deep convnet."""
    cells = found.evidence.networks.deep or found.evidence.networks.convnets
    places = found.evidence.places(cells[-1], series[0][1])
    drawn = [
        (name, [found.evidence.over(cells[-1:], lambda x, m=measure, p=place: x.get(m, p)) for place in places])  # type: ignore[misc]
        for name, measure in series
    ]
    return _drawn((drawings.values(places, drawn, axis), f"{label(cells[-1])}: mean over seeds, 95 % interval."))


def _edges(found: "Findings") -> str:
    kernels = found.looks.kernels
    rows = []
    for values, scores, what in (
        (kernels.trained, kernels.scores, "trained"),
        (kernels.random, kernels.random_scores, "before training"),
    ):
        small = [
            figure(tiles.fitted(_kernel(kernel, kernels.top), 46), f"kernel, {what}", f"{score:.2f}")
            for kernel, score in zip(values[:_KERNELS], scores, strict=False)
        ]
        rows.append(svg.tag("h3", f"{what.capitalize()}, mean {scores.mean():.3f}") + _tiles(*small))
    return "".join(rows) + svg.tag("p", "Best first; R squared below each kernel. All have the same scale.", class_="note")


def _kernel(kernel_KKC: np.ndarray, top: float) -> tiles.Tile:
    if kernel_KKC.shape[-1] == 3:
        return tiles.image(0.5 + 0.5 * kernel_KKC / (top or 1.0))
    return tiles.diverging(kernel_KKC.mean(-1), top)


def _relu(found: "Findings") -> str:
    cells = found.evidence.networks.convnets
    places = [label(cell).removeprefix("cnn ") for cell in cells]

    def of(place: str) -> Callable[[Layers], float]:
        return lambda layers: layers.get("sparsity", layers.place(place))

    drawn = [
        (f"{which} convolution", [found.evidence.over([cell], of(which)) for cell in cells]) for which in ("first", "last")
    ]
    return _drawn((drawings.values(places, drawn, "zeros, %", zero=0.5), "By network; the dashed line is one half."))


def _pooling(found: "Findings") -> str:
    pair = found.evidence.networks.pooling
    shifted = found.looks.shifted
    figures = []
    for i, what in enumerate(("the image", "shifted by a pixel")):
        figures.append(
            figure(
                tiles.fitted(tiles.image(shifted.images[i]), 112),
                what,
                f"<b>{what}</b> classified as {svg.escape(shifted.answers[i])}",
            )
        )
    for name, (a, b) in shifted.maps.items():
        top = tiles.robust_top(np.stack([a, b]))
        tile = tiles.fitted(tiles.diverging(b - a, top), 112)
        share = float(np.abs(b - a).sum() / max(np.abs(a).sum(), 1e-9))
        figures.append(figure(tile, f"change of {name}", f"<b>change of {svg.escape(name)}</b> {100 * share:.0f} % of it"))
    drawn = ""
    if pair is not None:
        places = found.evidence.places(pair[0], "shift")
        series = [
            (name, [found.evidence.over([cell], lambda x, p=place: x.get("shift", p)) for place in places])  # type: ignore[misc]
            for name, cell in zip(("max pooling", "strides"), pair, strict=True)
        ]
        drawn = _drawn((drawings.values(places, series, "same prediction, %"), "By shift in pixels."))
    return _tiles(*figures) + drawn


def _lenet(found: "Findings") -> str:
    pair = found.evidence.networks.lenet_pair
    if pair is None:
        return ""
    rows = []
    for cell in pair:
        e: stats.Estimate = found.evidence.interval(cell)
        interval = f"{100 * e.low:.2f} to {100 * e.high:.2f}" if e.known else "–"
        rows.append((label(cell), f"{cell.fact('params'):,}", f"{100 * e.value:.2f} %", interval, str(len(cell.done))))
    return page_tables.table(("network", "parameters", "test accuracy", "95 % interval", "seeds"), rows, label="LeNet-5")


_PICTURES: dict[str, Callable[["Findings"], str]] = {
    "see": _see, "network": _network, "size": _size, "padding": _padding, "stride": _stride, "dense": _dense, "fewer": _see,
    "detectors": _detectors, "edges": _edges, "patterns": _patterns, "objects": _objects, "relu": _relu, "pooling": _pooling,
    "lenet": _lenet,
}  # fmt: skip
