"""Writes the pages of docs/reference from the code: flags, commands, columns of results.csv, records, Python.

`make docs` runs it. Nothing here repeats what the code says: texts are the help of flags, docstrings, and comments of fields.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from absl import flags as absl_flags

import cnn_jax
from cnn_jax import sweep, trial, zoo
from cnn_jax.cli import commands, experiments, flags, help
from cnn_jax.description import describe
from cnn_jax.records import record
from cnn_jax.report import table
from cnn_jax.training import metrics

CONFIGS = {"model": trial.ModelConfig, "data": trial.DataConfig, "train": trial.TrainConfig}
# Packages that have a page; the others are the command line and the execution of a sweep. A package with __all__ shows these
# names, and one without shows all of its modules.
PACKAGES = ("nn", "zoo", "data", "training", "sweep", "search", "records", "stats", "analysis", "report")
FURTHER = {"nn": ("spec", "functional", "network", "init")}  # modules that a fork uses beside the names of __all__


@dataclasses.dataclass(frozen=True)
class Member:
    """A field of a dataclass as its source has it: annotation, default ('' without one), and the comment behind it."""

    annotation: str
    default: str
    comment: str


def members(cls: type) -> dict[str, Member]:
    """The fields of a dataclass."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = iter(source.splitlines(keepends=True))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(lambda: next(lines, ""))
        if token.type == tokenize.COMMENT
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = "" if node.value is None else ast.unparse(node.value)
            comment = comments.get(node.end_lineno or 0, "")
            found[node.target.id] = Member(ast.unparse(node.annotation), default, comment)
    return found


