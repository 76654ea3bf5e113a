"""README and docs: every listing is run, every command planned, every flag, file and make target exists (B4)."""

import contextlib
import io
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic
from absl import flags as absl_flags
from launching import plan
from PIL import Image

from cnn_jax.cli import flags

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
TEXT = "\n".join(page.read_text() for page in PAGES)
# Programs that are not ours: their lines are read, and not run.
OTHERS = ("git clone ", "pip install ", "ray start ", "export SBATCH_", "python -c ")


def listings(text: str) -> list[str]:
    """The fenced Python listings."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def code_lines(text: str) -> list[str]:
    """The lines of indented code blocks: those after an empty line, or after another line of code."""
    found, before = [], ""
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).split("\n"):
        is_code = line.startswith("    ") and (not before.strip() or (found and before == "    " + found[-1]))
        if is_code:
            found.append(line[4:])
        before = line
    return found


def spans(text: str) -> list[str]:
    """The inline code, without the fenced listings."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))]


def commands(text: str) -> list[str]:
    """Commands that run Python: code lines, and inline code that begins as one."""
    lines = [line.lstrip("!") for line in [*code_lines(text), *spans(text)] if "python " in line]
    found = [" ".join(shlex.split(line, comments=True)) for line in lines]
    return list(dict.fromkeys(line for line in found if re.match(r"(\w+=\S+ )*python (launch\.py|-m )", line)))


LISTINGS, COMMANDS = listings(TEXT), commands(TEXT)
NEEDS = {"onnx": "onnx", "torch": "torch", "keras": "keras", "jax_export": "flatbuffers", "safetensors": "safetensors"}
NEEDS_OPTUNA = "python launch.py report study.db --study=NAME"  # read by tests/test_trackers.py


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the documents works: files of the listings, three sweeps (one with parameters), TFDS descriptions."""
    home = tmp_path_factory.mktemp("reader")
    for listing in LISTINGS:
        if name := file_of(listing):
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_text(listing)
    for name in re.findall(r"report (\S+\.csv)", TEXT):
        rows = [
            f"{lr},{width},{seed},0.{9 - width // 32}{seed},0.8{seed}"
            for lr in (0.1, 0.2)
            for width in (32, 64)
            for seed in (0, 1)
        ]
        (home / name).write_text("\n".join(["lr,width,seed,accuracy,val_acc", *rows]))
    for name in ("one", "two"):
        synthetic.folder(home / name, synthetic.sweep(seeds=2))
    for name, shape, train in (("mnist/3.0.1", (28, 28, 1), 60_000), ("cifar10/3.0.2", (32, 32, 3), 50_000)):
        prepared_as_planned(home / "tfds" / name, shape, train)
    for place in (home / "images" / split / kind for split in ("train", "test") for kind in "ab"):
        place.mkdir(parents=True)
        for number in range(100):
            Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(place / f"{number}.png")
    trained = ["--filters=4", "--kernel_size=3", "--padding=valid", "--epochs=1", "--seeds=2", "--workers=1", "--snapshots=0,1"]
    command = [sys.executable, str(ROOT / "launch.py"), *trained, f"--out={home / 'runs' / 'grid'}"]
    subprocess.run(command, check=True, capture_output=True)
    return home


def prepared_as_planned(folder: Path, shape: tuple[int, ...], train: int) -> None:
    """What a plan reads of a prepared TFDS set: its descriptions, without images."""
    folder.mkdir(parents=True)
    image = {"image": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": "uint8"}}
    label = {"classLabel": {"numClasses": "10"}}
    splits = [{"name": "train", "shardLengths": [str(train)]}, {"name": "test", "shardLengths": ["10000"]}]
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": {"image": image, "label": label}}}))
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))


def file_of(listing: str) -> str:
    """'mylab/nets.py', where that is a listing's first comment."""
    match = re.match(r"# (\S+\.py)\n", listing)
    return match[1] if match else ""


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "tfds"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: file_of(listing) or listing.split("\n")[0])
def test_b4_a_listing_runs_and_prints_what_it_says(listing: str, reader: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(listing, file_of(listing) or "README.md", "exec"), {"__name__": "listing"})
    lines = [line for line in printed.getvalue().splitlines() if not re.match(r"\d+/\d+ trials", line)]  # progress
    assert lines == re.findall(r"^print\(.*\)  # (.*)$", listing, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_b4_a_command_is_planned(command: str, reader: Path) -> None:
    if command == NEEDS_OPTUNA:
        pytest.skip("Optuna is no requirement")
    words = re.sub(r"\[.*?\]|(?<= )\.\.\.(?= |$)", "", command).split()
    program, *words = words[words.index("python") + 1 :]
    if program == "-m" and not words[0].startswith("experiments."):  # benchmarks parse their own flags, and take long
        module = ROOT / words[0].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
        return
    if program == "-m":
        words[0] = pkgutil.resolve_name(words[0]).__name__.removeprefix("experiments.")
    if words[:1] == ["export"]:
        (format,) = re.findall(r"--format=(\w+)", command)
        pytest.importorskip(NEEDS[format], reason=f"requirements-export.txt: {NEEDS[format]} is not installed")
    folders = iter(["runs/grid"] if words[:1] in (["inspect"], ["measure"], ["export"]) else ["one", "two"])
    words = [next(folders) if word == "DIR" else word for word in words]
    done = plan(words)
    status, out, err = done.returncode, done.stdout, done.stderr
    assert (status, err) == (0, "")
    assert out.strip()


TINY = ["--epochs=1", "--seeds=1", "--train_examples=400", "--nokeep_params"]
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def tiny(command: str, folder: Path) -> list[str]:
    """The words of a sweep of README, with few images, epochs and seeds in place of its own."""
    words = re.sub(r"--out \S+", "", command).split()
    words = [word for word in words[2:] if word != "..." and not word.startswith(("--epochs=", "--seeds=", "--out="))]
    found = re.search(r"--dataset=(\w+)", command)
    name = found[1] if found else "mnist" if re.search(r"mnist_one_cycle|keras_mnist", command) else ""
    if name in SHAPES:
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (500, *SHAPES[name])).astype(np.uint8), np.arange(500) % 10
        np.savez(folder / f"{name}.npz", x_train=images[:400], y_train=labels[:400], x_test=images[400:], y_test=labels[400:])
        words = [*(word for word in words if not word.startswith("--dataset=")), f"--dataset=npz:{folder / name}.npz"]
    short = [word for word in TINY if word != "--nokeep_params" or words[:1] != ["chapter"]]  # which looks into its networks
    return [*words, *short, *(["--max_seeds=2"] if "--resolve" in command else [])]


