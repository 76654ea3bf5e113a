"""What the page does on a phone, with a finger and with keys, in Chromium."""

import re

import pytest
import synthetic

from cnn_jax import report
from cnn_jax.report import page_tables
from cnn_jax.report.html import document, style
from cnn_jax.report.plots.figure import in_heat
from tests.chromium import in_window, needs_chromium

SHOWN = "[...page.querySelectorAll('#disagreement .pair')].filter((pair) => pair.getClientRects().length)"


@pytest.fixture
def page(tmp_path):
    return report.write(synthetic.folder(tmp_path / "sweep", synthetic.sweep())).read_text()


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, width, tmp_path):
    script = "out([page.documentElement.scrollWidth, view.innerWidth]);"
    content, window = in_window(page, width, script, tmp_path)
    assert content <= window == width


@needs_chromium
def test_on_a_phone_accuracies_squares_and_provenance_are_seen_without_scrolling(page, tmp_path):
    script = """
    const boxes = (selector) => [...page.querySelectorAll(selector)].map((one) => one.getBoundingClientRect());
    const right = (selector) => Math.max(...boxes(selector).map((box) => box.right));
    out({ accuracy: right("#cells td:nth-child(5)"), provenance: right("#provenance td"),
          square: right("#disagreement svg.only-narrow .pair"), wide: right("#disagreement svg.only-wide .pair"),
          side: page.querySelector("#disagreement svg.only-narrow .pair").getBoundingClientRect().width });
    """
    got = in_window(page, 390, script, tmp_path)
    assert max(got["accuracy"], got["provenance"], got["square"]) <= 390
    assert got["side"] > 20
    assert got["wide"] == 0  # not drawn


@needs_chromium
def test_a_finger_beside_a_mark_names_its_run(page, tmp_path):
    script = """
    const section = page.querySelector("#accuracy_by_factor"), dot = section.querySelector("circle.dot");
    dot.scrollIntoView({ block: "center" });
    const place = dot.getBoundingClientRect(), picture = dot.ownerSVGElement, corner = picture.getBoundingClientRect();
    const line = section.querySelector(".tapped"), says = [];
    for (const [clientX, clientY] of [[place.left - 8, place.top + 2], [corner.left + 1, corner.bottom - 1]]) {
      picture.dispatchEvent(new view.MouseEvent("click", { bubbles: true, clientX, clientY }));
      says.push(line.textContent);
    }
    out(says);
    """
    near, far = in_window(page, 390, script, tmp_path)
    assert re.search(r"filters=\d+ .*, seed \d+: [\d.]+ % \(trial ", near)
    assert far == ""


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_squares_of_disagreement_are_buttons_for_keys(page, width, tmp_path):
    script = f"""
    const pairs = {SHOWN}, stops = () => pairs.filter((pair) => pair.tabIndex === 0).length;
    const press = (key) => page.activeElement.dispatchEvent(new view.KeyboardEvent("keydown", {{ key, bubbles: true }}));
    const before = stops();
    pairs[0].focus();
    press("ArrowRight");
    press("ArrowDown");
    const at = page.activeElement;
    press("ArrowUp");
    press("ArrowUp");
    out({{ count: pairs.length, before, after: stops(), at: [at.dataset.a, at.dataset.b], role: at.getAttribute("role"),
          label: at.getAttribute("aria-label"), svg: at.parentElement.getAttribute("role"),
          top: page.activeElement.dataset.a, says: page.querySelector(".flips").textContent }});
    """
    got = in_window(page, width, script, tmp_path)
    assert got["count"] == 144
    assert got["before"] == got["after"] == 1
    assert got["at"] == ["1", "1"]
    assert got["top"] == "0"  # the last key leads out of the matrix, and nowhere
    assert got["role"] == "button"
    assert "disagree on" in got["label"]
    assert got["svg"] == "group"
    assert re.match(r"filters=.* right, filters=.* wrong: ", got["says"])


def _contrast(a, b):
    def luminance(colour):
        shares = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (x / 255 for x in colour)]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), shares, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("square", ["heat", "right"])
def test_numbers_in_squares_can_be_read(square, dark):
    """Web Content Accessibility Guidelines 2.1, contrast of text: at least 3 for large, 4.5 for small; 4 is kept here."""
    text = style()
    found = dict(re.findall(r"--(\w+): #([0-9a-f]{6})", text[: text.index("background: var(--paper)")]))
    if dark:
        found |= dict(
            re.findall(r"--(\w+): #([0-9a-f]{6})", text[text.index("prefers-color-scheme: dark") :].partition("@media")[0])
        )
    colours = {name: [int(value[i : i + 2], 16) for i in (0, 2, 4)] for name, value in found.items()}
    assert "svg .in-heat.dark { fill: #fff; }" in text
    for percent in range(5, 101):
        share = percent / 100
        under = [share * x + (1 - share) * y for x, y in zip(colours[square], colours["card"], strict=True)]
        white = square == "heat" and "dark" in in_heat(share)
        assert _contrast(under, [255, 255, 255] if white else colours["ink"]) >= 4, share


@needs_chromium
def test_on_a_phone_sentences_of_a_table_break_so_that_their_numbers_are_seen(tmp_path):
    rows = [
        (
            "undecided",
            "A convolutional network needs far fewer parameters than a dense one.",
            "−38.9 (−108.1 to +30.4)",
            "0.664",
        )
    ]
    table = page_tables.table(("verdict", "sentence", "measured", "p"), rows, kind="effects")
    page = document("", "", [("verdicts", "", table)], "", style())
    script = "out(page.querySelector('td:nth-child(3)').getBoundingClientRect().right);"
    assert in_window(page, 390, script, tmp_path) <= 390
