"""The pictures of a report, each from an analysis alone."""

from cnn_jax import stats
from cnn_jax.report.plots.cells import against_best, cost, noise_floor
from cnn_jax.report.plots.factors import by_factor, interactions
from cnn_jax.report.plots.figure import Figure
from cnn_jax.report.plots.images import disagreement
from cnn_jax.report.plots.runs import curves, parallel

__all__ = ["Figure", "disagreement", "every", "listed"]


def listed(analysis: stats.Analysis) -> list[tuple[str, Figure]]:
    """The figures that apply to an analysis, each with its word in the navigation; without disagreements."""
    figures = (
        ("Factors", by_factor(analysis)),
        ("Interactions", interactions(analysis)),
        ("Best cells", against_best(analysis)),
        ("Noise floor", noise_floor(analysis)),
        ("Cost", cost(analysis)),
        ("Learning", curves(analysis)),
        ("Explore", parallel(analysis)),
    )
    return [(word, figure) for word, figure in figures if figure]


def every(analysis: stats.Analysis) -> list[tuple[str, Figure]]:
    """All of them."""
    found = disagreement(analysis)
    return listed(analysis) + ([("Images", found[0])] if found else [])
