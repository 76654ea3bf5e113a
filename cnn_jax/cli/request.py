"""Request of an experiment: the given flags, and its DEFAULTS, which are validated like flags."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence

from absl import flags as absl_flags

from cnn_jax import sweep, zoo
from cnn_jax.aliases import Value
from cnn_jax.cli import flags
from cnn_jax.cli.flags import Request
from cnn_jax.cli.spelling import did_you_mean
from cnn_jax.errors import UsageError
from cnn_jax.recipes import published
from cnn_jax.recipes.names import is_training_option
from cnn_jax.trial import ModelConfig

_OPTION = "option="
# What an experiment may set besides axes and options. Only the command line sets where and how it runs.
_SETTINGS: dict[str, Callable[[str], Value]] = {
    "seeds": sweep.positive_int,
    "iso": sweep.one_of(("params", "macs")),
    "resolve": sweep.number(0.0, 100.0, above=True),
    "max_seeds": sweep.positive_int,
}


@dataclasses.dataclass(frozen=True)
class Defaults:
    """DEFAULTS of an experiment, checked.

    Attributes:
      what: their owner, as 'experiment grid' or 'recipe an2020 (SOURCE)'.
      axes: values by axis.
      options: values by option of the models.
      texts: the text of every flag, by 'filters', 'seeds', 'option=width'.
      differs: what differs from the publication of a recipe.
    """

    what: str
    axes: dict[str, list[Value]]
    options: dict[str, list[Value]]
    texts: dict[str, str]
    differs: str = ""

    def flag(self, name: str) -> str:
        """The flag as on the command line."""
        return f"--{name}={self.texts[name]}"


def defaults_of(experiment: str, defaults: object, recipe: str | None, *, is_named: bool) -> Defaults:
    """Return the DEFAULTS of an experiment, joined with a recipe.

    Values of the experiment take precedence over those of the recipe. If the default experiment is not named, a recipe replaces
    it: its axes are not added.

    Args:
      experiment: its name.
      defaults: its DEFAULTS.
      recipe: name of a recipe, or None.
      is_named: whether the experiment is named on the command line.
    """
    if recipe is None:
        return read_defaults(experiment, defaults)
    found = published.load(recipe)
    what = f"recipe {recipe}" + (f" ({found.source})" if found.source != recipe else "")
    alone = _read(what, what, found.flags)
    if is_named and isinstance(defaults, Mapping):
        read_defaults(experiment, defaults)
        alone = _read(f"experiment {experiment} with {what}", what, published.merged(found.flags, defaults))
    return dataclasses.replace(alone, differs=found.differs)


def read_defaults(experiment: str, defaults: object) -> Defaults:
    """Validate the DEFAULTS of an experiment like flags.

    Args:
      experiment: its name, for messages.
      defaults: values by flag. A value is the flag's text, a number, or a list of values; a tuple in a list is a stack of
        layers. `option` is text or a list of texts NAME=VALUE[,VALUE], or a dict from names to values.

    Raises:
      UsageError: for an unknown name or an illegal value.
    """
    return _read(f"experiment {experiment}", f"experiment {experiment!r}: DEFAULTS", defaults)


def _read(what: str, where: str, defaults: object) -> Defaults:
    """Validate values by flag. `what` names them in notes, `where` in errors."""
    if not isinstance(defaults, Mapping):
        raise UsageError(f"{where} is a {type(defaults).__name__}: it must be a dict from flags to values")
    found = Defaults(what, {}, {}, {})
    try:
        for name, value in defaults.items():
            _read_default(found, name, value)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from None
    return found


def _read_default(found: Defaults, name: object, value: object) -> None:
    legal = [*sweep.AXES, "option", *_SETTINGS]
    if name == "option":
        texts = option_texts(value)
        found.options.update(flags.options(texts))
        found.texts.update((_OPTION + key, text) for key, _, text in (each.partition("=") for each in texts))
        return
    if name not in legal:
        meant = did_you_mean(str(name), legal)
        raise UsageError(f"unknown name {name!r}: {meant}{'One' if meant else 'one'} of {', '.join(legal)}")
    name = str(name)
    try:
        found.texts[name] = as_text(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if name in sweep.AXES:
        found.axes[name] = sweep.parse_values(name, found.texts[name])
    elif len(sweep.parse_list(name, found.texts[name], _SETTINGS[name])) > 1:
        raise UsageError(f"--{name}: takes one value, not {found.texts[name]!r}")


def option_texts(value: object) -> list[str]:
    """Texts NAME=VALUE[,VALUE] of --option, from one or more of them, or a dict. Raises ValueError."""
    if isinstance(value, Mapping):
        return [f"{key}={as_text(each)}" for key, each in value.items()]
    return [str(each) for each in (value if isinstance(value, list | tuple) else [value])]


def as_text(value: object) -> str:
    """A value of DEFAULTS, or of `run_sweep`, as the text of its flag. Raises ValueError."""

    def scalar(value: object) -> str:
        if isinstance(value, tuple) and value:
            return "-".join(map(scalar, value))
        if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
            raise ValueError(f"{value!r} is not legal: use text, a number, or a list of them")
        return str(value)

    return ",".join(map(scalar, value)) if isinstance(value, list) else scalar(value)


def request_from(values: absl_flags.FlagValues, defaults: Defaults) -> Request:
    """Read the flags; missing ones take the experiment's defaults.

    If the command line names a model other than that of the experiment's defaults, the default axes and options of models are
    left out.
    """
    given, given_options = flags.axes(values), flags.options(values["option"].value or ())
    own = defaults.axes.get("model", [ModelConfig().name])
    models = given.get("model", own)

    def is_given(name: str) -> bool:
        if name.startswith(_OPTION):
            return name.removeprefix(_OPTION) in given_options
        return values[name].value is not None

    left_out, added = [], [name for name in defaults.texts if not is_given(name)]
    if "model" in defaults.axes and models != own:
        left_out, added = [n for n in added if _is_of_models(n)], [n for n in added if not _is_of_models(n)]
    for name in _SETTINGS:
        if name in added:
            values[name].value = defaults.texts[name]
    return Request(
        given,
        {name: found for name, found in defaults.axes.items() if name in added},
        given_options,
        flags.one(values, "seeds", _SETTINGS["seeds"], int(flags.SEEDS)),
        {name: found for name, found in defaults.options.items() if _OPTION + name in added},
        _note(defaults, added, left_out, models),
    )


def _is_of_models(name: str) -> bool:
    if name.startswith(_OPTION):
        return not is_training_option(name.removeprefix(_OPTION))
    return sweep.AXES[name].part == "model" if name in sweep.AXES else name not in _SETTINGS


def _note(defaults: Defaults, added: Sequence[str], left_out: Sequence[str], models: Sequence[str]) -> str:
    """Sentence on the defaults that an experiment adds to the given flags, and on those left out."""
    settable = {"model"}.union(*(zoo.options(model) for model in models))
    skipped = [name for name in added if _is_of_models(name) and name.removeprefix(_OPTION) not in settable]
    shown = [name for name in added if name not in skipped and not (name == "model" and list(models) == [ModelConfig().name])]
    parts = []
    if shown:
        parts.append(f"adds {' '.join(map(defaults.flag, shown))}")
    if skipped:
        parts.append(f"leaves out {' '.join(map(defaults.flag, skipped))}, which {', '.join(models)} cannot set")
    if left_out:
        own, verb = ",".join(defaults.axes["model"]), "is" if len(models) == 1 else "are"
        flags_left_out = " ".join(map(defaults.flag, left_out))
        parts.append(f"adds {flags_left_out} only to --model={own}; {', '.join(models)} {verb} trained with defaults")
    if defaults.differs:
        parts.append(f"differs from the publication: {defaults.differs}")
    return f"{defaults.what} {'; '.join(parts)}" if parts else ""
