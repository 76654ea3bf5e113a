"""Text output of claims: the table in the terminal, the rows of chapter.csv, and numbers on the page."""

import csv
import io
import math
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.chapter.claims import Check, Claim, Number, Part
from cnn_jax.console import Column, Console, Row, print_table
from cnn_jax.report import words

COLUMNS = (
    "claim",
    "sentence",
    "verdict",
    "part",
    "part_verdict",
    "value",
    "low",
    "high",
    "p",
    "runs",
    "agree",
    "cases",
    "beside",
)
_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


def measured(part: Part) -> str:
    """'+1.95 (+0.30 to +3.60) points', '180 of 180'."""
    if isinstance(part, Check):
        return part.shown or (f"{part.agree} of {part.cases}" if part.cases else "–")
    e = part.estimate
    if not e.n:
        return "–"
    scale, digits = (100, 1) if part.share else (1, 3)

    def text(value: float) -> str:
        return f"{round(scale * value, digits) + 0.0:+.{digits}f}".replace("-", "−")

    return f"{text(e.value)} ({text(e.low)} to {text(e.high)})" if e.known else text(e.value)


def deciding(claim: Claim) -> Part:
    """Return the part that decides a sentence's verdict: the least certain one with that verdict."""
    same = [part for part in claim.parts if part.verdict == claim.verdict] or list(claim.parts)
    certain = claim.verdict == "does not hold"
    return sorted(same, key=lambda part: _p(part) if certain else -_p(part))[0]


def _p(part: Part) -> float:
    return 0.0 if isinstance(part, Check) or math.isnan(part.p) else part.p


def terminal(claims: Sequence[Claim], dataset: str, seeds: int, console: Console) -> None:
    """Print a row per sentence, and an explanation."""
    rows = []
    for claim in claims:
        part = deciding(claim)
        p = words.p_value(part.p) if isinstance(part, Number) else ""
        rows.append(Row([claim.short, measured(part), p, claim.verdict], _STYLES[claim.verdict]))
    columns = [
        Column("the chapter says", left=True),
        Column(f"on {dataset}", left=True),
        Column("p"),
        Column("verdict", left=True),
    ]
    print_table(console, columns, rows)
    console.print(headline(claims, dataset, seeds))
    console.print(
        "Differences that a sentence predicts to be positive, in percentage points, or R squared and correlations with three "
        "digits; 95 % intervals; Holm-corrected p, decided at 5 %. Of several numbers, the deciding one is shown."
    )


def headline(claims: Sequence[Claim], dataset: str, seeds: int) -> str:
    """'9 of 14 sentences hold on digits (3 seeds), 2 do not, 3 are undecided.'"""
    holds, fails, open_ = (sum(c.verdict == v for c in claims) for v in ("holds", "does not hold", "undecided"))
    rest = [f"{fails} {'does' if fails == 1 else 'do'} not"] if fails else []
    rest += [f"{open_} {'is' if open_ == 1 else 'are'} undecided"] if open_ else []
    also = f", {', '.join(rest)}" if rest else ""
    few = " With one seed no number has an interval: add --seeds=3." if seeds < 2 else ""
    return f"{holds} of {len(claims)} sentences hold on {dataset} ({words.count(seeds, 'seed')}){also}.{few}"


def table(claims: Sequence[Claim]) -> str:
    """Format chapter.csv: a row per part of a sentence."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for claim in claims:
        for part in claim.parts:
            row = {"claim": claim.name, "sentence": claim.sentence, "verdict": claim.verdict}
            row |= {"part": part.what, "part_verdict": part.verdict, "beside": part.beside}
            writer.writerow(row | (_number(part) if isinstance(part, Number) else {"agree": part.agree, "cases": part.cases}))
    return out.getvalue()


def _number(part: Number) -> dict[str, float | int | str]:
    e: stats.Estimate = part.estimate
    known = {"value": e.value, "low": e.low, "high": e.high, "p": part.p}
    return {name: value if math.isfinite(value) else "" for name, value in known.items()} | {"runs": e.n}
