"""A sweep's answer as a picture of 1200 x 630 pixels, for a talk or a README."""

import dataclasses
import io
from typing import TYPE_CHECKING

from cnn_jax import stats
from cnn_jax.report import answer, svg, words
from cnn_jax.report.plots.factors import LEVELS, level_mean
from cnn_jax.report.plots.figure import clip
from cnn_jax.report.raster import PLAIN, font

if TYPE_CHECKING:
    from PIL import ImageDraw

SIZE = (1200, 630)
FINE = 2  # drawn at this many times the size, then averaged, so that lines are smooth
# Colours of page.css: paper, ink, soft, rule, and those of levels.
PAPER, INK, SOFT, RULE = "#ffffff", "#16191d", "#5b6470", "#dfe3e8"
LEVEL_COLOURS = ("#0072b2", "#d98200", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a800", "#7a828c")


def png(analysis: stats.Analysis, title: str) -> bytes:
    """The picture as a PNG file.

    Args:
        analysis: Of the sweep.
        title: Line above the headline.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), PAPER)
    sheet = _Sheet(ImageDraw.Draw(image))
    sheet.text(60, 38, title, 22, SOFT)
    below = sheet.paragraph(60, 76, 1080, 190, answer.headline(analysis), 44, INK)
    factor = _factor(analysis)
    top = below + 36
    if factor and analysis.cells:
        _chart(sheet, analysis, factor, (60.0, top, 740.0, 560.0))
    facts = [*answer.details(analysis)[:3], *answer.cautions(analysis)[:1]]
    right = 800 if factor else 60
    sheet.paragraph(right, top, 1140 - right, 545 - top, "\n".join(facts), 20, INK)
    sheet.text(60, 590, f"{_counts(analysis)}; 95 % intervals for {analysis.population}", 17, SOFT)
    buffer = io.BytesIO()
    image.resize(SIZE, Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _counts(analysis: stats.Analysis) -> str:
    run = "seed" if analysis.measured.of_images else "run"
    done, cells = words.count(analysis.count("done"), "trial"), words.count(len(analysis.design.cells), "cell")
    return f"cnn_jax: {done}, {cells}, {words.extent(*analysis.runs)} {run}s per cell"


def _factor(analysis: stats.Analysis) -> str | None:
    """The factor to draw: of largest claimed effect, else the first with few enough levels."""
    few = [name for name, levels in analysis.design.factors.items() if len(levels) <= LEVELS]
    main = [t for t in analysis.effects.terms if t.claimed and t.name in few]
    return max(main, key=lambda t: abs(t.extremes.estimate.value)).name if main else few[0] if few else None


def _chart(sheet: "_Sheet", analysis: stats.Analysis, factor: str, area: tuple[float, float, float, float]) -> None:
    """Runs as dots and level means with their intervals, as in the report."""
    left, top, right, bottom = area
    units, levels = words.units(analysis), analysis.design.factors[factor]
    means = [level_mean(analysis, factor, level) for level in levels]
    runs = [float(v) for c in analysis.cells for v in c.values(analysis.metric)]
    y = svg.Scale.around([*runs, *(v for e in means if e and e.known for v in (e.low, e.high))], bottom - 52, top + 30)
    sheet.text(left, top, units.axis, 17, SOFT)
    for tick in y.ticks():
        sheet.line((left + 62, y(tick)), (right, y(tick)), RULE, 1)
        sheet.text(left + 52, y(tick) - 9, units.tick(tick), 16, SOFT, anchor="ra")
    width = (right - left - 62) / len(levels)
    for at, (level, mean) in enumerate(zip(levels, means, strict=True)):
        x = left + 62 + width * (at + 0.5)
        cells = [c for c in analysis.cells if c.levels[factor] == level]
        for j, cell in enumerate(cells):
            place = x + min(width * 0.55, 150) * ((j + 0.5) / len(cells) - 0.5) - width * 0.06
            for value in cell.values(analysis.metric):
                sheet.dot((place, y(float(value))), 4, LEVEL_COLOURS[at % len(LEVEL_COLOURS)])
        if mean:
            mark = x + min(width * 0.38, 110)
            if mean.known:
                sheet.line((mark, y(mean.low)), (mark, y(mean.high)), INK, 3)
            sheet.dot((mark, y(mean.value)), 7, INK)
        sheet.text(x, bottom - 44, clip(stats.text(level), max(4, int(width / 10))), 18, INK, anchor="ma")
    sheet.text((left + 62 + right) / 2, bottom - 18, factor, 18, SOFT, anchor="ma")


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """Drawing in the coordinates of the finished picture."""

    draw: "ImageDraw.ImageDraw"

    def text(self, x: float, y: float, text: str, size: float, colour: str, *, anchor: str = "la") -> None:
        self.draw.text((x * FINE, y * FINE), text.translate(PLAIN), colour, font(size * FINE), anchor=anchor)

    def line(self, start: svg.Point, end: svg.Point, colour: str, width: float) -> None:
        self.draw.line([(start[0] * FINE, start[1] * FINE), (end[0] * FINE, end[1] * FINE)], colour, round(width * FINE))

    def dot(self, centre: svg.Point, radius: float, colour: str) -> None:
        x, y = centre[0] * FINE, centre[1] * FINE
        self.draw.ellipse((x - radius * FINE, y - radius * FINE, x + radius * FINE, y + radius * FINE), colour)

    def paragraph(self, x: float, y: float, width: float, height: float, text: str, size: float, colour: str) -> float:
        """Text in lines of a width, as large as `size` or as fits the height, never below 11; returns where it ends."""
        while True:
            lines = self._wrapped(text, width, size)
            if len(lines) * size * 1.3 <= height or size <= 11:
                break
            size -= 1
        for at, line in enumerate(lines):
            self.text(x, y + at * size * 1.3, line, size, colour)
        return y + len(lines) * size * 1.3

    def _wrapped(self, text: str, width: float, size: float) -> list[str]:
        face, lines = font(size * FINE), []
        for part in text.split("\n"):
            line: list[str] = []
            for word in part.split():
                if line and self.draw.textlength(" ".join([*line, word]).translate(PLAIN), face) > width * FINE:
                    lines.append(" ".join(line))
                    line = []
                line.append(word)
            lines += [" ".join(line), ""]  # a blank line between paragraphs
        return lines[:-1]
