"""The tables of the page: effects, cells, trials; each can be downloaded as CSV."""

import base64
import math
from collections.abc import Iterable, Sequence

from cnn_jax import stats
from cnn_jax.aliases import Row, Value
from cnn_jax.report import answer, svg, words
from cnn_jax.report import table as rows_of

ROWS = 1000  # of a table on the page; results.csv has all


def heading(title: str, note: str) -> str:
    return svg.tag("h2", svg.escape(title)) + svg.tag("p", svg.escape(note), class_="note")


def download(name: str, rows: list[Row]) -> str:
    text = rows_of.to_csv(rows)
    link = "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode(errors="backslashreplace")).decode()
    return svg.tag("p", svg.tag("a", "data (CSV)", href=link, download=f"{name}.csv"), class_="data")


Cell = tuple[str, Value] | str  # text, and the sort key if it differs


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    sortable: bool = False,
    classes: Sequence[str] = (),
    label: str = "",
    kind: str = "",
) -> str:
    """A table in a box that scrolls sideways; a column with a number is aligned as numbers. All text is escaped here.

    label: name of the box for screen readers. kind: a class of the table.
    """
    body = [[c if isinstance(c, tuple) else (c, None) for c in row] for row in rows]
    number = [any(isinstance(row[i][1], (int, float)) for row in body) for i in range(len(head))]

    def show(i: int, shown: str, value: object) -> str:
        known = None if value is None or (isinstance(value, float) and math.isnan(value)) else value
        class_ = "number" if number[i] else "wrap" if len(shown) > 60 else None
        exact = ("" if known is None else known) if number[i] else None
        return f"<td{_attributes(class_, exact if sortable else None)}>{svg.escape(shown)}</td>"

    heads = "".join(
        svg.tag(
            "th", svg.tag("button", svg.escape(h)) if sortable else svg.escape(h), class_="number" if n else None, scope="col"
        )
        for h, n in zip(head, number, strict=True)
    )
    lines = []
    for j, row in enumerate(body):
        mark = f' class="{classes[j]}"' if classes and classes[j] else ""
        lines.append(f"<tr{mark}>{''.join(show(i, *c) for i, c in enumerate(row))}</tr>")
    kind = " ".join(filter(None, (kind, "sortable" if sortable else "")))
    region = f' role="region" aria-label="{svg.escape(label)}"' if label else ""
    opening = f'<div class="table" tabindex="0"{region}><table class="{kind}">'
    return f"{opening}<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _attributes(class_: str | None, value: object) -> str:
    return (f' class="{class_}"' if class_ else "") + (f' data-v="{svg.escape(value)}"' if value is not None else "")


def effects(analysis: stats.Analysis) -> str:
    """Each term: differences first, then its share of the variance and the corrected p."""
    terms, units = analysis.effects.terms, words.units(analysis)
    if not terms:
        return ""
    on_test = {t.name: t for t in analysis.on_test.terms} if analysis.on_test else {}
    rows, classes, data = [], [], []
    for term in terms:
        contrasts = term.contrasts or (term.span,)
        tested = on_test[term.name].contrasts or (on_test[term.name].span,) if term.name in on_test else ()
        for i, contrast in enumerate(contrasts):
            e = contrast.simultaneous
            test = term.test
            omega = test.omega_squared if test else None
            share = f"{omega.value:.2f} ({omega.low:.2f} to {omega.high:.2f})" if omega else "–"
            confirmed = tested[i].estimate.value if tested else math.nan
            span = f" ({units.difference(e.low)} to {units.difference(e.high)})" if e.known else ""
            costs = (
                ", ".join(_ratio(analysis, term.name, contrast, cost) for cost in ("params", "macs"))
                if len(term.factors) == 1
                else ""
            )
            first = i == 0
            rows.append(
                (
                    term.name if first else "", f"{contrast.b} against {contrast.a}", units.difference(e.value) + span,
                    units.difference(confirmed), costs, str(e.n),
                    share if first else "", words.p_value(term.p) if first else "",
                )
            )  # fmt: skip
            classes.append("marked" if term.claimed else "")
            numbers = {"difference": e.value, "low": e.low, "high": e.high, "runs": e.n, "on_test": confirmed}
            if test and omega:
                numbers |= {"f": test.f, "df1": test.df[0], "df2": test.df[1], "omega_squared": omega.value}
                numbers |= {"omega_low": omega.low, "omega_high": omega.high, "p_corrected": term.p}
            data.append({"term": term.name, "level": contrast.b, "against": contrast.a} | numbers)
    title = f"difference (simultaneous 95 % interval){',' if units.points else ''}{units.points}"
    names = ("factor", "level", title, "on test", "parameters, MACs", "runs", "partial ω² (95 %)", "p")
    # Unknown quantities have no column: costs and a test set of imported results.
    dull = {name for at, name in ((3, "on test"), (4, "parameters, MACs")) if all(set(row[at]) <= set("–, ") for row in rows)}
    head = [name for name in names if name not in dull]
    kept = [tuple(value for name, value in zip(names, row, strict=True) if name not in dull) for row in rows]
    costs_note = "; and the ratios of parameters and MACs, which may be the cause of the effect"
    kind = f"Approximate: {analysis.effects.caveat}. " if analysis.effects.caveat else ""
    note = (
        f"{kind}Effect of each level on {units.noun} relative to the first one, averaged over all other factors"
        f"{'' if 'parameters, MACs' in dull else costs_note}. Partial ω² is the factor's share of the variance that the other "
        f"factors leave{', on these images' if analysis.measured.of_images else ''}; intervals and p are corrected for all "
        f"claims of this report and refer to {analysis.population}; bold: claimed."
    )
    return (
        heading("Effects", note)
        + table(head, kept, classes=classes, label="Effects", kind="effects")
        + download("effects", data)
    )


