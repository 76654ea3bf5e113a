"""Axes, their text, their products; what makes one trial another."""

import dataclasses
import io
import math
import time

import pytest

from cnn_jax import sweep
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.sweep import plan
from cnn_jax.sweep.values import expand
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial, added_defaults


def test_product_is_every_combination_with_seeds_innermost() -> None:
    trials = sweep.product({"filters": [(8,), (16, 32)], "padding": ["valid", "same"], "learning_rate": [0.1, 0.01]}, seeds=2)
    assert len(trials) == len({trial.id for trial in trials}) == 16
    assert [trial.seed for trial in trials[:4]] == [0, 1, 0, 1]
    assert {trial.model.filters for trial in trials} == {(8,), (16, 32)}


def test_a_default_given_and_left_out_is_one_trial() -> None:
    (left_out,) = sweep.product({})
    (given,) = sweep.product(
        {"filters": [(32,)], "kernel_size": [(3,)], "padding": ["valid"], "learning_rate": [1e-3], "epochs": [60]}
    )
    assert left_out.id == given.id
    stacked = sweep.product({"filters": [(8, 8)], "kernel_size": [(3,), (3, 3)]})
    assert len(stacked) == 1


def test_experiment_defaults_go_to_models_that_have_them() -> None:
    defaults = {"filters": [(8,), (16,)], "padding": ["same"]}
    trials = sweep.product({"model": ["cnn", "lenet5"]}, defaults=defaults)
    assert [(trial.model.name, trial.model.filters) for trial in trials] == [("cnn", (8,)), ("cnn", (16,)), ("lenet5", None)]
    with pytest.raises(UsageError, match="lenet5 has no filters"):
        sweep.product({"model": ["lenet5"], "filters": [(8,)]})
    explicit = sweep.product({"filters": [(4,)]}, defaults=defaults)
    assert [trial.model.filters for trial in explicit] == [(4,)]


def test_models_own_options_are_swept() -> None:
    trials = sweep.product({"model": ["resnet20"], "dataset": ["mnist"]}, options={"shortcut": ["A", "projection"]})
    assert [dict(trial.model.options)["shortcut"] for trial in trials] == ["A", "projection"]


@pytest.mark.parametrize(
    ("flag", "text", "values"),
    [
        ("filters", "8,16-32", [(8,), (16, 32)]),
        ("kernel_size", " 3 , 5", [(3,), (5,)]),
        ("filters", "8,8", [(8,)]),
        ("learning_rate", "1e-3,.5", [0.001, 0.5]),
        ("padding", "same,circular", ["same", "circular"]),
        ("split_seed", "0,7", [0, 7]),
    ],
)
def test_values_from_text(flag: str, text: str, values: list) -> None:
    assert sweep.parse_values(flag, text) == values


@pytest.mark.parametrize(
    ("flag", "text"),
    [("filters", "8,,9"), ("filters", "-8"), ("filters", "8-0"), ("filters", "٣"), ("epochs", "1e3"), ("learning_rate", "inf"),
     ("learning_rate", "0"), ("momentum", "1"), ("validation_fraction", "-0.1"), ("batch_size", "9" * 30), ("dataset", "")],
)  # fmt: skip
def test_illegal_text_names_flag_and_what_is_legal(flag: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"^--{flag}: .* is not legal: use ") as error:
        sweep.parse_values(flag, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flag", "text"),
    [("learning_rate", "1e-50"), ("learning_rate", "1e-40"), ("learning_rate", "1e39"), ("weight_decay", "1e-50"),
     ("momentum", "0.99999999999"), ("momentum", "1e-300")],
)  # fmt: skip
def test_b7_values_that_float32_rounds_out_of_their_interval_are_refused(flag: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"^--{flag}: '{text}' is not legal: use a number .* in float32"):
        sweep.parse_values(flag, text)


def test_b7_values_that_float32_holds_are_kept_as_given() -> None:
    assert sweep.parse_values("learning_rate", "1.2e-38,0.1,3e38") == [1.2e-38, 0.1, 3e38]
    assert sweep.parse_values("weight_decay", "0,1e-30") == [0.0, 1e-30]
    assert sweep.parse_values("momentum", "0,0.9999999") == [0.0, 0.9999999]


def test_b5_a_new_field_at_its_default_changes_no_id() -> None:
    """The text and id of a trial before `normalize` and `image_size` existed: finished sweeps stay finished."""
    trial = Trial(ModelConfig(filters=(32,)), DataConfig("mnist"), TrainConfig(), seed=2)
    assert trial.canonical == (
        '{"data":{"dataset":"mnist","split_seed":0,"train_examples":null,"validation_fraction":0.1},'
        '"model":{"activation":null,"filters":[32],"iso":null,"kernel_size":null,"name":"cnn","options":[],"padding":null,'
        '"strides":null},"seed":2,"train":{"batch_size":128,"epochs":5,"learning_rate":0.001,"momentum":0.9,'
        '"optimizer":"adam","weight_decay":0.0}}'
    )
    assert trial.id == "mnist-cnn-f32-seed2-a92e8cb0"
    (default,) = sweep.product({"normalize": ["none"], "dataset": ["mnist"], "filters": [(32,)]})
    assert default == sweep.product({"dataset": ["mnist"], "filters": [(32,)]})[0]
    scaled = dataclasses.replace(trial, data=DataConfig("mnist", normalize="standardize"))
    small = dataclasses.replace(trial, data=DataConfig("mnist", image_size=8))
    assert '"normalize":"standardize"' in scaled.canonical
    assert '"image_size":8' in small.canonical


