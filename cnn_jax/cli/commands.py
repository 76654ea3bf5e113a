"""The commands describe, report, compare and card of launch.py; each other command has its own file."""

import json
from collections.abc import Callable, Sequence

from absl import flags as absl_flags

from cnn_jax import sweep
from cnn_jax.cli import doctor, flags, imported
from cnn_jax.cli.export import export
from cnn_jax.cli.inspect import inspect
from cnn_jax.cli.measure import measure
from cnn_jax.cli.paper import paper
from cnn_jax.console import Column, Console, Row, print_table
from cnn_jax.errors import UsageError
from cnn_jax.nn import Description
from cnn_jax.records import store
from cnn_jax.trial import ModelConfig

_DESCRIBE = """python launch.py describe --model=NAME [--flags]

Print the layers of a model: shapes, parameters, MACs, receptive fields.
"""
_REPORT = """python launch.py report DIR [DIR ... --out=DIR] [--charts=svg,png]

python launch.py report FILE.csv [--metric=NAME --factors=NAME,NAME --seed=NAME]

Rebuild the report of a sweep, or merge several sweeps into the folder --out. Or
report on results of other tools: a CSV or Parquet file, as exported by W&B,
MLflow, Optuna, Ray Tune and TensorBoard, or an Optuna storage (.db).
See docs/results-of-other-tools.md.
"""
_COMPARE = """python launch.py compare DIR DIR

Print two sweeps side by side, cell by cell.
"""
_CARD = """python launch.py card DIR [--out=FILE.png]

Draw the answer of a sweep as a picture of 1200 x 630 pixels, for a talk or a
README.
"""
_MODEL_AXES = tuple(name for name, axis in sweep.AXES.items() if axis.part == "model")


def describe(words: Sequence[str]) -> int:
    """Print the layers of a model: shapes, parameters, MACs, receptive fields."""
    values = absl_flags.FlagValues()
    texts = {name: sweep.AXES[name].help for name in _MODEL_AXES}
    texts |= {"input_shape": "as 28,28,1; default the model's own", "num_classes": "default the model's own"}
    flags.define(values, texts, {"json": (False, "print JSON")})
    if rest := flags.parse(values, ["describe", *words], _DESCRIBE):
        raise UsageError(f"{rest[0]!r}: name the model with --model")
    given = flags.axes(values, _MODEL_AXES) | {f"option {name}": found for name, found in flags.options(values.option).items()}
    for name, listed in given.items():
        if len(listed) > 1:
            raise UsageError(f"--{name}: describe takes a single value")
    options = tuple((name.split()[1], listed[0]) for name, listed in given.items() if name.startswith("option "))
    fields = {("name" if name == "model" else name): given[name][0] for name in _MODEL_AXES if name in given}
    shape = None
    if values.input_shape is not None:
        try:
            shape = tuple(sweep.positive_int(part.strip()) for part in values.input_shape.split(","))
        except ValueError:
            shape = ()
        if not 2 <= len(shape) <= 4:
            raise UsageError(
                f"--input_shape: {values.input_shape!r} is not legal: use positive integers, channels last, as 28,28,1"
            )

    from cnn_jax import description, zoo

    model = zoo.resolve(ModelConfig(**fields, options=options))
    table = description.describe(model, shape, flags.one(values, "num_classes", sweep.positive_int))
    if values.json:
        print(json.dumps(description.to_json(table), indent=1))
    else:
        _print_layers(table, Console())
    return 0


def _print_layers(table: Description, console: Console) -> None:
    from cnn_jax import description

    text, notes = description.to_text(table), "\n".join(description.notes(table))
    if max(map(len, text.removesuffix(notes).splitlines())) <= console.width:
        console.print(text)
        return
    columns = [Column(name, left=i < 4, optional=i > 5) for i, name in enumerate(description.COLUMNS)]
    console.print(description.title(table))
    print_table(console, columns, [Row(cells) for cells in description.to_rows(table)])
    console.print(notes)


def report(words: Sequence[str]) -> int:
    """Rebuild the report of a sweep, or merge several sweeps into the folder --out."""
    from cnn_jax import report as reports

    values = absl_flags.FlagValues()
    absl_flags.DEFINE_string("out", None, "folder of the report; needed to merge several folders", flag_values=values)
    absl_flags.DEFINE_string("charts", None, "svg, png or svg,png: also write every chart into DIR/charts", flag_values=values)
    imported.define(values)
    named = flags.parse(values, ["report", *words], _REPORT)
    kinds = [] if values.charts is None else sweep.parse_list("charts", values.charts, _kind)
    if imported.is_file(named):
        if kinds:
            raise UsageError("--charts: only with the folder of a sweep")
        return imported.report(named, values)
    imported.refuse(values)
    folders = [store.folder(word) for word in named]
    if not folders:
        raise UsageError("report: name the folder of a sweep, or a file of results")
    if len(folders) > 1 and values.out is None:
        raise UsageError("--out: name the folder that several sweeps are merged into")
    folder = folders[0] if values.out is None else store.folder(values.out)
    store.check(folder)
    with store.reporting(folder):
        page = reports.merge(folders, folder)
        charts = reports.write_charts(folders, folder, kinds) if kinds else []
    console = Console()
    reports.terminal(folders, console)
    if charts:
        from cnn_jax.report import chart_files

        console.print(chart_files.summary(charts), soft_wrap=True)
    console.print(f"report: {page}", soft_wrap=True)
    return 0


def _kind(text: str) -> str:
    if text not in ("svg", "png"):
        raise ValueError("svg, png or svg,png")
    return text


def compare(words: Sequence[str]) -> int:
    """Print two sweeps side by side, cell by cell."""
    from cnn_jax import report as reports

    folders = flags.parse(absl_flags.FlagValues(), ["compare", *words], _COMPARE)
    if len(folders) != 2:
        raise UsageError(f"compare: takes two folders, not {len(folders)}")
    reports.compare(store.folder(folders[0]), store.folder(folders[1]), Console())
    return 0


def card(words: Sequence[str]) -> int:
    """Draw the answer of a sweep as a picture."""
    from cnn_jax import report as reports

    values = absl_flags.FlagValues()
    absl_flags.DEFINE_string("out", None, "the picture, FILE.png; default DIR/card.png", flag_values=values)
    folders = [store.folder(word) for word in flags.parse(values, ["card", *words], _CARD)]
    if len(folders) != 1:
        raise UsageError(f"card: takes one folder, not {len(folders)}")
    out = None if values.out is None else store.folder(values.out)
    if out is not None and (out.suffix.lower() != ".png" or not out.parent.is_dir()):
        raise UsageError(f"--out: {out} must be a .png file in an existing folder")
    Console().print(f"card: {reports.write_card(folders[0], out)}", soft_wrap=True)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "describe": describe,
    "report": report,
    "compare": compare,
    "inspect": inspect,
    "measure": measure,
    "paper": paper,
    "card": card,
    "export": export,
    "doctor": doctor.doctor,
}


def summaries() -> dict[str, str]:
    """The first line of the docstring of every command, by its name."""
    return {name: (command.__doc__ or "").partition("\n")[0] for name, command in COMMANDS.items()}
