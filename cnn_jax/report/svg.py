"""Pictures as SVG text: scales, axes and marks. Colours are CSS classes, so one picture serves light, dark and paper."""

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Sequence

COLOURS = 8  # classes c0 to c7 of style.css
Point = tuple[float, float]


def escape(value: object) -> str:
    """Text that is safe between tags and in attributes."""
    return html.escape(str(value), quote=True)


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """An element; `content` is markup, attributes are escaped: class_ -> class, text_anchor -> text-anchor, None: left out."""
    words = [f'{k.rstrip("_").replace("_", "-")}="{_attribute(v)}"' for k, v in attributes.items() if v is not None]
    head = " ".join([name, *words])
    return f"<{head}>{content}</{name}>" if content else f"<{head}/>"


def _attribute(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape(value)


def text(x: float, y: float, content: object, *, anchor: str = "start", **attributes: object) -> str:
    """A text element; `content` is escaped."""
    return tag("text", escape(content), x=float(x), y=float(y), text_anchor=anchor, **attributes)


def picture(width: float, height: float, body: Iterable[str], label: str, **attributes: object) -> str:
    """The svg element; `label` is its text for screen readers, which enter it if its role is "group"."""
    shown = {"role": "img"} | attributes
    return tag("svg", "".join(body), viewBox=f"0 0 {width:g} {height:g}", aria_label=label, **shown)


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values in [low, high] to pixels in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, *, log: bool = False, pad: float = 0.05) -> "Scale":
        """A scale that shows all finite values with a margin; [0, 1] if there are none."""
        finite = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else ((0.1, 1.0) if log else (0.0, 1.0))
        if log:
            margin = (high / low) ** pad if high > low else 2.0
            return cls(low / margin, high * margin, start, end, True)
        margin = (high - low) * pad if high > low else max(abs(high), 1e-3) * pad
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        f: Callable[[float], float] = math.log if self.log else float
        return round(self.start + (f(value) - f(self.low)) / (f(self.high) - f(self.low)) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values inside the scale: 1, 2 or 5 times a power of ten."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
                marks = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
                if len(marks) >= 3:
                    return marks[:: math.ceil(len(marks) / (count + 1))]
            return marks
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def left_axis(y: Scale, x0: float, x1: float, form: Callable[[float], str], title: str = "") -> list[str]:
    """Horizontal grid lines with their values, and the title above the axis."""
    out = []
    for value in y.ticks():
        out.append(tag("line", class_="grid", x1=x0, x2=x1, y1=y(value), y2=y(value)))
        out.append(text(x0 - 6, y(value) + 4, form(value), anchor="end", class_="tick"))
    return [*out, text(2, y.end - 10, title, class_="axis")] if title else out


def bottom_axis(x: Scale, y0: float, y1: float, form: Callable[[float], str], title: str = "", count: int = 5) -> list[str]:
    """Vertical grid lines with their values below, and the title below those."""
    out = []
    for value in x.ticks(count):
        out.append(tag("line", class_="grid", x1=x(value), x2=x(value), y1=y0, y2=y1))
        out.append(text(x(value), y1 + 16, form(value), anchor="middle", class_="tick"))
    return [*out, text((x.start + x.end) / 2, y1 + 34, title, anchor="middle", class_="axis")] if title else out


def line(points: Sequence[Point], class_: str) -> str:
    """A polyline without fill."""
    return tag("path", d="M" + "L".join(f"{x:g} {y:g}" for x, y in points), class_=f"line {class_}") if points else ""


def dots(points: Sequence[Point], class_: str, titles: Sequence[str] | None = None) -> str:
    """A dot per point. With titles, each is an element with a tooltip; without, all are one path.

    Ten thousand elements make a browser slow, and a report large: one path with round caps looks the same.
    """
    if titles is None:
        return tag("path", d="".join(f"M{x:g} {y:g}h0" for x, y in points), class_=f"dots {class_}") if points else ""
    return "".join(
        tag("circle", tag("title", escape(title)), cx=x, cy=y, r=3, class_=f"dot {class_}")
        for (x, y), title in zip(points, titles, strict=True)
    )


def whisker(x: float, low: float, mid: float, high: float, class_: str, *, across: bool = False) -> str:
    """An interval with its centre as a diamond; `across`: it lies along x and the first argument is its y."""

    def at(a: float, b: float) -> str:
        return f"{b:g} {a:g}" if across else f"{a:g} {b:g}"

    bar = ""
    if math.isfinite(low) and math.isfinite(high):
        bar = f"M{at(x, low)}L{at(x, high)}M{at(x - 4, low)}L{at(x + 4, low)}M{at(x - 4, high)}L{at(x + 4, high)}"
    diamond = "M" + "L".join(at(x + dx, mid + dy) for dx, dy in ((-5, 0), (0, 5), (5, 0), (0, -5))) + "Z"
    return (tag("path", d=bar, class_=f"whisker {class_}") if bar else "") + tag("path", d=diamond, class_=f"mean {class_}")
