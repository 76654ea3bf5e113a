"""The page: one file that fetches nothing, readable without scripts."""

import base64
import collections
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import cnn_jax
from cnn_jax import stats
from cnn_jax.report import answer, missed, plots, svg, table, trained, words

if TYPE_CHECKING:
    from cnn_jax.report import Sweep

ROWS = 1000  # of a table on the page; results.csv has all
# The page itself holds everything: a browser is told to fetch nothing, so a name in the data cannot make it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
# Every rule of page.css is inside of this class, and what the whole window needs is an attribute of html or body: a notebook
# that shows the page among its own elements keeps neither of these.
ROOT = "cnn-jax"
BODY = "margin:0;background:light-dark(#fff,#14171b)"


def page(sweep: "Sweep") -> str:
    """The whole report as the text of one HTML file."""
    # Anchor, word in the navigation, markup.
    parts: list[tuple[str, str, str]] = []
    for i, (part, analysis) in enumerate(sweep.parts):
        name = part.records[0]["config"]["data"]["dataset"] if len(sweep.parts) > 1 else ""
        for anchor, word, markup in _sections(part, analysis):
            titled = markup.replace("</h2>", f": {svg.escape(name)}</h2>", 1) if name else markup
            parts.append((f"{anchor}_{i}" if i else anchor, f"{name}: {word}" if name else word, titled))
    parts += [
        ("trials", "Trials", _trials(sweep.records)),
        ("plan", "Plan", _plan(sweep)),
        ("provenance", "Provenance", _provenance(sweep)),
    ]
    return document(_title(sweep), _header(sweep, svg.escape(_title(sweep))), parts, _footer(), _file("page.css"))


def document(title: str, header: str, parts: Sequence[tuple[str, str, str]], footer: str, css: str) -> str:
    """A page as the text of one HTML file.

    Args:
      title: text of its title.
      header, footer: markup.
      parts: anchor, word in the navigation, and markup of each section; those without markup are left out.
      css: style sheet.
    """
    anchors = "".join(svg.tag("a", svg.escape(word), href=f"#{name}") for name, word, markup in parts if markup)
    sections = "".join(svg.tag("section", markup, id=name) for name, _, markup in parts if markup)
    return (
        f'<!doctype html>\n<html lang="en" style="color-scheme:light dark"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><link '
        f'rel="icon" href="data:,"><title>{svg.escape(title)}</title><style>{css}</style></head>\n'
        f'<body style="{BODY}"><div class="{ROOT}">{header}<nav><div>{anchors}</div></nav>\n'
        f"<main>{sections}{footer}</main></div>\n<script>{_file('page.js')}</script></body></html>\n"
    )


def _sections(sweep: "Sweep", analysis: stats.Analysis) -> Iterator[tuple[str, str, str]]:
    """The sections on one data set: anchor, word in the navigation, markup."""
    yield "trained", "Setup", trained.block(sweep, analysis)
    pictures = (
        ("Factors", plots.by_factor(analysis)),
        ("Interactions", plots.interactions(analysis)),
        ("Best cells", plots.against_best(analysis)),
        ("Noise floor", plots.noise_floor(analysis)),
        ("Cost", plots.cost(analysis)),
        ("Learning", plots.curves(analysis)),
        ("Explore", plots.parallel(analysis)),
    )
    for word, figure in pictures:
        if figure:
            yield figure.name, word, _figure(figure)
        if word == "Factors":
            yield "effects", "Effects", _effects(analysis)
    if found := plots.disagreement(analysis):
        figure, data = found
        extra = '<p class="flips hint" aria-live="polite"></p>' + _json("image-answers", data)
        yield figure.name, "Images", _figure(figure, extra)
    yield "never_right", "Never right", missed.gallery(sweep)
    yield "cells", "Cells", _cells(analysis)


def _file(name: str) -> str:
    return resources.files("cnn_jax.report").joinpath(name).read_text(encoding="utf-8")


def _title(sweep: "Sweep") -> str:
    sets = sorted({r["config"]["data"]["dataset"] for r in sweep.records})
    return f"cnn_jax: {', '.join(sets)}" if sets else "cnn_jax"