def test_a_plan_that_cannot_be_is_refused_before_it_is_made() -> None:
    with pytest.raises(UsageError, match=r"999,999,999 trials: at most 1,000,000"):
        sweep.product({}, seeds=999_999_999)


def test_a_hundred_thousand_trials_in_seconds() -> None:
    start = time.process_time()
    trials = sweep.product({"filters": [(f,) for f in range(1, 101)], "kernel_size": [(1,), (3,)]}, seeds=500)
    assert len({trial.id for trial in trials}) == 100_000
    assert len(sweep.buckets(trials)) == 200
    assert time.process_time() - start < 30  # a second in fact; a plan that costs time per trial squared would take hours


def test_every_setting_changes_the_id_and_survives_json() -> None:
    base = Trial()
    changed: list[Trial] = [dataclasses.replace(base, seed=1)]
    for part, other in {
        "model": ModelConfig("mlp", (4, 5), (3,), (2,), "same", "tanh", (("a", 1),), "params@32"),
        "data": DataConfig("mnist", 0.2, 3, 100, "per_channel", 16),
        "train": OTHER_TRAINING,
    }.items():
        for field in dataclasses.fields(other):
            value = dataclasses.replace(getattr(base, part), **{field.name: getattr(other, field.name)})
            changed.append(dataclasses.replace(base, **{part: value}))
    assert len({trial.id for trial in [base, *changed]}) == len(changed) + 1
    for trial in [base, *changed]:
        assert Trial.from_json(trial.canonical) == trial
        assert trial.id == Trial.from_json(trial.canonical).id
        assert trial.id.replace("-", "").replace("_", "").replace(".", "").isalnum()


OTHER_TRAINING = TrainConfig(
    "sgd", 0.5, 0.1, 0.5, 7, 9, "cosine", 0.1, "flip", "mse", 0.2, 1.0, 0.9, "kernels", "best", 3, "bfloat16", ("a:b",),
    (("optimizer.b1", 0.5),),
)  # fmt: skip


def test_only_dynamic_settings_share_a_program() -> None:
    base = Trial()
    for change in ({"learning_rate": 0.5}, {"weight_decay": 0.5}, {"momentum": 0.5}):
        assert dataclasses.replace(base, train=dataclasses.replace(base.train, **change)).static == base.static
    static = {"optimizer", "batch_size", "epochs"} | added_defaults(TrainConfig).keys()
    for name in static:
        other = dataclasses.replace(base.train, **{name: getattr(OTHER_TRAINING, name)})
        assert dataclasses.replace(base, train=other).static != base.static
    assert dataclasses.replace(base, seed=3).static == base.static
    assert set(base.dynamic) | static == {field.name for field in dataclasses.fields(TrainConfig)} | {"seed"}
    for name in ("label_smoothing", "clip_norm", "ema"):  # two values share a program, none has one of its own
        one, two = (dataclasses.replace(base.train, **{name: value}) for value in (0.1, 0.2))
        assert Trial(train=one).static == Trial(train=two).static
        assert Trial(train=one).dynamic[name] == 0.1


def test_not_a_trial() -> None:
    for text in ("{}", '{"model": 3}', "[]", "nonsense"):
        with pytest.raises(ValueError, match=r".+"):
            Trial.from_json(text)
    assert math.isfinite(len(Trial().canonical))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1..4", "1 2 3 4"),
        ("1..9:4", "1 5 9"),
        ("1..8:4", "1 5"),
        ("8..64:log2", "8 16 32 64"),
        ("8..63:log2", "8 16 32"),
        ("0..0.3:0.1", "0 0.1 0.2 0.3"),
        ("1e-4..1e-1:log10", "0.0001 0.001 0.01 0.1"),
        ("5..5", "5"),
        ("16-32", "16-32"),
        ("../here", "../here"),
        ("a..b", "a..b"),
    ],
)
def test_ranges(text: str, values: str) -> None:
    assert expand(text) == values.split()


@pytest.mark.parametrize("text", ["4..1", "1..4:0", "1..4:-1", "0..8:log2", "1..8:log1", "1..8:log0.5", "1..2000"])
def test_a_bad_range_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"--filters: .* is not legal: use a range"):
        sweep.parse_values("filters", text)


def test_ranges_of_axes() -> None:
    assert sweep.parse_values("filters", "4,8..32:log2") == [(4,), (8,), (16,), (32,)]
    assert sweep.parse_values("learning_rate", "0.001..0.1:log10") == [0.001, 0.01, 0.1]
    with pytest.raises(UsageError, match="an integer of at least 1"):
        sweep.parse_values("epochs", "0..2")


def test_a_plan_shows_the_options_of_every_model() -> None:
    """An option that only some of the models have is empty for the others."""
    printed = io.StringIO()
    plan.show(plan.preflight(sweep.product({"model": ["resnet20", "cnn"]})), Console(printed), out=None)
    head, resnet, cnn = (line.split() for line in printed.getvalue().splitlines()[1:4])
    assert ("shortcut" in head, "A" in resnet, "A" in cnn) == (True, True, False)
    assert printed.getvalue().count("\n") == 5
