"""The terms of a report, each in a sentence or two."""

from cnn_jax.report import svg

TERMS = (
    ("cell", "All runs of one configuration: they differ by seed alone."),
    ("factor, level", "A setting that the sweep varies, and a value of it. A level's mean is over all cells that have it."),
    ("interval, 95 %", "Constructed to contain the true value in 95 of 100 such sweeps; the population is stated beside it."),
    (
        "simultaneous interval",
        "Wider, so that all intervals of the report together contain the true values in 95 of 100 such sweeps.",
    ),
    (
        "corrected p",
        "Probability of a difference at least as clear if there were none, adjusted for the number of claims in the report. "
        "A difference is claimed at 0.05 or below.",
    ),
    (
        "Holm's correction",
        "p-values in order, the smallest times their number, the next times one less, and so on (Holm 1979): the chance of any "
        "false claim stays below 5 %. `compare` uses it.",
    ),
    ("noise floor", "Variation between two runs that differ by seed alone: smaller differences between cells mean nothing."),
    (
        "winner's curse",
        "The best of many cells was also lucky: its mean overstates what new seeds would give. The report states the "
        "overstatement if all cells were equal. A test set that was not used to select the cell is free of it.",
    ),
    (
        "partial ω² (omega squared)",
        "Share of the variance between runs that a factor explains, among what the other factors leave: 0 nothing, 1 all.",
    ),
    ("interaction", "The effect of one factor changes with the level of another."),
    (
        "confidence set for the best",
        "The best cell and those that cannot be distinguished from it: the truly best one is among them in 95 of 100 such "
        "sweeps.",
    ),
    (
        "moderated variance",
        "A few seeds do not determine a cell's spread, so each is shrunk towards the spread of all (Smyth 2004).",
    ),
    ("Pareto front", "The cells to which no other is both better and cheaper."),
)
OF_NETWORKS = (
    ("multiply-accumulates (MACs)", "Products of convolutions and dense layers for one image, without bias."),
    ("receptive field", "Side of the part of the image on which one unit of the last convolution or pooling layer depends."),
)


def block(*, networks: bool = True) -> str:
    """The markup: a folded list of terms; those on networks only if the report has networks."""
    terms = TERMS + OF_NETWORKS if networks else TERMS
    items = "".join(svg.tag("dt", svg.escape(term)) + svg.tag("dd", svg.escape(text)) for term, text in terms)
    return f'<h2>Glossary</h2><details><summary>{len(terms)} terms</summary><dl class="glossary">{items}</dl></details>'