def as_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`" if text != "" else ""


def default_of(name: str) -> str:
    """Default of an axis: the model's own where the configuration has none."""
    part = CONFIGS[sweep.AXES[name].part]
    field = next(f for f in dataclasses.fields(part) if f.name == ("name" if name == "model" else name))
    if field.default is None or field.default == ():
        return "the model's" if part is trial.ModelConfig else "none"
    return str(field.default)


def option(program: str, flag: absl_flags.Flag) -> str:
    """A flag, as Sphinx's directive of an option of `program`."""
    name, text = help.name_and_help(flag)
    name = name if flag.boolean else f"{name}=VALUE"
    if flag.name in sweep.AXES and program == "launch.py":
        text += f"; default {default_of(flag.name)}"
    return f":::{{option}} {name}\n{text}\n:::"


def options(program: str, values: absl_flags.FlagValues) -> Iterator[str]:
    """All flags of a command under the titles of their groups."""
    yield f":::{{program}} {program}\n:::"
    for title, found in help.grouped(values).items():
        if "seeds" in values:
            yield f"## {title[:1].upper()}{title[1:].partition(';')[0]}"
        yield from (option(program, flag) for flag in found)


def flags_page() -> str:
    """Every flag of a sweep."""
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    own = trial.TrainConfig.of("digits")
    text = f"""# Flags of a sweep

    python launch.py [EXPERIMENT] [--flags]

A comma makes a sweep, a range too: `--filters=8..64:log2`, `--kernel_size=1..7:2`, `--learning_rate=0.001..0.1:log10`.
On `digits` the default of `--batch_size` is {own.batch_size} and of `--epochs` {own.epochs}."""
    known = as_table(("experiment", "question"), ((code(name), question) for name, question in experiments.known().items()))
    return "\n\n".join([text, *options("launch.py", values), "## Experiments", known])


def help_of(command: Callable[[list[str]], int]) -> help.HelpRequested:
    """What `--help` of a command prints, and the flags behind it."""
    try:
        command(["--help"])
    except help.HelpRequested as asked:
        return asked
    raise ValueError(f"{command} has no help")


def commands_page() -> str:
    """Every command besides a sweep, with its flags."""
    swept = absl_flags.FlagValues()
    flags.define_sweep_flags(swept)
    parts = ["# Commands"]
    for name, command in commands.COMMANDS.items():
        asked = help_of(command)
        parts += [f"## {name}", f"```\n{help.fitted(asked.usage).strip()}\n```"]
        if "seeds" in asked.values:
            parts.append("All [flags of a sweep](flags.md), and")
            own = [flag for _, flag in help.defined(asked.values) if flag.name not in swept]
            parts += [f":::{{program}} launch.py {name}\n:::", *(option(name, flag) for flag in own)]
        else:
            parts += options(f"launch.py {name}", asked.values)
    return "\n\n".join(parts)


def columns() -> dict[str, str]:
    """The columns of results.csv and what they hold."""
    one = trial.Trial()
    measured = {f"{part}_{name}": 0.0 for part in ("val", "test") for name in ("accuracy", *metrics.built_in(10))}
    empty = record.Record(record.SCHEMA, one.id, one, "failed", metrics=measured)
    of_record = {name: member.comment for name, member in members(record.Record).items()}
    of_code = {name: f"{member.comment}" for name, member in members(record.Code).items()}
    of_data = {f"data_{name}": member.comment for name, member in members(record.Images).items()}
    texts = {
        name: inspect.cleandoc(metric.__doc__ or "").split("\n")[0].rstrip(".:")
        for name, metric in metrics.built_in(10).items()
    }
    of_metrics = {
        f"{part}_{name}": f"{text}; {images} images"
        for part, images in (("val", "validation"), ("test", "test"))
        for name, text in texts.items()
    }
    of_axes = {name: axis.help for name, axis in sweep.AXES.items()}
    of_model = {"iso": flags.SWEEP_FLAGS["iso"], "seed": members(trial.Trial)["seed"].comment}
    texts = of_record | of_code | of_data | of_metrics | of_axes | of_model | {"jax": "version of JAX"}
    header = table.results_csv([record.to_json(empty)]).split("\n")[0].split(",")
    return {name: texts[name] for name in header}


def fields_table(cls: type) -> str:
    rows = ((code(name), code(m.annotation), m.comment or "") for name, m in members(cls).items())
    return as_table(("field", "type", "meaning"), rows)


def results_page() -> str:
    """The columns of results.csv, and the schema of a record and of a sweep's header."""
    parts = [
        "# Results and records",
        "## Columns of results.csv",
        "A row per trial. Cells that do not apply are empty; stacks and sizes are joined by `-`. Options of a model, and "
        "metrics of a fork, are further columns under their names.",
        as_table(("column", "meaning"), ((code(name), text) for name, text in columns().items())),
        "## A record",
        f"A line of `records/*.jsonl`, schema {record.SCHEMA}: a JSON object and its checksum. {first(record.Record)}",
        fields_table(record.Record),
    ]
    for title, cls in (("data", record.Images), ("code", record.Code)):
        parts += [f"### {title}", first(cls), fields_table(cls)]
    parts += ["### config", first(trial.Trial)]
    for name, cls in CONFIGS.items():
        described = attributes(cls)
        rows = (
            (code(field), code(m.annotation), code(m.default.partition("default=")[2].split(",")[0] or m.default), text)
            for field, m in members(cls).items()
            for text in [m.comment or described.get(field) or axis_help(field)]
        )
        parts += [f"#### config.{name}", first(cls), as_table(("field", "type", "default", "meaning"), rows)]
    parts += ["## sweep.json", first(record.Header), fields_table(record.Header)]
    parts += ["### commands", first(record.Command), fields_table(record.Command)]
    return "\n\n".join(parts)


def axis_help(name: str) -> str:
    axis = sweep.AXES.get("model" if name == "name" else name)
    return axis.help if axis else ""


def attributes(cls: type) -> dict[str, str]:
    """The section Attributes of a docstring."""
    _, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    return dict(re.findall(r"^  (\w+): (.*)$", listed, re.MULTILINE))


def first(obj: object) -> str:
    """The first paragraph of a docstring."""
    return " ".join(inspect.cleandoc(obj.__doc__ or "").split("\n\n")[0].split())


def models_page() -> str:
    """The models of the zoo, described for the shape that they are published for."""

    def row(name: str) -> tuple[str, ...]:
        found = describe(name)
        shape = "x".join(map(str, found.input_shape))
        own = ", ".join(code(option) for option in zoo.options(name))
        return code(name), shape, f"{found.params:,}", f"{found.macs:,}", own

    rows = as_table(("model", "input", "parameters", "MACs", "options"), map(row, zoo.MODELS))
    return f"# Models\n\n{first(describe)} As `python launch.py describe --model=NAME` prints them.\n\n{rows}"


def directive(kind: str, name: str, *settings: str) -> str:
    return "\n".join(["```{eval-rst}", f".. {kind}:: {name}", *(f"   :{setting}" for setting in settings), "```"])


def kind_of(obj: object) -> str:
    if isinstance(obj, type):
        return "autoexception" if issubclass(obj, Exception) else "autoclass"
    return "autofunction" if callable(obj) else "autodata"


def python_page() -> str:
    """Every name of cnn_jax."""
    names = [name for name in cnn_jax.__all__ if not name.startswith("_")]
    parts = [f"# cnn_jax\n\n`cnn_jax.__version__` is {code(cnn_jax.__version__)}. The packages have pages of their own."]
    parts += [f"## {name}\n\n" + directive(kind_of(getattr(cnn_jax, name)), f"cnn_jax.{name}") for name in names]
    return "\n\n".join(parts)


def modules(package: str) -> Iterator[ModuleType]:
    """A package, and those of its modules that are shown, in order."""
    root = importlib.import_module(f"cnn_jax.{package}")
    yield root
    if hasattr(root, "__all__"):
        for name in FURTHER.get(package, ()):
            yield importlib.import_module(f"{root.__name__}.{name}")
        return
    for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def package_page(package: str) -> str:
    """The documented functions and classes of the modules of a package."""
    parts = [f"# cnn_jax.{package}"]
    root, *rest = modules(package)
    parts.append(directive("automodule", root.__name__))
    for module in rest:
        # A function of the package may have the name of a module.
        hidden = ["no-index:"] if inspect.isfunction(getattr(root, module.__name__.rpartition(".")[2], None)) else []
        shown = [f"exclude-members: {', '.join(root.__all__)}"] if hasattr(root, "__all__") else []
        parts += [f"## {module.__name__}", directive("automodule", module.__name__, *hidden, *shown)]
    return "\n\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "reference/flags": flags_page,
    "reference/commands": commands_page,
    "reference/results": results_page,
    "reference/models": models_page,
    "reference/python": python_page,
}
PAGES |= {f"reference/{package}": lambda package=package: package_page(package) for package in PACKAGES}  # type: ignore[misc]


def write(folder: Path) -> None:
    """Write all pages; a page that is already there as it should be is left alone."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder.parent / f"{name}.md", page() + "\n"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
