"""Converts the rules of page.css to attributes of a picture's elements, in light colours: no style sheet is needed."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from importlib import resources

# Selectors of rules for marks: 'svg .tick', '.line.training', 'svg text'. Others are about the page.
_SELECTOR = re.compile(r"(?:svg )?(text)?((?:\.[\w-]+)*)")
_FONT = re.compile(r"([\d.]+)px (.*)", re.S)


@dataclasses.dataclass(frozen=True)
class _Rule:
    tag: str
    classes: frozenset[str]
    declared: tuple[tuple[str, str], ...]


@functools.cache
def _sheet() -> tuple[tuple[_Rule, ...], dict[str, str]]:
    """Rules in order of specificity, and the page's colours by name."""
    text = resources.files("cnn_jax.report").joinpath("page.css").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S).partition("@media")[0]
    colours = {name: value for name, value in re.findall(r"(--[\w-]+): ([^;{}]+);", text) if "var(" not in value}
    rules = []
    for selectors, body in re.findall(r"([^{};]+)\{([^{}]*)\}", text):
        declared = tuple(
            (name.strip(), value.strip()) for name, colon, value in (d.partition(":") for d in body.split(";")) if colon
        )
        for selector in selectors.split(","):
            found = _SELECTOR.fullmatch(selector.strip())
            if found and (found[1] or found[2]):
                rules.append(_Rule(found[1] or "", frozenset(filter(None, (found[2] or "").split("."))), declared))
    return tuple(sorted(rules, key=lambda rule: (len(rule.classes), bool(rule.tag)))), colours


def attributes(tag: str, classes: Iterable[str], inherited: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Presentation attributes of an element, and the custom properties that elements inside of it inherit."""
    rules, colours = _sheet()
    own = frozenset(classes)
    styles: dict[str, str] = {}
    for rule in rules:
        if rule.classes <= own and (not rule.tag or rule.tag == tag):
            styles.update(rule.declared)
    custom = dict(inherited) | {name: value for name, value in styles.items() if name.startswith("--")}
    found: dict[str, str] = {}
    for name, value in styles.items():
        if name == "font" and (font := _FONT.fullmatch(value)):
            found |= {"font-size": font[1], "font-family": font[2].replace('"', "'")}
        elif name in _PRESENTED:
            found[name] = _resolved(value, custom | colours).removesuffix("px")
    return {name: "none" if value == "transparent" else value for name, value in found.items()}, custom


_PRESENTED = {
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linejoin", "stroke-linecap",
    "font-weight", "font-size", "paint-order",
}  # fmt: skip


def _resolved(value: str, known: Mapping[str, str]) -> str:
    """A value without var(): a custom property may name another one."""
    for _ in range(3):
        value = re.sub(r"var\((--[\w-]+)\)", lambda found: known.get(found[1], "none"), value)
    return value


def colour(value: str) -> str:
    """A colour of an attribute that may name a custom property."""
    return _resolved(value, _sheet()[1])
