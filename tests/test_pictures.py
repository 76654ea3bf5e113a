"""What the pictures of a report say beside their marks."""

import re

import numpy as np
import pytest
import synthetic

from cnn_jax import report, stats
from cnn_jax.report import findings, glossary, matrix, plots, words
from cnn_jax.report.inside_sweep.measures import _TITLES
from cnn_jax.trial import ModelConfig, Trial


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report.write(synthetic.folder(tmp_path_factory.mktemp("sweep"), synthetic.sweep(effect=0.02))).read_text()


def section(page, name):
    return re.search(rf'<section id="{name}">.*?</section>', page, re.S)[0]


FIGURES = (
    "accuracy_by_factor",
    "interactions",
    "against_best",
    "noise_floor",
    "cost",
    "learning_curves",
    "parallel",
    "disagreement",
)


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_says_what_it_shows_in_this_sweep(name, page):
    assert re.search(r'<p class="finding">[^<]{20,}</p>', section(page, name))


def test_findings_are_those_of_the_sweep():
    analysis = stats.analyse(synthetic.sweep(effect=0.02))
    found = findings.of("accuracy_by_factor", analysis)
    means = {name: e.value for name, e in next(t for t in analysis.effects.terms if t.name == "filters").levels}
    assert f"filters 32 has {words.percent(means['32'])} and 8 {words.percent(means['8'])}" in found
    worse = sum(c.distinguishable for c in analysis.comparisons)
    assert findings.of("against_best", analysis).startswith(f"{worse} of the 11 other cells")
    smallest = f"3 seeds {100 * analysis.smallest:.2f} points"
    assert smallest in findings.of("noise_floor", analysis)


@pytest.mark.parametrize("name", ["accuracy_by_factor", "learning_curves", "parallel"])
def test_marks_of_runs_name_trial_seed_and_value(name, page):
    titles = re.findall(r"<title>(.*?)</title>", section(page, name))
    runs = [title for title in titles if "trial" in title]
    assert len(runs) >= 36
    assert all(re.search(r"seed \d+: \d+\.\d+ %.*\(trial [\w-]+\)", title) for title in runs)


def test_axes_have_names_and_units(page):
    for name in ("accuracy_by_factor", "interactions", "cost"):
        assert section(page, name).count("validation accuracy, %</text>") == section(page, name).count("<svg ")
    curves = section(page, "learning_curves")
    assert curves.count(">epoch</text>") == curves.count("accuracy, %</text>") == 12

    axes = re.findall(r'class="axis">([^<]*)</text>', section(page, "parallel"))
    assert axes[-2:] == ["validation, %", "test, %"]
    assert "training, s" in axes


def test_a_confusion_matrix_names_its_axes():
    assert re.findall(r'class="axis"[^>]*>([^<]*)<', matrix.confusion(np.eye(3, dtype=int), "abc")) == ["answer", "label"]


def test_no_interval_of_a_difference_of_accuracies_leaves_what_is_possible():
    # One cell of two whose two runs lie far apart: Student's t alone would give hundreds of points.
    records = [
        synthetic.record(Trial(ModelConfig("cnn", (f,)), seed=s), a)
        for f, s, a in ((8, 0, 0.05), (8, 1, 0.95), (16, 0, 0.2), (16, 1, 0.9))
    ]
    analysis = stats.analyse(records)
    found = [e for c in analysis.comparisons for e in (c.difference, c.simultaneous)]
    found += [
        e for t in analysis.effects.terms for c in (t.span, t.extremes, *t.contrasts) for e in (c.estimate, c.simultaneous)
    ]
    assert found
    assert all(e.known and -1 <= e.low < e.high <= 1 for e in found)


def test_measures_have_titles():
    assert set(_TITLES) >= {"alike", "alike_others", "purity"}
    assert "_" not in "".join(_TITLES.values())


def test_a_level_has_one_colour_in_all_pictures(page):
    # Of padding: valid is the first level, same the second; each is a panel's dots and an interaction's line.
    padding = section(page, "accuracy_by_factor").split("<svg ")[3]
    assert set(re.findall(r'class="dot (c\d)"', padding)) == {"c0", "c1"}
    for panel in section(page, "interactions").split("<svg ")[1:]:
        if "padding:</text>" in panel:
            drawn = re.findall(r'class="line (c\d)"/><text [^>]*>(valid|same)<', panel)
            assert {level: colour for colour, level in drawn} == {"valid": "c0", "same": "c1"}


def test_no_interval_of_an_accuracy_leaves_0_and_1():
    records = synthetic.sweep(filters=(8, 16), kernels=(3,), sd=0.05, effect=0.01)
    analysis = stats.analyse(records)
    for figure in (plots.by_factor(analysis), plots.interactions(analysis), plots.cost(analysis)):
        for row in figure.rows:
            if "low" in row:
                assert 0 <= row["low"] <= row["high"] <= 1


@pytest.mark.parametrize("term", ["noise floor", "winner's curse", "Holm's correction", "partial ω² (omega squared)"])
def test_the_glossary_has_the_terms_of_the_page(term, page):
    assert term in [name for name, _ in glossary.TERMS]
    assert term.replace("'", "&#x27;") in page
