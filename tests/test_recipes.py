"""Recipes and training components on the command line: recipes as data, a fork's file, and bad input."""

import csv
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from launching import plan

from cnn_jax import zoo
from cnn_jax.cli.request import defaults_of, read_defaults
from cnn_jax.description import describe
from cnn_jax.errors import UsageError
from cnn_jax.recipes.published import RECIPES, merged
from cnn_jax.records import confusion
from cnn_jax.sweep import product
from cnn_jax.trial import ModelConfig, TrainConfig, Trial

ROOT = Path(__file__).resolve().parents[1]


def trials(name: str) -> list[Trial]:
    found = defaults_of("grid", {"filters": "8,16"}, name, is_named=False)
    return product(found.axes, options=found.options)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_legal_and_has_a_source(name: str) -> None:
    assert RECIPES[name].source
    assert all(trial.train != TrainConfig.of(trial.data.dataset) for trial in trials(name)) or name == "keras_mnist"


def test_the_recipes_are_what_their_publications_say() -> None:
    """Numbers of the papers: Kayhan and van Gemert's network, An et al.'s M3, Keras's curve of 34,826 parameters."""
    cells = trials("kayhan2020")
    assert {trial.model.padding for trial in cells} == {"valid", "same", "circular", "full"}
    table = describe(cells[0].model, (32, 32, 3), 2)
    convolutions = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert table.params == convolutions + 64 * 2 + 2  # no biases but the last layer's
    same = zoo.spec(next(trial.model for trial in cells if trial.model.padding == "same"), (32, 32, 3), 2)
    assert [layer.padding for layer in same[:4]] == [1, 1, 1, 1]  # both sides, also at stride 2, as PyTorch's padding=1
    assert [layer.output_shape for layer in table.layers][:4] == [(30, 30, 32), (14, 14, 32), (6, 6, 64), (2, 2, 64)]
    kayhan = cells[0].train
    assert (kayhan.optimizer, kayhan.learning_rate, kayhan.weight_decay, kayhan.select) == ("adadelta", 1, 5e-5, "best_loss")
    assert round(3000 * cells[0].data.validation_fraction) == 1000
    (m3,) = trials("an2020")
    assert (m3.train.batch_size, m3.train.ema, m3.train.epochs) == (120, 0.999, 150)
    assert dict(m3.train.options)["schedule.end"] == pytest.approx(0.98**150, rel=1e-3)
    (keras,) = trials("keras_mnist")
    assert describe(keras.model, (28, 28, 1), 10).params == 34_826


def test_flags_stand_before_an_experiment_and_an_experiment_before_a_recipe() -> None:
    with_experiment = defaults_of("filters", {"filters": "2,4"}, "kayhan2020", is_named=True)
    assert with_experiment.axes["filters"] == [(2,), (4,)]
    assert with_experiment.axes["optimizer"] == ["adadelta"]
    alone = defaults_of("grid", {"filters": "2,4"}, "kayhan2020", is_named=False)
    assert "filters" not in alone.axes  # those of the recipe's own network
    done = plan(["grid", "--recipe=airbench94", "--dataset=red_green", "--epochs=3", "--optimizer=adam"])
    status, out, err = done.returncode, done.stdout, done.stderr
    assert (status, err) == (0, "")
    assert "optimizer adam" in out


def test_options_of_recipe_and_experiment_are_joined() -> None:
    assert merged({"option": {"a": 1, "b": 2}}, {"option": ["b=3", "c=4"]})["option"] == {"a": 1, "b": "3", "c": "4"}
    assert "option" not in merged({"epochs": 1}, {"epochs": 2})


