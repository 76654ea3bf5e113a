"""The built site (`make docs`): every flag and name has its place, links lead somewhere, nothing is fetched from outside."""

import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from absl import flags as absl_flags

import cnn_jax
from cnn_jax.cli import flags

pytestmark = [pytest.mark.docs, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
VIEWS = {"wide-dark": (1280, 900), "phone": (390, 844)}
# Attributes that a browser fetches at once; those of a link, when it is followed.
FETCHED = {("img", "src"), ("script", "src"), ("iframe", "src"), ("link", "href"), ("source", "srcset"), ("object", "data")}


class Page(HTMLParser):
    """What a page fetches, where its links lead, and the names that links may lead to."""

    def __init__(self, path: Path):
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if value and (tag, name) in FETCHED:
                self.fetched.append(value)
            if value and (tag, name) == ("a", "href"):
                self.links.append(value)


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    if not SITE.is_dir():
        pytest.skip("the site is not built: make docs")
    return {path: Page(path) for path in SITE.rglob("*.html")}


def test_every_flag_has_a_place(pages: dict[Path, Page]) -> None:
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    ids = pages[SITE / "reference" / "flags.html"].ids
    own = [flag.name for module, found in values.flags_by_module_dict().items() if "absl" not in module for flag in found]
    assert len(own) > 40
    for name in own:
        assert {f"cmdoption-launch.py-{name}", f"cmdoption-launch.py-no-{name}"} & ids, name


def test_every_public_name_has_a_place(pages: dict[Path, Page]) -> None:
    ids = pages[SITE / "reference" / "python.html"].ids
    for name in set(cnn_jax.__all__) - {"__version__"}:
        assert f"cnn_jax.{name}" in ids, name
    assert "cnn_jax.training.step.train_step" in pages[SITE / "reference" / "training.html"].ids


def test_nothing_is_fetched_from_outside(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not [address for address in page.fetched if urlparse(address).netloc], path
    for sheet in SITE.rglob("*.css"):
        assert "url(http" not in sheet.read_text().replace("'", "").replace('"', ""), sheet
        assert "@import" not in sheet.read_text(), sheet


def test_links_lead_somewhere(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for link in page.links:
            address = urlparse(link)
            if address.scheme or not (address.path or address.fragment):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.exists(), (path, link)
            if address.fragment and target in pages and path.name not in ("genindex.html", "py-modindex.html"):
                assert unquote(address.fragment) in pages[target].ids, (path, link)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["index.html", "tutorial.html", "padding.html", "reference/flags.html"])
def test_a_page_is_clean_in_chromium(
    name: str, view: str, pages: dict[Path, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium")
    monkeypatch.syspath_prepend(ROOT / "docs")
    sys.modules.pop("screenshots", None)
    import screenshots

    assert screenshots.shoot(browser, SITE / name, tmp_path / f"{view}.png", VIEWS[view]) == []
