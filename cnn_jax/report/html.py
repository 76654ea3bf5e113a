"""The page: one self-contained file, readable without scripts."""

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import cnn_jax
from cnn_jax import stats
from cnn_jax.report import answer, explorer, findings, glossary, inside_sweep, missed, pictures, plots, svg, words
from cnn_jax.report import page_tables as tables

if TYPE_CHECKING:
    from cnn_jax.report.sweep import Sweep

# The page is self-contained: the policy forbids all requests, so a name in the data cannot cause one.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
# Every rule of page.css is inside of this class, and styles of the window are attributes of html or body: a notebook that
# shows the page among its own elements drops those.
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
        ("trials", "Trials", sweep.table_of_trials()),
        ("plan", "Plan", _plan(sweep)),
        ("glossary", "Glossary", glossary.block(networks=all(a.measured.of_images for _, a in sweep.parts))),
        ("provenance", "Provenance", _provenance(sweep)),
    ]
    css = _file("page.css")
    return document(_title(sweep), _header(sweep, svg.escape(_title(sweep))), parts, _footer(sweep), css, live=sweep.running)


def document(
    title: str, header: str, parts: Sequence[tuple[str, str, str]], footer: str, css: str, *, live: bool = False
) -> str:
    """A page as the text of one HTML file.

    Args:
      title: text of its title.
      header, footer: markup.
      parts: anchor, word in the navigation, and markup of each section; those without markup are left out.
      css: style sheet.
      live: whether the page is updated while a sweep runs.
    """
    anchors = "".join(svg.tag("a", svg.escape(word), href=f"#{name}") for name, word, markup in parts if markup)
    sections = "".join(svg.tag("section", markup, id=name) for name, _, markup in parts if markup)
    mark = " data-live" if live else ""
    return (
        f'<!doctype html>\n<html lang="en" style="color-scheme:light dark"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><link '
        f'rel="icon" href="data:,"><title>{svg.escape(title)}</title><style>{css}</style></head>\n'
        f'<body style="{BODY}"><div class="{ROOT}"{mark}>{header}<nav><div>{anchors}</div></nav>\n'
        f"<main>{sections}{footer}</main></div>\n<script>{_file('page.js')}</script></body></html>\n"
    )


def _sections(sweep: "Sweep", analysis: stats.Analysis) -> Iterator[tuple[str, str, str]]:
    """The sections on one data set: anchor, word in the navigation, markup."""
    yield "trained", "Setup", sweep.setup(analysis)
    yield "explorer", "Try it", explorer.block(sweep.folders, sweep.images, analysis) if analysis.measured.of_images else ""
    effects = "effects", "Effects", tables.effects(analysis)
    charts = plots.listed(analysis)
    if not charts or charts[0][0] != "Factors":
        yield effects
    for word, figure in charts:
        yield figure.name, word, _figure(figure, analysis)
        if word == "Factors":
            yield effects
    if found := plots.disagreement(analysis):
        figure, data = found
        data["pictures"] = pictures.addresses(sweep.images, sweep.records)
        extra = '<p class="flips hint" aria-live="polite"></p>' + _json("image-answers", data)
        yield figure.name, "Images", _figure(figure, analysis, extra)
    yield "never_right", "Never right", missed.gallery(sweep)
    yield "inside", "Inside", inside_sweep.block(sweep, analysis)
    yield "cells", "Cells", tables.cells(analysis)


def style(name: str = "page.css") -> str:
    """A style sheet of this package; the rules of page.css are all inside of `ROOT`."""
    return _file(name)


def _file(name: str) -> str:
    return resources.files("cnn_jax.report").joinpath(name).read_text(encoding="utf-8")


def _title(sweep: "Sweep") -> str:
    sets = sorted({r["config"]["data"]["dataset"] for r in sweep.records})
    so_far = f"{len(sweep.records)} of {len(sweep.plan)} trials, " if sweep.running else ""
    return f"{so_far}cnn_jax: {', '.join(sets)}" if sets else f"{so_far}cnn_jax"


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
    n = {status: analysis.count(status) for status in ("done", *words.UNFINISHED)}
    units, run = words.units(analysis), "seed" if analysis.measured.of_images else "run"
    facts = [
        ("trials", f"{n['done']:,}"),
        ("cells", f"{len(analysis.design.cells):,}"),
        (f"{run}s per cell", words.extent(*analysis.runs)),
    ]
    facts += [(status, f"{n[status]:,}") for status in words.UNFINISHED if n[status]]
    if sweep.missing:
        facts.append(("not run yet", f"{len(sweep.missing):,}"))
    if analysis.sd > 0:
        facts.append((f"spread between {run}s", f"{units.spread(analysis.sd)}{' pt' if units.points else ''}"))
    seconds = sum((r.get("train_seconds") or 0) + (r.get("compile_seconds") or 0) for r in sweep.records)
    if seconds:
        facts.append(("computing time", f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"))
    boxes = "".join(f"<div><dt>{svg.escape(k)}</dt><dd>{svg.escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{boxes}</dl>'


def _footer(sweep: "Sweep") -> str:
    of_images = all(analysis.measured.of_images for _, analysis in sweep.parts)
    population = (
        "Where answers per image are stored, intervals refer to new seeds and new images, otherwise to new seeds on these "
        "images. "
    )
    return (
        f"<footer>The unit is the run. {population if of_images else ''}Variances are moderated over cells; levels are "
        "compared by Games and Howell's test. A report makes any false claim in at most 5 % of cases: see docs/statistics.md. "
        f"cnn_jax {cnn_jax.__version__}.</footer>"
    )


def _list(sentences: Sequence[str], class_: str) -> str:
    return svg.tag("ul", "".join(svg.tag("li", svg.escape(s)) for s in sentences), class_=class_) if sentences else ""


def _json(class_: str, data: object) -> str:
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no text may end the script
    return svg.tag("script", text, type="application/json", class_=class_)


def panels(figure: plots.Figure) -> str:
    """The pictures of a figure, with their legend."""
    boxes = "".join(f"<div>{picture}</div>" for picture in figure.pictures)
    return figure.legend + svg.tag("div", boxes, class_=f"panels {figure.size}".strip())


def _figure(figure: plots.Figure, analysis: stats.Analysis, extra: str = "") -> str:
    found = findings.of(figure.name, analysis)
    below = svg.tag("p", svg.escape(found), class_="finding") if found else ""
    parts = (tables.heading(figure.title, figure.note), panels(figure), below, extra)
    return "".join(parts) + tables.download(figure.name, figure.rows)


def _plan(sweep: "Sweep") -> str:
    done = sum(r["status"] == "done" for r in sweep.records)
    bad = [r for r in sweep.records if r["status"] != "done"]
    out = f"<h2>Plan and failures</h2><p class='note'>{len(sweep.plan) or len(sweep.records):,} planned, {done:,} done, "
    out += f"{len(bad):,} diverged or failed, {len(sweep.missing):,} not run yet.</p>"
    if bad:
        failures = ((r["trial"], r["status"], str(r["reason"] or "–")) for r in bad[: tables.ROWS])
        out += tables.table(("trial", "status", "reason"), failures, label="Failures")
    if sweep.missing:
        names = "<br>".join(svg.tag("code", svg.escape(t.id)) for t in sweep.missing[: tables.ROWS])
        out += f"<details><summary>{words.count(len(sweep.missing), 'trial')} not run yet</summary><p>{names}</p></details>"
    return out


def _provenance(sweep: "Sweep") -> str:
    return "<h2>Provenance</h2>" + tables.table(("what", "value"), sweep.provenance(), label="Provenance", kind="provenance")
