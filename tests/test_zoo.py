"""What every model of the zoo must cost, by its source; and how options are found, filled in and refused."""

import dataclasses
import re
import subprocess
import sys
import textwrap

import flax.linen as nn
import pytest

from cnn_jax import zoo
from cnn_jax.errors import UsageError
from cnn_jax.nn import PADDINGS, Conv, Dense, Flatten, layer_table
from cnn_jax.trial import ModelConfig, Trial
from cnn_jax.zoo.build import build

# name: (parameters, MACs, receptive field of the last layer that has one, where the number of parameters stands)
GOLDEN = {
    "cnn": (54_410, 248_768, 4, "the chapter: 320 + 54,090"),
    "chapter": (54_410, 248_768, 4, "the chapter: 320 + 54,090"),
    "mlp": (54_070, 53_992, None, "(784 + 1) * 68 + (68 + 1) * 10: 69 hidden units would be further from 54,410"),
    "simple_convnet": (34_826, 2_440_960, 10, "keras.io/examples/vision/mnist_convnet, model.summary()"),
    "kayhan": (65_506, 5_013_632, 17, "Kayhan and van Gemert 2020, section 3: layers by hand"),
    "lenet5": (60_000, 326_520, 32, "LeCun et al. 1998, section II.B: 60,000 trainable free parameters"),
    "lenet5_dense": (61_706, 416_520, 16, "Zhang et al., Dive into Deep Learning, section 7.6: layers by hand"),
    "mnist_m3": (1_124_180, 173_383_808, 21, "github.com/ansh941/MnistSimpleCNN, modelM3.py: layers by hand"),
    "mnist_m5": (1_128_180, 137_369_600, 21, "github.com/ansh941/MnistSimpleCNN, modelM5.py: layers by hand"),
    "mnist_m7": (2_291_972, 148_385_472, 25, "github.com/ansh941/MnistSimpleCNN, modelM7.py: layers by hand"),
    "alexnet": (61_100_840, 714_188_480, 195, "torchvision, AlexNet_Weights.IMAGENET1K_V1 num_params"),
    "vgg11": (132_863_336, 7_609_090_048, 150, "torchvision, VGG11_Weights.IMAGENET1K_V1 num_params"),
    "vgg13": (133_047_848, 11_308_466_176, 156, "torchvision, VGG13_Weights.IMAGENET1K_V1 num_params"),
    "vgg16": (138_357_544, 15_470_264_320, 212, "torchvision, VGG16_Weights.IMAGENET1K_V1 num_params"),
    "resnet18": (11_689_512, 1_814_073_344, 435, "torchvision, ResNet18_Weights.IMAGENET1K_V1 num_params"),
    "resnet20": (269_722, 40_551_040, 81, "He et al. 2016, table 6: 0.27M; github.com/akamaster/pytorch_resnet_cifar10"),
    "resnet32": (464_154, 68_862_592, 137, "He et al. 2016, table 6: 0.46M"),
    "resnet44": (658_586, 97_174_144, 193, "He et al. 2016, table 6: 0.66M"),
    "resnet56": (853_018, 125_485_696, 249, "He et al. 2016, table 6: 0.85M"),
    "resnet110": (1_727_962, 252_887_680, 501, "He et al. 2016, table 6: 1.7M"),
    "nin": (966_986, 222_486_528, 27, "Springenberg et al. 2015, table 3: about 1M; layers by hand"),
    "all_cnn_c": (1_369_738, 270_798_336, 27, "Springenberg et al. 2015, table 3: about 1.4M; layers by hand"),
    "convmixer": (594_186, 148_113_920, 66, "Trockman and Kolter 2022, table 4 (256/8, patch 2, kernel 5): 0.59M"),
}


def network(name, input_shape=None, num_classes=None, **fields):
    native_shape, native_classes = zoo.PUBLISHED_FOR[name]
    return zoo.spec(ModelConfig(name, **fields), input_shape or native_shape, num_classes or native_classes)


def table(name, input_shape=None, num_classes=None, **fields):
    return layer_table(network(name, input_shape, num_classes, **fields), input_shape or zoo.PUBLISHED_FOR[name][0])


# ------------------------------------------------------------------------------------------------------------ golden table


