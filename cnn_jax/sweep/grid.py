"""Products of axes -> trials, seeds innermost. No JAX: planning takes milliseconds."""

import itertools
import math
from collections.abc import Mapping, Sequence

from cnn_jax import zoo
from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import check_option, is_training_option
from cnn_jax.sweep.axes import AXES
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

MOST_TRIALS = 1_000_000  # a larger plan would not fit in memory


def product(
    axes: Mapping[str, Sequence[Value]],
    seeds: int = 1,
    options: Mapping[str, Sequence[Value]] | None = None,
    defaults: Mapping[str, Sequence[Value]] | None = None,
    default_options: Mapping[str, Sequence[Value]] | None = None,
) -> list[Trial]:
    """Every combination of the axes' values, `seeds` trials each (seeds 0, 1, ...), in the order given, without repeats.

    axes: values by name of `AXES`; an axis left out means the default. options: values of the models' own options by name, and
    of training components' by KIND.NAME.
    defaults, default_options: values of further axes and options, for those models that have them. Models are resolved:
    defaults are filled in, so a value given and the same value omitted make the same trial. Raises
    UsageError for a model, axis or option that does not exist.
    """
    options, defaults = options or {}, {k: v for k, v in (defaults or {}).items() if k not in axes}
    default_options = {k: v for k, v in (default_options or {}).items() if k not in options}
    train_options = {k: v for k, v in {**default_options, **options}.items() if is_training_option(k)}
    for name in train_options:
        check_option(name)
    options = {k: v for k, v in options.items() if k not in train_options}
    default_options = {k: v for k, v in default_options.items() if k not in train_options}
    for name in (*axes, *defaults):
        if name not in AXES:
            raise UsageError(f"unknown axis {name!r}: one of {', '.join(AXES)}")

    swept = (*axes.values(), *defaults.values(), *options.values(), *default_options.values(), *train_options.values())
    count = seeds * math.prod(map(len, swept))
    if count > MOST_TRIALS:
        raise UsageError(f"the sweep has {count:,} trials: at most {MOST_TRIALS:,}; use fewer --seeds or values")

    def combinations(part: str, values: Mapping[str, Sequence[Value]]) -> list[dict[str, Value]]:
        names = [name for name in values if AXES[name].part == part]
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*(values[name] for name in names))]

    models: list[ModelConfig] = []
    for name in axes.get("model", defaults.get("model", [ModelConfig().name])):
        own = zoo.options(name)
        chosen = {axis: values for axis, values in axes.items() if axis != "model"}
        chosen |= {axis: values for axis, values in defaults.items() if axis in own}
        chosen_options = {**options, **{option: values for option, values in default_options.items() if option in own}}
        for extra in itertools.product(*chosen_options.values()):
            chosen_pairs = tuple(zip(chosen_options, extra, strict=True))
            models += [
                zoo.resolve(ModelConfig(name, **fields, options=chosen_pairs)) for fields in combinations("model", chosen)
            ]
    data = [DataConfig(**fields) for fields in combinations("data", {**defaults, **axes})]
    pairs = [tuple(sorted(zip(train_options, chosen, strict=True))) for chosen in itertools.product(*train_options.values())]
    training = [fields | {"options": chosen} for fields in combinations("train", {**defaults, **axes}) for chosen in pairs]

    trials = []
    for d in dict.fromkeys(data):
        train = dict.fromkeys(TrainConfig.of(d.dataset, **fields) for fields in training)
        for m in dict.fromkeys(models):
            for t in train:
                trials += [Trial(m, d, t, seed) for seed in range(seeds)]
    return trials
