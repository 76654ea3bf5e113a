"""Configuration of Sphinx: the site of these pages, as `make docs` builds it."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import reference  # noqa: E402

import cnn_jax  # noqa: E402

project, author, version = "cnn_jax", "the cnn_jax authors", cnn_jax.__version__
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
highlight_language = "none"
smartquotes = False  # --flag is no dash, and S' no quotation
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

# A short name in a signature, such as Images, may have several homes: it is then not a link.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"cnn_jax {version}"
html_show_sourcelink = False
html_copy_source = False
html_static_path: list[str] = []

# Pages by what they are for, in order. A page that is not listed here is a how-to page; one that does not exist is left out.
NAVIGATION = {
    "Tutorial": ["tutorial", "chapter"],
    "How to": [
        "own-model", "own-layer", "own-axis", "data", "training", "colab", "python", "resume", "compare", "distributed",
        "accelerators", "inspect", "measures", "papers", "export", "results-of-other-tools",
    ],
    "Reference": list(reference.PAGES),
    "Explanation": [
        "how-a-trial-runs", "statistics", "padding", "the-page", "speed", "scaling", "how-a-kernel-works", "architecture",
    ],
}  # fmt: skip


def sections() -> dict[str, list[str]]:
    """The pages of every section: those listed in NAVIGATION that exist, and all others."""
    found = {path.relative_to(HERE).with_suffix("").as_posix() for path in HERE.glob("*.md")} - {"index"}
    found |= set(reference.PAGES)
    listed = {page for pages in NAVIGATION.values() for page in pages}
    shown = {title: [page for page in pages if page in found] for title, pages in NAVIGATION.items()}
    shown["How to"] += sorted(found - listed)
    return shown | {"Decisions": sorted(f"decisions/{path.stem}" for path in (HERE / "decisions").glob("*.md"))}


def navigation() -> str:
    """The tables of contents of the first page, which are those of the sidebar too."""
    head = ":::{toctree}\n:maxdepth: 1\n:caption: "
    return "\n\n".join("\n".join([head + title, "", *pages, ":::"]) for title, pages in sections().items() if pages)


def add_navigation(app: Any, name: str, source: list[str]) -> None:
    if name == "index":
        source[0] += "\n" + navigation() + "\n"


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in single backquotes, and in indented paragraphs of modules."""
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(_literal(text) if what == "module" else _escaped(text) for text in paragraphs).split("\n")


def _literal(paragraph: str) -> str:
    indented = all(line.startswith("    ") for line in paragraph.split("\n"))
    return f"::\n\n{paragraph}" if indented else _escaped(paragraph)


def _escaped(text: str) -> str:
    """A star such as that of (N, *S, C) is no markup, and a letter may follow code, as in `Trial`s."""
    parts = re.split(r"(`[^`]*`)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"`{part}`" + ("\\ " if parts[i + 1][:1].isalnum() else "")
        else:
            parts[i] = re.sub(r"([*|]|_\b)", r"\\\1", part)
    return "".join(parts)


def setup(app: Any) -> None:
    reference.write(HERE / "reference")
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