def test_no_model_is_missing_from_the_golden_table():
    assert set(GOLDEN) == set(zoo.MODELS) == set(zoo.PUBLISHED_FOR)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    params, macs, receptive_field, _ = GOLDEN[name]
    found = table(name)
    assert (found.params, found.macs, found.receptive_field) == (params, macs, receptive_field)
    assert found.output_shape == (zoo.PUBLISHED_FOR[name][1],)


COUNTS_1998 = {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}


def test_lenet5_is_that_of_1998():
    rows = {row.name: row for row in table("lenet5").layers}
    assert {n: r.params for n, r in rows.items() if r.params} == COUNTS_1998
    assert [rows[name].output_shape for name in ("C1", "S2", "C3", "S4", "C5")] == [
        (28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (1, 1, 120),
    ]  # fmt: skip
    # Table I: columns of 3, 4 and 6 maps; every map of S2 is seen by ten maps of C3.
    c3 = next(layer for layer in network("lenet5") if layer.name == "C3").connections
    assert [len(maps) for maps in c3] == [3] * 6 + [4] * 9 + [6]
    assert [sum(i in maps for maps in c3) for i in range(6)] == [10] * 6
    assert len(set(c3)) == 16


def test_lenet5_codes_are_distinct_drawings():
    (codes,) = (layer.codes for layer in network("lenet5") if layer.kind == "rbf")
    assert {len(code) for code in codes} == {84}
    assert {value for code in codes for value in code} == {-1, 1}
    assert min(sum(p != q for p, q in zip(a, b, strict=True)) for a in codes for b in codes if a is not b) >= 8
    with pytest.raises(UsageError, match="lenet5 has output codes for 10 classes, the data have 26: use lenet5_dense"):
        network("lenet5", (28, 28, 1), 26)


def test_vgg16_receptive_fields():
    rows = table("vgg16").layers
    fields = [row.receptive_field for row in rows if row.receptive_field]
    assert fields == [3, 5, 6, 10, 14, 16, 24, 32, 40, 44, 60, 76, 92, 100, 132, 164, 196, 212]
    assert [row.receptive_field for row in rows if row.kind == "pool"] == [6, 16, 44, 100, 212]


def test_resnet20_shortcuts():
    assert table("resnet20").params == table("resnet20", options=(("shortcut", "A"),)).params == 269_722
    assert table("resnet20", options=(("shortcut", "projection"),)).params == 272_474


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"])
def test_resnets_are_as_deep_as_they_say(name):
    weighted = [row for row in table(name).layers if row.kind in ("conv", "dense")]
    assert len(weighted) == int(name.removeprefix("resnet"))


def test_the_mlp_has_as_nearly_the_parameters_of_the_cnn_as_whole_units_allow():
    for fields in ({}, {"filters": (8,)}, {"filters": (16, 32), "kernel_size": (5, 3), "padding": "same"}, {"strides": (2,)}):
        target, found = table("cnn", **fields).params, table("mlp", **fields).params
        assert abs(found - target) <= (28 * 28 + 1 + 10) / 2


def test_the_chapter_has_nothing_to_set():
    assert network("chapter") == network("cnn")
    assert zoo.options("chapter") == {}


# ------------------------------------------------------------------------------------------------- sweeps and other inputs


SAME = ("same", "reflect", "symmetric", "replicate", "circular")


@pytest.mark.parametrize("name", zoo.MODELS)
def test_paddings_that_a_model_offers_work(name):
    if "padding" not in zoo.options(name):
        assert name in ("chapter", "lenet5", "lenet5_dense", "alexnet")
        return
    legal = SAME if "resnet" in name or name == "convmixer" else PADDINGS
    shapes = {padding: table(name, padding=padding).layers for padding in legal}
    if name != "mlp":
        modes = {getattr(layer, "padding_mode", "zeros") for p in SAME for layer in _flat(network(name, padding=p))}
        assert modes == {"zeros", "reflect", "symmetric", "replicate", "circular"}
    assert len({tuple(row.output_shape for row in shapes[padding]) for padding in SAME}) == 1
    for padding in set(PADDINGS) - set(legal):
        with pytest.raises(UsageError, match=f"--padding: '{padding}' is not legal for model {name}: use one of same, reflect"):
            zoo.resolve(ModelConfig(name, padding=padding))


def _flat(spec):
    for layer in spec:
        yield from _flat(getattr(layer, "body", ()))
        yield layer


@pytest.mark.parametrize("name", zoo.MODELS)
@pytest.mark.parametrize("input_shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (65, 40, 3), (224, 224, 3)])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_models_fit_other_images_or_say_what_does_not(name, input_shape, num_classes):
    try:
        found = table(name, input_shape, num_classes)
    except UsageError as error:
        assert re.fullmatch(r"(pool|conv)\d+: (window|kernel) \d.* is larger than its input .*", str(error))  # noqa: PT017
        assert input_shape in ((8, 8, 1), (28, 28, 1), (32, 32, 3)) or name == "alexnet"
        assert name in ("alexnet", "vgg11", "vgg13", "vgg16", "simple_convnet", "mnist_m3", "mnist_m5", "mnist_m7", "all_cnn_c")
    else:
        assert found.output_shape == (num_classes,)


def test_vgg_and_resnets_fit_cifar():
    for name in ("vgg11", "vgg13", "vgg16", "resnet18"):
        assert table(name, (32, 32, 3), 10).layers[-1].output_shape == (10,)


def test_filters_and_kernel_sizes_reach_their_layers():
    convs = [
        layer
        for layer in network("cnn", filters=(4, 8), kernel_size=(5, 3), strides=(1, 2), activation="gelu")
        if isinstance(layer, Conv)
    ]
    assert [(c.filters, c.kernel_size, c.strides, c.activation) for c in convs] == [(4, 5, 1, "gelu"), (8, 3, 2, "gelu")]
    assert {c.kernel_size for c in network("vgg16", kernel_size=(5,)) if isinstance(c, Conv)} == {5}
    assert [row.output_shape[-1] for row in table("resnet20", filters=(4, 5, 6)).layers if row.kind == "residual"] == [
        4
    ] * 3 + [5] * 3 + [6] * 3


def test_e4_an_even_kernel_is_refused_where_a_shortcut_has_no_room_and_warned_of_where_it_is_off_centre():
    with pytest.raises(UsageError, match="--kernel_size: model resnet20 adds shortcuts, which needs an odd kernel: 4 is even"):
        network("resnet20", kernel_size=(4,))
    warnings = table("convmixer", kernel_size=(4,)).warnings
    assert any("residual1" in warning and "misaligned" in warning for warning in warnings)


# ------------------------------------------------------------------------------------------------------------------ resolve


@pytest.mark.parametrize("name", zoo.MODELS)
def test_resolve_fills_in_every_option_and_once_is_enough(name):
    config = zoo.resolve(ModelConfig(name))
    assert zoo.resolve(config) == config
    filled = {flag: getattr(config, flag) for flag in zoo.FLAGS if getattr(config, flag) is not None} | dict(config.options)
    assert filled | zoo.omitted_options(config) == zoo.options(name)
    assert not filled.keys() & zoo.omitted_options(config).keys()
    assert Trial.from_json(Trial(config).canonical).model == config
    marked = dataclasses.replace(config, iso="params@32")
    assert zoo.resolve(marked) == marked


def test_equal_networks_have_equal_configs():
    assert zoo.resolve(ModelConfig()) == zoo.resolve(ModelConfig("cnn", (32,), (3,), (1,), "valid", "relu"))
    two = zoo.resolve(ModelConfig("cnn", (8, 16), (3, 3), (1, 1)))
    assert two == zoo.resolve(ModelConfig("cnn", (8, 16)))
    assert zoo.resolve(ModelConfig("resnet20", options=(("shortcut", "A"),))) == zoo.resolve(ModelConfig("resnet20"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("lenet"), "--model: unknown model 'lenet': must be one of cnn, chapter, mlp,"),
        (ModelConfig("lenet"), "convmixer, or package.module:attribute"),
        (ModelConfig("lenet5", filters=(3,)), "--filters: model lenet5 has no filters to set: it has no options"),
        (ModelConfig("nin", strides=(2,)), "--strides: model nin has no strides to set: it has padding, activation"),
        (ModelConfig("cnn", options=(("depth", 3),)), "--option=depth: model cnn has no depth to set: it has filters"),
        (ModelConfig("cnn", options=(("filters", 3),)), "--option=filters: filters has a flag of its own: use --filters"),
        (ModelConfig("cnn", filters=(0,)), "--filters: (0,) is not legal for model cnn: use integers of at least 1"),
        (ModelConfig("cnn", filters=()), "--filters: () is not legal for model cnn"),
        (ModelConfig("cnn", padding="vaild"), "--padding: 'vaild' is not legal for model cnn: use one of valid, same"),
        (ModelConfig("cnn", activation="rellu"), "--activation: 'rellu' is not legal for model cnn: use one of linear, relu"),
        (ModelConfig("cnn", (8, 16), (3, 5, 3)), "--kernel_size: 3-5-3 has 3 values for the 2 of --filters=8-16: give one"),
        (ModelConfig("cnn", (8,), strides=(1, 2)), "--strides: 1-2 has 2 values for the 1 of --filters=8: give one value"),
        (ModelConfig("resnet20", (8, 16)), "--filters: (8, 16) is not legal for model resnet20: use 3 values joined by '-'"),
        (ModelConfig("vgg16", kernel_size=(3, 5)), "--kernel_size: (3, 5) is not legal for model vgg16: use one value"),
        (ModelConfig("resnet20", options=(("shortcut", "B"),)), "'B' is not legal for model resnet20: use one of A"),
        (ModelConfig("vgg16", options=(("hidden", "x"),)), "--option=hidden: 'x' is not legal for model vgg16: use an integer"),
    ],
)  # fmt: skip
def test_resolve_refuses_in_one_line(config, message):
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        zoo.resolve(config)
    assert "\n" not in str(error.value)


def test_convmixer_has_at_least_one_block():
    with pytest.raises(UsageError, match="--option=depth: 0 is not legal for model convmixer"):
        network("convmixer", options=(("depth", 0),))


# -------------------------------------------------------------------------------------------------------------------- forks


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """A folder with a fork's file, as the current one."""
    (tmp_path / "forked_models.py").write_text(
        textwrap.dedent(
            """
            from __future__ import annotations

            import typing

            import flax.linen as nn

            from cnn_jax.nn import Conv, Dense, Flatten

            def plain(input_shape, num_classes, *, filters: tuple[int, ...] = (4,), gain: float = 1.0, twice: bool = False):
                return (*[Conv(f) for f in filters], Flatten(), Dense(num_classes))

            class Net(nn.Module):
                num_classes: int
                filters: int = 4
                mode: typing.Literal["a", "b"] = "a"
                function: typing.Callable = nn.relu

                def __call__(self, x, train=False):
                    return x, {}

            class Namespace:
                plain = staticmethod(plain)

            def seven(input_shape, num_classes):
                return (Flatten(), Dense(7))

            def map(input_shape, num_classes):
                return (Conv(num_classes),)

            def frozen(input_shape, num_classes):
                return (Flatten(),)

            def listed(input_shape, num_classes):
                return [Flatten(), Dense(num_classes)]

            def pair(input_shape, num_classes, *, filters: tuple[int, ...] = (4,)):
                first, second = filters
                return (Flatten(), Dense(num_classes))

            def exits(input_shape, num_classes):
                raise SystemExit(0)

            def typo(input_shape, num_classes):
                return (Flatten(), Dense("10"))

            def alien(input_shape, num_classes):
                return (Flatten(), len)

            def short(input_shape):
                return (Flatten(), Dense(10))

            finished = (Flatten(), Dense(10))
            module = Net(10)
            number = 3
            """
        )
    )
    (tmp_path / "broken_models.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "forked_models"


def test_a_fork_brings_functions_modules_and_finished_networks(fork):
    assert zoo.spec(ModelConfig(f"{fork}:plain", (8, 9)), (5, 5, 1), 3) == (Conv(8), Conv(9), Flatten(), Dense(3))
    assert zoo.spec(ModelConfig(f"{fork}:Namespace.plain"), (5, 5, 1), 3) == (Conv(4), Flatten(), Dense(3))
    assert zoo.spec(ModelConfig(f"{fork}:finished"), (5, 5, 1), 10) == (Flatten(), Dense(10))
    assert isinstance(zoo.spec(ModelConfig(f"{fork}:module"), (5, 5, 1), 3), nn.Module)
    net = zoo.spec(ModelConfig(f"{fork}:Net", (8,), options=(("mode", "b"),)), (5, 5, 1), 3)
    assert (net.num_classes, net.filters, net.mode) == (3, 8, "b")


def test_a_forks_options_are_filled_in_and_checked_like_ours(fork):
    config = zoo.resolve(ModelConfig(f"{fork}:Net"))
    assert config == ModelConfig(f"{fork}:Net", filters=(4,), options=(("mode", "a"),))
    assert zoo.resolve(config) == config
    for bad, message in {
        ModelConfig(f"{fork}:Net", (4, 8)): "--filters: (4, 8) is not legal for model forked_models:Net: use one value",
        ModelConfig(f"{fork}:Net", options=(("mode", "c"),)): "use one of a, b",
        ModelConfig(
            f"{fork}:Net", padding="same"
        ): "--padding: model forked_models:Net has no padding to set: it has filters, mode",
        ModelConfig(f"{fork}:plain", options=(("gain", "x"),)): "use a number",
        ModelConfig(f"{fork}:plain", options=(("twice", 2),)): "use 0 or 1",
        ModelConfig(f"{fork}:finished", filters=(3,)): "it has no options",
        ModelConfig(f"{fork}:number"): "forked_models:number is neither a network nor a function that returns one",
        ModelConfig(f"{fork}:absent"): "--model: forked_models:absent cannot be imported: AttributeError",
        ModelConfig("absent_models:x"): "--model: absent_models:x cannot be imported: ModuleNotFoundError",
        ModelConfig("broken_models:x"): "--model: broken_models:x cannot be imported: ZeroDivisionError: division by zero",
        ModelConfig(":x"): "--model: :x cannot be imported",
    }.items():
        with pytest.raises(UsageError, match=re.escape(message)) as error:
            zoo.resolve(bad)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("seven", "seven gives outputs of shape (7,) per image, not (3,), a logit per class"),
        ("finished", "finished gives outputs of shape (10,) per image, not (3,)"),
        ("map", "map gives outputs of shape (3, 3, 3) per image, not (3,)"),
        ("frozen", "frozen gives outputs of shape (25,)"),
        ("listed", "listed returned a list: it must be a tuple of layer specs or a linen module"),
        ("pair", "pair failed: ValueError: not enough values to unpack (expected 2, got 1)"),
        ("pair", "forked_models.py:38)"),
        ("exits", "exits failed: SystemExit: 0 ("),
        ("typo", "dense1: units is '10': must be an integer of at least 1"),
        ("alien", "builtin_function_or_method is not a layer"),
        ("short", "short failed: TypeError: short() takes 1 positional argument but 2 were given ("),
        ("short", "forked_models.py:50)"),
        ("Net", "--model: forked_models:Net: it has no parameters to train"),
    ],
)
def test_b2_a_model_that_breaks_the_contract_is_refused_in_one_line(fork, attribute, message):
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        build(ModelConfig(f"{fork}:{attribute}"), (5, 5, 1), 3)
    assert "\n" not in str(error.value)


def test_b2_a_syntax_error_of_a_fork_is_placed(tmp_path, monkeypatch):
    (tmp_path / "unfinished_models.py").write_text("# a comment\ndef net(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match=r"cannot be imported: SyntaxError: invalid syntax \(unfinished_models.py:2\)$"):
        zoo.spec(ModelConfig("unfinished_models:net"), (5, 5, 1), 3)


# -------------------------------------------------------------------------------------------------------------------- speed


def test_planning_needs_no_jax():
    code = """
        import sys
        from cnn_jax import description
        from cnn_jax.sweep import plan
        description.describe("vgg16")
        assert not {"jax", "flax"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_trials_of_one_model_share_its_layers():
    """A plan of a hundred thousand trials resolves each model once."""

    def layers():
        return zoo.spec(zoo.resolve(ModelConfig("resnet110", padding="circular")), (32, 32, 3), 10)

    assert layers() is layers()
