"""Reference pages have every flag, name, column and field; the tutorial prints what it says; pictures are those of the code."""

import csv
import importlib.util
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import synthetic
from test_fuzz_cli import launch
from test_readme import code_lines, listings

import cnn_jax
from cnn_jax import sweep
from cnn_jax.cli import commands, flags
from cnn_jax.records import store
from cnn_jax.records.record import Record
from cnn_jax.report import table

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text()


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the folder docs."""
    monkeypatch.syspath_prepend(DOCS)
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("reference", monkeypatch)


def documented(page: str) -> list[str]:
    """Names of the flags of a page, in order."""
    return re.findall(r"^:::\{option\} --(?:\[no\])?(\w+)(?:=VALUE)?\n\S", page, re.MULTILINE)


def test_every_flag_of_a_sweep_is_documented(reference: ModuleType) -> None:
    known = {*sweep.AXES, *flags.SWEEP_FLAGS, *flags.BOOLEANS, "option"}
    assert sorted(documented(reference.flags_page())) == sorted(known)
    assert "default 0.001" in reference.flags_page()
    assert "## Machines" in reference.flags_page()


def test_every_command_is_documented_with_its_flags(reference: ModuleType) -> None:
    page = reference.commands_page()
    sections = dict(zip(*[iter(re.split(r"^## (.*)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert list(sections) == list(commands.COMMANDS)
    assert documented(sections["inspect"]) == ["layer", "channel", "image", "panel", "out"]
    assert documented(sections["paper"]) == ["quick"]  # those of a sweep have their page
    assert documented(sections["compare"]) == []


def test_every_public_name_is_documented(reference: ModuleType) -> None:
    page = reference.python_page()
    found = re.findall(r"^\.\. auto\w+:: cnn_jax\.(\w+)$", page, re.MULTILINE)
    assert sorted(found) == sorted(set(cnn_jax.__all__) - {"__version__"})
    assert ".. autoclass:: cnn_jax.Trial" in page
    assert ".. autofunction:: cnn_jax.conv\n" in page
    assert ".. autoexception:: cnn_jax.UsageError" in page
    assert cnn_jax.__version__ in page


def test_modules_that_the_pages_name_are_documented(reference: ModuleType) -> None:
    text = "\n".join(page.read_text() for page in DOCS.glob("*.md"))
    shown = {module.__name__ for package in reference.PACKAGES for module in reference.modules(package)} | {"cnn_jax"}
    for name in set(re.findall(r"`(cnn_jax(?:\.\w+)+)`", text)):
        above = name.rpartition(".")[0]
        ours = above == "cnn_jax" and (importlib.util.find_spec(name) or name.removeprefix("cnn_jax.") in cnn_jax.__all__)
        assert {name, above, above.rpartition(".")[0]} & shown - {"cnn_jax"} or ours, name


def test_every_column_of_results_is_explained(reference: ModuleType, tmp_path: Path) -> None:
    explained = reference.columns()
    assert all(explained.values()), [name for name, text in explained.items() if not text]
    assert explained["test_ece"].startswith("Expected calibration error")
    synthetic.folder(tmp_path, synthetic.sweep(seeds=1))
    header = next(csv.reader(io.StringIO(table.results_csv(store.read(tmp_path)))))
    assert set(header) <= set(explained)


def test_every_field_of_a_record_is_explained(reference: ModuleType) -> None:
    fields = reference.members(Record)
    assert list(fields) == list(Record.__dataclass_fields__)
    assert all(member.comment for member in fields.values())
    assert fields["macs"].annotation == "int | None"
    assert fields["macs"].default == "None"
    page = reference.results_page()
    assert "| `learning_rate` | `float` | `0.001` | peak of the schedule. |" in page
    assert not re.findall(r"^\| `\w+` \| `.*` \|\s*\|$", page, re.MULTILINE)  # no field without a meaning


def test_a_field_with_a_comment_and_a_nested_default(reference: ModuleType) -> None:
    assert reference.members(cnn_jax.DataConfig)["validation_fraction"] == reference.Member(
        "float", "0.1", "of the training images"
    )


def test_models_have_the_published_numbers_of_parameters(reference: ModuleType) -> None:
    page = reference.models_page()
    assert "| `chapter` | 28x28x1 | 54,410 | 248,768 |" in page
    assert "| `resnet20` | 32x32x3 | 269,722 |" in page


def test_the_navigation_has_every_page_once(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = load("conf", monkeypatch)
    shown = [page for pages in conf.sections().values() for page in pages]
    written = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob("**/*.md")}
    assert len(shown) == len(set(shown))
    assert set(shown) == written - {"index"} | set(reference.PAGES)
    assert shown[0] == "tutorial"
    # A page that is missing is left out, and one that nobody listed is there.
    monkeypatch.setattr(conf, "NAVIGATION", {"Tutorial": ["no_such_page"], "How to": ["data"]})
    assert conf.sections()["Tutorial"] == []
    assert "statistics" in conf.sections()["How to"]
    assert ":caption: How to\n\ndata\n" in conf.navigation()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x (N, *S, C)", r"x (N, \*S, C)"),
        ("all `Trial`s of `a*b`", r"all ``Trial``\ s of ``a*b``"),
        ("`two\nlines` here", "``two\nlines`` here"),
        ("a | b", r"a \| b"),
    ],
)
def test_docstrings_are_no_markup(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = text.split("\n")
    load("conf", monkeypatch).as_restructured_text(None, "function", "", None, None, lines)
    assert "\n".join(lines) == expected


def test_pictures_of_padding_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = load("padding_pictures", monkeypatch).pictures()
    folder = DOCS / "pictures" / "padding"
    assert {path.name for path in folder.iterdir()} == set(drawn)
    for name, text in drawn.items():
        assert (folder / name).read_text() == text, f"{name}: run python docs/padding_pictures.py"
    # The first row of the numbers 1 to 16 under 'reflect', and the corner of a white image under zeros: 9 of 25 weights.
    assert re.findall(r">(\d+)</text>", drawn["reflect-numbers.svg"])[:8] == ["11", "10", "9", "10", "11", "12", "11", "10"]
    assert "output 8 x 8, 0.36 to 1.00" in drawn["same-white.svg"]
    assert "output 12 x 12, 0.04 to 1.00" in drawn["full-white.svg"]


def steps() -> list[tuple[str, str]]:
    """The commands of the tutorial, each with the output that follows it."""
    return re.findall(r"^    (python launch\.py[^\n]*)\n\n```\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)


def trains(command: str) -> bool:
    return "describe" not in command and "--dry_run" not in command


def files(folder: Path) -> None:
    for listing in listings(TUTORIAL):
        path = folder / listing.split("\n")[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(listing)


def test_every_command_of_the_tutorial_has_an_output() -> None:
    lines = [line for line in code_lines(TUTORIAL) if line.startswith("python ")]
    assert [command for command, _ in steps()] == lines
    assert len(lines) >= 11
    for _, output in steps():
        assert output.strip()
    assert len(re.findall(r"^!\[", TUTORIAL, re.MULTILINE)) >= 6  # a picture for each step that has one


@pytest.mark.parametrize("step", [step for step in steps() if not trains(step[0])], ids=lambda step: step[0][17:60])
def test_what_trains_nothing_prints_what_the_tutorial_says(
    step: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    files(tmp_path)
    command, expected = step
    status, out, err = launch([word for word in command.split()[2:] if word != "--dry_run"])
    assert (status, err) == (0, "")
    assert out.split() == expected.split()  # long lines are wrapped in the tutorial


def cells(lines: list[str]) -> set[str]:
    """The cells of a table of accuracies: what stands before the first one in each row."""
    rows = itertools.takewhile(str.strip, itertools.dropwhile(lambda line: " validation " not in line, lines))
    return {" ".join(match[1].split()) for row in rows if (match := re.match(r"(.*?)\s+[\d.]+ %", row))}


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Accuracies may differ on another machine; names, cells and files may not."""
    files(tmp_path)
    for command, expected in steps():
        words = [sys.executable, str(ROOT / "launch.py"), *command.split()[2:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command
        out = [line for line in done.stdout.splitlines() if not re.match(r"\d+/\d+ trials", line)]
        said = expected.strip().splitlines()
        if "inspect" not in command:  # which names the best network
            first = out[0].split()  # long lines are wrapped in the tutorial
            assert first == expected.split()[: len(first)], command
        assert cells(out) == cells(said), command
    for name in ("grid/report.html", "padding/report.html", "mine/report.html", "grid/inspect/inspect.html", "grid/card.png"):
        assert (tmp_path / "runs" / name).is_file()