def _header(sweep: "Sweep", title: str) -> str:
    answers = []
    for part, analysis in sweep.parts:
        name = title if len(sweep.parts) == 1 else svg.escape(part.records[0]["config"]["data"]["dataset"])
        answers.append(
            f'<p class="kicker">{name}</p><h1>{svg.escape(answer.headline(analysis))}</h1>'
            f"{_list(answer.details(analysis), 'details')}{_list(answer.cautions(analysis), 'details cautions')}"
            f"{_facts(part, analysis)}"
        )
    damaged = answer.damaged(sweep.damaged)
    return f"<header><div>{''.join(answers)}{_list([*damaged, *sweep.notes], 'details cautions')}</div></header>"


def _facts(sweep: "Sweep", analysis: stats.Analysis) -> str:
    n = {status: analysis.count(status) for status in ("done", "diverged", "failed")}
    facts = [
        ("trials", f"{n['done']:,}"),
        ("cells", f"{len(analysis.design.cells):,}"),
        ("seeds per cell", words.extent(*analysis.runs)),
    ]
    facts += [(status, f"{n[status]:,}") for status in ("diverged", "failed") if n[status]]
    if sweep.missing:
        facts.append(("not run yet", f"{len(sweep.missing):,}"))
    if analysis.sd > 0:
        facts.append(("spread between seeds", f"{words.spread(analysis.sd)} pt"))
    seconds = sum((r.get("train_seconds") or 0) + (r.get("compile_seconds") or 0) for r in sweep.records)
    facts.append(("computing time", f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"))
    boxes = "".join(f"<div><dt>{svg.escape(k)}</dt><dd>{svg.escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{boxes}</dl>'


def _footer() -> str:
    return (
        "<footer>The unit is the run. Where answers are stored image by image, intervals speak of new seeds and new images, "
        "otherwise of new seeds on these images. Variances are moderated over cells; levels are compared by Games and "
        "Howell's test. A report makes any false claim in at most 5 % of cases: see docs/statistics.md. "
        f"cnn_jax {cnn_jax.__version__}.</footer>"
    )


def _list(sentences: Sequence[str], class_: str) -> str:
    return svg.tag("ul", "".join(svg.tag("li", svg.escape(s)) for s in sentences), class_=class_) if sentences else ""


def _json(class_: str, data: Any) -> str:
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no text of ours may end the script
    return svg.tag("script", text, type="application/json", class_=class_)


def _head(title: str, note: str) -> str:
    return svg.tag("h2", svg.escape(title)) + svg.tag("p", svg.escape(note), class_="note")


def _figure(figure: plots.Figure, extra: str = "") -> str:
    panels = svg.tag("div", "".join(f"<div>{p}</div>" for p in figure.pictures), class_=f"panels {figure.size}".strip())
    return _head(figure.title, figure.note) + figure.legend + panels + extra + _download(figure.name, figure.rows)


def _download(name: str, rows: list[dict[str, Any]]) -> str:
    text = table.to_csv(rows)
    link = "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode(errors="backslashreplace")).decode()
    return svg.tag("p", svg.tag("a", "data (CSV)", href=link, download=f"{name}.csv"), class_="data")


Cell = tuple[str, Any] | str  # what is shown, and what it is sorted by if that differs


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    sortable: bool = False,
    classes: Sequence[str] = (),
    label: str = "",
    kind: str = "",
) -> str:
    """A table in a box that scrolls sideways; a column with a number is aligned as numbers. All text is escaped here.

    label: what a screen reader calls the box. kind: a class of the table.
    """
    body = [[c if isinstance(c, tuple) else (c, None) for c in row] for row in rows]
    number = [any(isinstance(row[i][1], (int, float)) for row in body) for i in range(len(head))]

    def show(i: int, shown: str, value: Any) -> str:
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


def _attributes(class_: str | None, value: Any) -> str:
    return (f' class="{class_}"' if class_ else "") + (f' data-v="{svg.escape(value)}"' if value is not None else "")


def _effects(analysis: stats.Analysis) -> str:
    """Each term: differences first, then its share of the variance and the corrected p."""
    terms = analysis.effects.terms
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
            span = f" ({words.points(e.low)} to {words.points(e.high)})" if e.known else ""
            costs = (
                ", ".join(_ratio(analysis, term.name, contrast, cost) for cost in ("params", "macs"))
                if len(term.factors) == 1
                else ""
            )
            first = i == 0
            rows.append(
                (
                    term.name if first else "", f"{contrast.b} against {contrast.a}", words.points(e.value) + span,
                    words.points(confirmed), costs, str(e.n), share if first else "", words.p_value(term.p) if first else "",
                )
            )  # fmt: skip
            classes.append("marked" if term.claimed else "")
            numbers = {"difference": e.value, "low": e.low, "high": e.high, "runs": e.n, "on_test": confirmed}
            if test and omega:
                numbers |= {"f": test.f, "df1": test.df[0], "df2": test.df[1], "omega_squared": omega.value}
                numbers |= {"omega_low": omega.low, "omega_high": omega.high, "p_corrected": term.p}
            data.append({"term": term.name, "level": contrast.b, "against": contrast.a} | numbers)
    head = (
        "factor",
        "level",
        "difference (simultaneous 95 % interval), points",
        "on test",
        "parameters, MACs",
        "runs",
        "partial ω² (95 %)",
        "p",
    )
    kind = f"Approximate: {analysis.effects.caveat}. " if analysis.effects.caveat else ""
    note = (
        f"{kind}What each level does to {words.METRICS[analysis.metric]} against the first one, all other factors averaged; "
        "and by how much it multiplies the networks' parameters and MACs, whose effect it then may be. Partial ω² is the "
        "factor's share of the variance that the other factors leave, on these images; intervals and p are corrected for all "
        f"claims of this report and speak of {analysis.population}; bold: claimed."
    )
    return (
        _head("Effects", note)
        + _table(head, rows, classes=classes, label="Effects", kind="effects")
        + _download("effects", data)
    )


def _ratio(analysis: stats.Analysis, factor: str, contrast: stats.Contrast, cost: str) -> str:
    """How many times the cost a level's networks have: a confound, if far from 1."""
    ratio = answer.cost_ratio(analysis, factor, contrast.b, contrast.a, cost)
    return "–" if ratio is None else f"× {ratio:.2f}"


def _cells(analysis: stats.Analysis) -> str:
    ties = {id(c) for c in (*analysis.ties, *analysis.cells[:1])}
    silent = [c for c in analysis.design.cells if not c.values(analysis.metric).size]
    factors = list(analysis.design.factors) or ["model"]
    metrics = ["val_accuracy", "test_accuracy"] if analysis.validated else ["test_accuracy"]
    statuses = ["done", *(s for s in ("diverged", "failed") if analysis.count(s))]
    head = [*factors, "n", *statuses[1:]]
    for metric in metrics:
        head += [words.METRICS[metric], "SD", "95 % interval"]
    head += ["parameters", "MACs", "receptive field", "train s"]
    rows, classes, data = [], [], []
    for cell in [*analysis.cells, *silent]:
        names: list[Cell] = [stats.text(v) for v in cell.levels.values()] or [cell.label]
        counts = {status: cell.count(status) for status in statuses}
        row = names + [(str(n), n) for n in counts.values()]
        record: dict[str, Any] = {n: stats.text(v) for n, v in cell.levels.items()} | counts
        for metric in metrics:
            values = cell.values(metric)
            e = analysis.interval(cell, metric)
            sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            bounds = f"{100 * e.low:.2f} to {100 * e.high:.2f}" if e.known else "–"
            row += [(words.percent(e.value), e.value), (words.spread(sd), sd), bounds]
            record |= {
                metric: e.value,
                f"{metric}_sd": sd,
                f"{metric}_low": e.low,
                f"{metric}_high": e.high,
                f"{metric}_n": e.n,
            }
        facts = {name: cell.fact(name) for name in ("params", "macs", "receptive_field")}
        seconds = cell.mean("train_seconds")
        row += [(f"{facts[n]:,}" if facts[n] is not None else "–", facts[n]) for n in ("params", "macs")]
        row += [
            str(table.cell(facts["receptive_field"])) or "–",
            (f"{seconds:.2f}" if math.isfinite(seconds) else "–", seconds),
        ]
        rows.append(row)
        data.append(record | facts | {"train_seconds": seconds, "in_best_set": id(cell) in ties})
        classes.append("marked" if id(cell) in ties else "faint" if cell in silent else "")
    shown = rows[:ROWS]
    more = f" The best {ROWS:,} of {len(rows):,} cells are shown." if len(rows) > ROWS else ""
    note = f"Best first; bold: the best cell and those that cannot be told from it. Press a column's head to sort.{more}"
    body = _table(head, shown, sortable=True, classes=classes, label="All cells")
    return _head("All cells", note) + body + _download("cells", data)


def _trials(records: Sequence[stats.Record]) -> str:
    columns = ("trial", "status", "val_accuracy", "test_accuracy", "train_loss", "params", "train_seconds", "images_per_second")

    def show(value: Any) -> Cell:
        if isinstance(value, float):
            return (f"{value:.4g}", value)
        return (f"{value:,}", value) if isinstance(value, int) else str(value or "–")

    body = _table(columns, ([show(r.get(c)) for c in columns] for r in records[:ROWS]), sortable=True, label="All trials")
    more = f", the first {ROWS:,} of them" if len(records) > ROWS else ""
    link = svg.tag("a", "results.csv", href="results.csv")
    return (
        f"<h2>All trials</h2><p class='note'>Every column is in {link} beside this page.</p>"
        f"<details><summary>{words.count(len(records), 'trial')}{more}</summary>{body}</details>"
    )


def _plan(sweep: "Sweep") -> str:
    done = sum(r["status"] == "done" for r in sweep.records)
    bad = [r for r in sweep.records if r["status"] != "done"]
    out = f"<h2>Plan and failures</h2><p class='note'>{len(sweep.plan) or len(sweep.records):,} planned, {done:,} done, "
    out += f"{len(bad):,} diverged or failed, {len(sweep.missing):,} not run yet.</p>"
    if bad:
        failures = ((r["trial"], r["status"], str(r["reason"] or "–")) for r in bad[:ROWS])
        out += _table(("trial", "status", "reason"), failures, label="Failures")
    if sweep.missing:
        names = "<br>".join(svg.tag("code", svg.escape(t.id)) for t in sweep.missing[:ROWS])
        out += f"<details><summary>{words.count(len(sweep.missing), 'trial')} not run yet</summary><p>{names}</p></details>"
    return out


def _provenance(sweep: "Sweep") -> str:
    def tally(values: Iterable[Any]) -> str:
        counts = collections.Counter(str(v) for v in values if v is not None)
        total = sum(counts.values())
        return "; ".join(k if n == total else f"{k} ({n} trials)" for k, n in counts.most_common(12)) or "–"

    records = sweep.records
    images = ("train", "validation", "test")
    rows: list[tuple[str, str]] = [("command", c["command"]) for c in sweep.commands]
    if not rows:
        rows.append(("command", tally(r.get("command") for r in records)))
    commits = tally(
        f"{c['commit']}{' with uncommitted changes' if c.get('dirty') else ''}" for r in records if (c := r.get("code"))
    )
    rows.append(("code", commits))
    rows.append(("device", tally(r.get("device") for r in records)))
    rows += [
        (p, tally((r.get("versions") or {}).get(p) for r in records))
        for p in sorted({p for r in records for p in r.get("versions") or ()})
    ]
    sets = (
        f"{r['config']['data']['dataset']}: {', '.join(f'{d[k]:,} {k}' for k in images)} images, checksum {d['checksum']}"
        for r in records
        if (d := r.get("data"))
    )
    rows.append(("data", tally(sets)))
    times = sorted(r["finished"] for r in records if r.get("finished"))
    if times:
        rows.append(("finished", f"{times[0]} to {times[-1]}"))
    rows += [("damaged line", line) for line in sweep.damaged]
    return "<h2>Provenance</h2>" + _table(("what", "value"), rows, label="Provenance")


# What other pages share.
head, table_box, style = _head, _table, _file
