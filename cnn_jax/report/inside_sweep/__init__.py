"""The section "Inside" of a report: what the networks of a sweep learned, from its files alone.

Kernels and maps are computed from kept parameters in NumPy; confusions come from the records, measures from the files of
`launch.py measure`.
"""

import shlex
from typing import TYPE_CHECKING

from cnn_jax import stats
from cnn_jax.program import PROGRAM
from cnn_jax.report import pictures, svg, trained, words
from cnn_jax.report.inside_sweep import cells, confused, measures, padding

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep


def block(sweep: "Sweep", analysis: stats.Analysis) -> str:
    """The markup; '' for results of other tools, a running sweep, and without a finished run."""
    records = [r for c in analysis.cells for r in c.done if r.get("data")]
    if not analysis.measured.of_images or not sweep.folders or sweep.running or not records:
        return ""
    share_right = stats.share_right(records)
    learned, networks = _networks(sweep, analysis, records, share_right)
    lines, measured = measures.measured(sweep.folders, records, list(analysis.design.factors))
    numbers = measures.block(lines, measured, len(records), analysis)
    command = f"{PROGRAM} measure {_folder(sweep)}` and `{PROGRAM} report {_folder(sweep)}"
    ask = _note(f"Probe accuracy, edge scores, dead filters and further measures by factor: run `{command}`.")
    return (
        f"<h2>Inside the networks</h2>{learned}<h3>What they learned, in numbers</h3>{numbers or ask}"
        f"{padding.block(sweep.folders, records, lines, analysis)}"
        f"{confused.block(records, networks, share_right, sweep.images.get(records[0]['data']['checksum']))}"
    )


def _folder(sweep: "Sweep") -> str:
    return shlex.quote(str(sweep.folders[0]))


def _note(text: str) -> str:
    """A paragraph; text between backticks is a command."""
    parts = [svg.tag("code", svg.escape(part)) if i % 2 else svg.escape(part) for i, part in enumerate(text.split("`"))]
    return svg.tag("p", "".join(parts), class_="note")


def _networks(
    sweep: "Sweep", analysis: stats.Analysis, records: list[stats.Record], share_right: dict[int, float]
) -> tuple[str, list[cells.Network]]:
    """Kernels and maps of the cells as markup, best first, and the networks that are shown."""
    images = sweep.images.get(records[0]["data"]["checksum"])
    if images is None or not images.class_names or not images.examples:
        return _note("Kernels and maps are drawn from images of the data, which this folder does not hold."), []
    shape = next(iter(images.examples.values()))[0].shape
    shown = cells.pick(images, shape, share_right)
    found: list[cells.Network] = []
    parts: list[str] = []
    size = 0
    for cell in analysis.cells:
        networks = cells.networks(sweep.folders, cell, analysis.metric, images, shape)
        if not networks:
            continue
        part = cells.block(networks, shown, images.class_names, analysis, unfold=not parts)
        size += len(part)
        if size > cells.PICTURE_BYTES and parts:
            break
        parts.append(part)
        found += networks
    if not parts:
        why = "Kernels and maps need trained parameters of models of the zoo: train without --nokeep_params, in another folder."
        return _note(why), []
    left = len(analysis.cells) - len(parts)
    more = f" {words.count(left, 'cell')} without kept parameters, or beyond the size of this page: not drawn." if left else ""
    note = (
        "Of each cell the seed that is best in validation, and the median seed, a typical one. "
        "Kernels of the first layer: white is positive, black negative, grey 0. Maps: what each layer makes of the image "
        f"below; violet is 0 and less, yellow the largest values. The two networks of a cell have one scale.{more} "
        f"Inputs that excite a channel, and decisive pixels: `{PROGRAM} inspect {_folder(sweep)}`."
    )
    image = trained.picture(pictures.png(shown.pixels), shown.pixels.shape, shown.says, svg.escape(shown.says))
    return _note(note) + svg.tag("div", image, class_="gallery") + "".join(parts), found
