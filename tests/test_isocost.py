"""Equal cost: the nearest filters, by trying them all, and refusals that name the cell."""

import re

import pytest

from cnn_jax import describe, zoo
from cnn_jax.errors import UsageError
from cnn_jax.sweep import equal_cost
from cnn_jax.trial import ModelConfig

MNIST = (28, 28, 1), 10


def cost(config, measure, shape=MNIST):
    return getattr(describe(config, *shape), measure)


@pytest.mark.parametrize("measure", ["params", "macs"])
@pytest.mark.parametrize("padding", ["valid", "same", "full"])
@pytest.mark.parametrize("kernel_size", [1, 2, 5, 7])
def test_one_stack_of_filters_is_the_nearest_of_all(measure, padding, kernel_size):
    target = cost(ModelConfig(), measure)
    config = ModelConfig(kernel_size=(kernel_size,), padding=padding)
    tried = {f: abs(cost(ModelConfig("cnn", (f,), (kernel_size,), padding=padding), measure) - target) for f in range(1, 400)}
    if min(tried.values()) > 0.05 * target:
        with pytest.raises(UsageError, match="--iso"):
            equal_cost.match(config, *MNIST, measure=measure, target=target)
        return
    matched = equal_cost.match(config, *MNIST, measure=measure, target=target)
    assert tried[matched.filters[0]] == min(tried.values())
    assert (matched.kernel_size, matched.padding) == ((kernel_size,), padding)


def test_the_first_cell_is_left_as_it_is():
    for name in ("cnn", "simple_convnet", "resnet20", "vgg11", "convmixer"):
        config, (shape, classes) = zoo.resolve(ModelConfig(name)), zoo.PUBLISHED_FOR[name]
        target = describe(config).params
        assert equal_cost.match(config, shape, classes, measure="params", target=target) == config


@pytest.mark.parametrize("measure", ["params", "macs"])
def test_a_stack_keeps_its_proportions(measure):
    config = ModelConfig("resnet20", kernel_size=(5,))
    target = cost(ModelConfig("resnet20"), measure, zoo.PUBLISHED_FOR["resnet20"])
    matched = equal_cost.match(config, *zoo.PUBLISHED_FOR["resnet20"], measure=measure, target=target)
    narrow, middle, wide = matched.filters
    assert narrow < 16
    assert abs(middle - 2 * narrow) <= 1
    assert abs(wide - 4 * narrow) <= 2
    assert abs(cost(matched, measure, zoo.PUBLISHED_FOR["resnet20"]) / target - 1) <= equal_cost.TOLERANCE


def test_a_smaller_kernel_gets_more_filters():
    target = cost(ModelConfig("cnn", (32, 64), (5,)), "params")
    matched = equal_cost.match(ModelConfig("cnn", (32, 64), (3,)), *MNIST, measure="params", target=target)
    assert matched.filters[0] > 32
    assert matched.filters[1] > 64


def test_a_cell_that_cannot_be_matched_is_named():
    message = (
        "--iso=macs: model cnn with kernel_size=7, strides=1, padding=same cannot come closer to 50,000 than 40,376 (filters=1)"
    )
    with pytest.raises(UsageError, match=re.escape(message)):
        equal_cost.match(ModelConfig(kernel_size=(7,), padding="same"), *MNIST, measure="macs", target=50_000)


def test_a_target_below_what_one_filter_costs_is_refused():
    with pytest.raises(UsageError, match="cannot come closer to 1 than"):
        equal_cost.match(ModelConfig(), *MNIST, measure="params", target=1)


def test_a_model_without_filters_is_refused():
    with pytest.raises(UsageError, match="--iso: model nin has no filters to scale"):
        equal_cost.match(ModelConfig("nin"), *zoo.PUBLISHED_FOR["nin"], measure="params", target=1000)