def _ratio(analysis: stats.Analysis, factor: str, contrast: stats.Contrast, cost: str) -> str:
    """Ratio of the cost of a level's networks: a confounder if far from 1."""
    ratio = answer.cost_ratio(analysis, factor, contrast.b, contrast.a, cost)
    return "–" if ratio is None else f"× {ratio:.2f}"


def cells(analysis: stats.Analysis) -> str:
    ties = {id(c) for c in (*analysis.ties, *analysis.cells[:1])}
    silent = [c for c in analysis.design.cells if not c.values(analysis.metric).size]
    factors = list(analysis.design.factors) or ["model"]
    units = words.units(analysis)
    metrics = [stats.VALIDATION, stats.TEST] if analysis.validated else [analysis.measured]
    statuses = ["done", *(s for s in words.UNFINISHED if analysis.count(s))]
    head = [*factors, "n", *statuses[1:]]
    for measured in metrics:
        head += [measured.noun, "SD", "95 % interval"]
    facts_of = ("params", "macs", "receptive_field") if analysis.measured.of_images else ()
    head += ["parameters", "MACs", "receptive field", "train s"] if facts_of else []
    rows, classes, data = [], [], []
    for cell in [*analysis.cells, *silent]:
        names: list[Cell] = [stats.text(v) for v in cell.levels.values()] or [cell.label]
        counts = {status: cell.count(status) for status in statuses}
        row = names + [(str(n), n) for n in counts.values()]
        record: Row = {n: stats.text(v) for n, v in cell.levels.items()} | counts
        for metric in (m.name for m in metrics):
            values = cell.values(metric)
            e = analysis.interval(cell, metric)
            sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            bounds = f"{units.number(e.low)} to {units.number(e.high)}" if e.known else "–"
            row += [(units.value(e.value), e.value), (units.spread(sd), sd), bounds]
            record |= {
                metric: e.value,
                f"{metric}_sd": sd,
                f"{metric}_low": e.low,
                f"{metric}_high": e.high,
                f"{metric}_n": e.n,
            }
        facts = {name: cell.fact(name) for name in facts_of}
        if facts:
            seconds = cell.mean("train_seconds")
            row += [(f"{facts[n]:,}" if facts[n] is not None else "–", facts[n]) for n in ("params", "macs")]
            row += [
                str(rows_of.cell(facts["receptive_field"])) or "–",
                (f"{seconds:.2f}" if math.isfinite(seconds) else "–", seconds),
            ]
            facts["train_seconds"] = seconds
        rows.append(row)
        data.append(record | facts | {"in_best_set": id(cell) in ties})
        classes.append("marked" if id(cell) in ties else "faint" if cell in silent else "")
    shown = rows[:ROWS]
    more = f" The best {ROWS:,} of {len(rows):,} cells are shown." if len(rows) > ROWS else ""
    bold = "bold: the best cell and those that cannot be distinguished from it"
    note = f"Best first; {bold}. Click a column's head to sort.{more}"
    body = table(head, shown, sortable=True, classes=classes, label="All cells")
    return heading("All cells", note) + body + download("cells", data)


def trials(records: Sequence[stats.Record], columns: Sequence[str] = (), source: str = "") -> str:
    """All trials with the fields `columns`, by default those of this package's records, which results.csv holds in full."""
    ours = ("trial", "status", "val_accuracy", "test_accuracy", "train_loss", "params", "train_seconds", "images_per_second")
    columns = columns or ours

    def show(value: object) -> Cell:
        if isinstance(value, float):
            return (f"{value:.4g}", value)
        return (f"{value:,}", value) if isinstance(value, int) else str(value or "–")

    body = table(columns, ([show(r.get(c)) for c in columns] for r in records[:ROWS]), sortable=True, label="All trials")
    more = f", the first {ROWS:,} of them" if len(records) > ROWS else ""
    link = svg.escape(source) if source else svg.tag("a", "results.csv", href="results.csv") + " beside this page"
    return (
        f"<h2>All trials</h2><p class='note'>Every column is in {link}.</p>"
        f"<details><summary>{words.count(len(records), 'trial')}{more}</summary>{body}</details>"
    )
