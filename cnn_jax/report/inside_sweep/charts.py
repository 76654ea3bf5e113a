"""The charts of the section "Inside" alone, for files: measures by factor, padding cards, the confusion matrix."""

from typing import TYPE_CHECKING

from cnn_jax import stats
from cnn_jax.report import svg
from cnn_jax.report.inside_sweep import confused, measures, padding

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep


def charts(sweep: "Sweep", analysis: stats.Analysis) -> list[tuple[str, list[str]]]:
    """Name and pictures of each chart; empty for results of other tools."""
    records = [r for c in analysis.cells for r in c.done if r.get("data")]
    if not analysis.measured.of_images or not sweep.folders or not records:
        return []
    factors = {name: levels for name, levels in analysis.design.factors.items() if len(levels) <= svg.COLOURS}
    lines, _ = measures.measured(sweep.folders, records, list(factors))
    found = [(f"measures_by_{name}", measures.panels(lines, name, levels)) for name, levels in factors.items()]
    found.append(("padding_card", padding.pictures_of(sweep.folders, records, analysis)))
    images = sweep.images.get(records[0]["data"]["checksum"])
    found.append(("confusion", confused.pictures_of(records, images)))
    return [(name, pictures) for name, pictures in found if pictures]