def test_a_recipe_is_printed_with_its_source_and_options_in_the_plan() -> None:
    done = plan(["grid", "--recipe=an2020", "--dataset=digits", "--padding=same"])
    status, out = done.returncode, done.stdout
    text = " ".join(out.split())
    assert status == 0
    assert "recipe an2020 (An, Lee, Park, Yang and So 2020" in text
    assert "--option=schedule.end=0.0483" in text
    assert "schedule.end 0.0483" in text
    assert "leaves out" not in text
    assert "differs from the publication: the best epoch is selected on validation images" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--augment=crop:8"], "crop:8 does not fit images of 8x8: must be below 8"),
        (["--augment=flip:2"], "flip takes no amount"),
        (["--augment=shift:1.5"], "a whole number of pixels"),
        (["--augment=rotate:181"], "above 0 and at most 180"),
        (["--augment=flip+spin"], "unknown augmentation 'spin'.*rotate:10.*package.module:attribute"),
        (["--patience=3", "--validation_fraction=0"], "--patience=3: needs validation images"),
        (["--warmup=2460"], "--warmup=2460: must be below the 2,460 steps of the training"),
        (["--precision=bfloat16", "--model=forked:Untyped"], "model forked:Untyped has no field dtype"),
        (["--select=best", "--validation_fraction=0"], "--select=best: needs validation images"),
        (["--select=test"], "last, best, best_loss"),
        (["--schedule=cos"], "unknown schedule 'cos': must be one of constant, cosine"),
        (["--loss=ce"], "unknown loss 'ce': must be one of cross_entropy, mse, focal"),
        (["--optimizer=adamm"], "unknown optimizer 'adamm': one of adam, adamw, sgd, rmsprop.*adadelta"),
        (["--option=optimizer.b9=1"], "optimizer adam has no option b9: it has b1, b2"),
        (["--option=schedule.alpha=1"], "schedule constant has no option alpha"),
        (["--option=augment.crop_mode=zeros"], "augment none has no option crop_mode"),
        (["--augment=crop:2", "--option=augment.crop_mode=zero"], "use one of zeros, reflect"),
        (["--option=foo.b=1"], "with a KIND of optimizer, schedule, augment, loss"),
        (["--option=b1=1"], "model cnn has no b1.*options of training are optimizer.NAME"),
        (["--optimizer=prodigy", "--decay_parameters=kernels"], "prodigy has no mask for its weight decay"),
        (["--precision=float16"], "float32, bfloat16"),
        (["--metrics=nll"], "package.module:attribute"),
        (["--clip_norm=0"], "none, or a number above 0"),
        (["--recipe=resnet"], "unknown recipe 'resnet': must be one of keras_mnist"),
        (["--recipe=forked:bad_recipe"], "unknown name 'learning_rat'"),
        (["--recipe=forked:scalar_loss"], "is a function: it must be a dict of flags"),
        (
            ["--loss=forked:scalar_loss"],
            r"of shape \(4,\) for 4 images, not float32 of shape \(\)",
        ),
        (["--loss=forked:raises"], r"--loss: forked:raises failed: ValueError: no .*forked.py:\d+"),
        (["--metrics=forked:per_image"], "must return a number for logits"),
        (["--metrics=forked:accuracy"], "a metric of the name accuracy exists"),
        (["--schedule=forked:per_layer"], r"must return a number for a step, not float32 of shape \(2,\)"),
        (["--augment=forked:halves"], r"must return images and targets of shapes \(4, 8, 8, 1\) and \(4, 10\)"),
        (["--optimizer=forked:no_optimizer"], "it must be an optax.GradientTransformation"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forked.py").write_text(textwrap.dedent(FORK))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "forked", raising=False)
    done = plan(["grid", *flags])
    status, err = done.returncode, done.stderr
    assert status == 2
    assert err.count("\n") == 1
    assert re.search(words, err), err
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["forked.py"]


FORK = """
    import flax.linen as nn
    import jax.numpy as jnp
    import optax

    bad_recipe = {"learning_rat": 1}
    def scalar_loss(logits_BK, targets_BK): return logits_BK.sum()
    def raises(logits_BK, targets_BK): raise ValueError("no")
    def per_image(logits_NK, labels_N): return logits_NK.max(-1)
    def accuracy(logits_NK, labels_N): return 1.0
    def per_layer(total_steps): return lambda step: jnp.ones(2)
    def halves(key, images, targets): return images[:, ::2], targets
    class Untyped(nn.Module):
        num_classes: int
        @nn.compact
        def __call__(self, x, train=False): return nn.Dense(self.num_classes)(x.reshape(len(x), -1)), {}
    def no_optimizer(learning_rate): return lambda grads: grads
"""


def test_one_file_of_a_fork_adds_every_component(tmp_path: Path) -> None:
    """Those of docs/training.md, trained: its metric and options are columns, its parameters those of its own update."""
    page = (ROOT / "docs" / "training.md").read_text()
    source = page.split("# mylab/recipe.py\n")[1].split("```")[0].replace("mylab.recipe", "mine")
    (tmp_path / "mine.py").write_text(source)
    args = ["--recipe=mine:RECIPE", "--filters=4", "--kernel_size=3", "--padding=valid", "--seeds=1", "--epochs=2", "--out=out"]
    args += ["--precision=bfloat16"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *args], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    with open(tmp_path / "out" / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["test_worst_class"]) <= 1
    assert (row["optimizer"], row["optimizer.beta"], row["loss"]) == ("mine:heavy_ball", "0.8", "mine:hinge")
    (lines,) = (path.read_text() for path in (tmp_path / "out" / "records").iterdir())
    record = json.loads(lines.splitlines()[-1].split("	")[-1])
    assert record["metrics"]["val_worst_class"] is not None
    assert record["precision"] == "bfloat16"
    assert confusion.decode(record["confusion"]).sum() == record["test_examples"]


def test_added_options_leave_the_ids_of_trials_alone() -> None:
    plain = zoo.resolve(ModelConfig("cnn"))
    assert plain.options == ()
    assert zoo.resolve(ModelConfig("cnn", options=(("pool", "max"), ("dropout", 0.0)))) == plain
    assert zoo.resolve(ModelConfig("cnn", options=(("pool", "avg"),))).options == (("pool", "avg"),)
    with pytest.raises(UsageError, match="one of max, avg, stride, none"):
        zoo.resolve(ModelConfig("cnn", options=(("pool", "min"),)))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"pool": "none"}, ["conv1", "conv2", "conv3", "flatten1", "dense1"]),
        ({"blocks_per_pool": 2}, ["conv1", "conv2", "pool1", "conv3", "flatten1", "dense1"]),
        (
            {"head": "gap", "dropout": 0.5},
            ["conv1", "pool1", "conv2", "pool2", "conv3", "pool3", "global_pool1", "dropout1", "dense1"],
        ),
        ({"separable": 1, "pool": "none"}, ["conv1", "separable1", "separable2", "flatten1", "dense1"]),
    ],
)
def test_options_of_cnn_change_its_layers(options: dict, names: list[str]) -> None:
    config = ModelConfig("cnn", (8, 8, 8), padding="same", options=tuple(sorted(options.items())))
    assert [layer.name for layer in describe(config, (16, 16, 1), 10).layers] == names


def test_options_of_cnn_change_its_parameters() -> None:
    def params(**options: object) -> int:
        config = ModelConfig("cnn", (8, 16), padding="same", options=tuple(sorted(options.items())))  # type: ignore[arg-type]
        return describe(config, (16, 16, 3), 10).params

    base = 9 * 3 * 8 + 8 + 9 * 8 * 16 + 16 + 4 * 4 * 16 * 10 + 10
    assert params() == base
    assert params(use_bias=0) == base - 8 - 16
    assert params(groups=2) == base - 9 * 4 * 16
    assert params(norm="batch") == base + 8 + 16  # a scale and a bias in place of the bias
    assert params(head="gmp") == base - 15 * 16 * 10
    assert params(pool="stride") == base
    assert params(dilation=2) == base


def test_errors_name_the_experiment_or_the_recipe() -> None:
    with pytest.raises(UsageError, match=r"^experiment 'mine': DEFAULTS: unknown name 'filtres'"):
        read_defaults("mine", {"filtres": 1})
    with pytest.raises(UsageError, match=r"^--recipe: unknown recipe 'x'"):
        defaults_of("grid", {}, "x", is_named=False)
