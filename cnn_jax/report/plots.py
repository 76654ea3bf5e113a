"""The pictures."""

import numpy as np

from cnn_jax import stats
from cnn_jax.report import svg, words


def by_factor(analysis: stats.Analysis) -> list[str]:
    """A panel per factor: every run as a dot, and the mean of each level."""
    out = []
    metric = analysis.metric
    values = [v for c in analysis.design.cells for v in c.values(metric)]
    for factor, levels in (analysis.design.factors or {"model": ()}).items():
        y = svg.Scale.around(values, 250, 30)
        body = svg.left_axis(y, 50, 350, lambda v: f"{100 * v:g}", words.METRICS[metric] + " (%)")
        for i, level in enumerate(levels):
            x = 50 + 300 * (i + 0.5) / len(levels)
            runs = np.concatenate([c.values(metric) for c in analysis.design.cells if c.levels[factor] == level])
            body.append(svg.dots([(x, y(v)) for v in runs], "c0"))
            body.append(svg.text(x, 270, stats.text(level), anchor="middle"))
        out.append(svg.picture(360, 300, body, f"accuracy by {factor}"))
    return out