def is_sweep(command: str) -> bool:
    """Whether the test above plans a command, and does not run it: the others are run there as they are."""
    whole = ("describe", "report", "compare", "inspect", "measure", "card", "doctor", "export", "paper", "--help", "--helpfull")
    return command.startswith("python launch.py") and command.split()[2:3] not in [[word] for word in whole]


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands((ROOT / "README.md").read_text()) if is_sweep(c)])
def test_b4_a_sweep_of_readme_runs(command: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "mylab", tmp_path / "mylab")
    words = [sys.executable, str(ROOT / "launch.py"), *tiny(command, tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--dry_run" in command or list(tmp_path.glob("runs/*/report.html"))


@pytest.mark.parametrize(
    "words",
    [
        ["--model=mylab.nets:two_convs"],
        ["--model=mylab.layers:scaled", "--option=start=0.5,1"],
        pytest.param(["mylab.fields"], marks=pytest.mark.slow),
        pytest.param(["--model=mylab.linen:two_dense", "--option=width=16,32"], marks=pytest.mark.slow),
        ["mylab.strides", "--dataset=mylab.shapes:shapes"],
        ["--option=loss.margin=1,2", "--recipe=mylab.recipe:RECIPE"],
    ],
)
def test_b4_the_forks_files_train(words: list[str], reader: Path) -> None:
    assert any(words[-1] in command for command in [*COMMANDS, *spans(TEXT)])
    args = [*words, "--epochs=1", "--seeds=1", "--workers=1", "--nokeep_params", "--out=out-" + re.sub(r"\W", "-", words[0])]
    done = subprocess.run([sys.executable, str(ROOT / "launch.py"), *args], cwd=reader, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_b4_every_line_of_code_is_a_command_that_is_known() -> None:
    """A line that none of the tests here would run must not pass unseen."""
    for line in code_lines(TEXT):
        known = [*OTHERS, "make "]
        assert line.startswith(tuple(known)) or " ".join(shlex.split(line, comments=True)) in COMMANDS, line
    assert not re.findall(r"^```(?!python$|$).*", TEXT, re.MULTILINE)  # listings are Python


def test_b4_nothing_is_overlooked() -> None:
    assert {"mylab/nets.py", "mylab/strides.py", "mylab/shapes.py"} <= {file_of(listing) for listing in LISTINGS}
    assert len(LISTINGS) == TEXT.count("```python")
    assert len(COMMANDS) >= len(set(re.findall(r"^    python launch.py.*", TEXT, re.MULTILINE)))
    assert code_lines("text\n\n    python launch.py --no_such\n    more\ntext\n    no code\n") == [
        "python launch.py --no_such",
        "more",
    ]
    assert commands("`python launch.py\n--a=1`, `!python launch.py --b`") == ["python launch.py --a=1", "python launch.py --b"]


def test_b4_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for code in [*code_lines(TEXT), *spans(TEXT)] for name in re.findall(r"\bmake ([a-z-]+)", code)}
    assert named
    assert named <= targets


def test_b4_flags_exist() -> None:
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    known = (
        set(values)
        | {f"no{name}" for name in values}
        | {"input_shape", "num_classes", "json", "help", "layer", "channel", "image", "panel", "measures", "factor", "quick"}
        | {"padding_card", "charts", "helpfull"}
        | {"xla_gpu_deterministic_ops"}  # of XLA
        | {"seed", "factors", "study", "lower_is_better", "metric", "format"}
    )
    parsers = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    known |= set(re.findall(r'"--(\w+)"', parsers)) | set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', parsers))
    code = [line for line in [*code_lines(TEXT), *spans(TEXT)] if not line.startswith(OTHERS)]
    named = {name for line in code for name in re.findall(r"(?<!\S)--(\w+)", line.replace('"', " "))}
    assert "learning_rate" in named
    assert named <= known


def test_b4_files_and_names_exist() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert list(page.parent.glob(link + "*")), (page.name, link)
    for code in [*code_lines(TEXT), *spans(TEXT)]:
        for name in re.findall(r"\b(?:cnn_jax|docs|tests|experiments|benchmarks)/[\w/.-]+\w|\brequirements[\w-]*\.txt", code):
            assert (ROOT / name).exists(), name
    for name in re.findall(r"`(cnn_jax(?:\.\w+)+)`", TEXT):
        assert pkgutil.resolve_name(name), name
