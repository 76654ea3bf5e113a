"""`look_inside`: the arrays behind `launch.py inspect` for one trained network.

N test images, *S spatial axes, C channels, K classes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cnn_jax.analysis import excitation
from cnn_jax.analysis.attributions import Attribution, attributions
from cnn_jax.analysis.confusion import Mistake, mistakes
from cnn_jax.analysis.excitation import Responses, Top
from cnn_jax.analysis.kernels import Kernels, first_kernels
from cnn_jax.analysis.maximise import STEPS, Maximised, maximise
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.patches import Patch, ReceptiveField, cut
from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError
from cnn_jax.nn import flat, layer_table
from cnn_jax.records import confusion

LAYERS = 4  # shown by default
EXAMPLES = 4  # test images shown with feature maps and attributions
SANITY = 8  # test images averaged over in the sanity check, including the examples
FEW, MANY = 12, 32  # channels shown per layer: `MANY` where their patches are small
_SMALL = 12  # pixels along an axis
# Limit on the multiply-accumulates of maximising a layer, about ten seconds on two cores: for large networks, fewer channels
# are maximised in fewer steps, and the sanity check uses half of the images.
_WORK, _LARGE = 5e11, 3e8


@dataclasses.dataclass(frozen=True)
class Choice:
    """Layer, channel and images to inspect; None: chosen by `look_inside`."""

    layer: str | None = None
    channel: int | None = None
    image: int | None = None

    def check(self, network: TrainedNetwork, images: int) -> None:
        """Raise UsageError, with the flag and its legal values, for an unknown layer, channel or test image."""
        if not network.layers:
            raise UsageError(f"{network.label} returns no features: there is no layer to inspect")
        if self.layer is not None:
            network.layer(self.layer)
        if self.channel is not None:
            if self.layer is None:
                raise UsageError("--channel: name its layer with --layer")
            channels = network.feature_shapes[self.layer][-1]
            if not 0 <= self.channel < channels:
                raise UsageError(f"--channel={self.channel}: must be between 0 and {channels - 1} in layer {self.layer}")
        if self.image is not None and not 0 <= self.image < images:
            raise UsageError(f"--image={self.image}: must be between 0 and {images - 1}, the test images")


@dataclasses.dataclass(frozen=True)
class LayerView:
    """One layer: its responses to all test images, and the patches and maximised inputs of its shown `channels`.

    `patches` has the patches of the top-activating images of each shown channel; `window` is the receptive field of the
    maximised output.
    """

    name: str
    shape: tuple[int, ...]
    field: tuple[int, ...] | None
    responses: Responses
    top: Top
    channels: tuple[int, ...]
    patches: list[list[Patch]]
    maximised: Maximised
    window: list[Patch]


@dataclasses.dataclass(frozen=True)
class Inside:
    """Results of `look_inside`. `examples` are indices of test images, `maps` their feature maps by layer (E, *S, C)."""

    network: TrainedNetwork
    dataset: Dataset
    kernels: Kernels | None
    layers: list[LayerView]
    logits: np.ndarray
    matrix: np.ndarray
    mistakes: list[Mistake]
    examples: list[int]
    maps: dict[str, np.ndarray]
    attributions: list[Attribution]

    @property
    def answers(self) -> np.ndarray:
        """Predicted class (N,) of each test image."""
        return self.logits.argmax(axis=-1)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for an .npz file."""
        out = {"logits": self.logits, "labels": np.asarray(self.dataset.test_labels), "confusion": self.matrix}
        out |= {"examples": np.array(self.examples)}
        if self.kernels is not None:
            out[f"kernels/{self.kernels.layer}"] = self.kernels.values
        for view in self.layers:
            every = view.responses.most()
            out |= {
                f"excitation/{view.name}/images": every.images,
                f"excitation/{view.name}/values": every.values,
                f"excitation/{view.name}/positions": every.positions,
                f"maximised/{view.name}/channels": np.array(view.maximised.channels),
                f"maximised/{view.name}/pixels": view.maximised.pixels,
                f"maximised/{view.name}/values": view.maximised.values,
            }
        out |= {f"maps/{name}": maps for name, maps in self.maps.items()}
        for found in self.attributions:
            name = found.method.replace(" ", "_")
            out |= {f"attribution/{name}/trained": found.trained, f"attribution/{name}/random": found.random}
        return out


def default_layers(network: TrainedNetwork, most: int = LAYERS) -> list[str]:
    """Select layers to show: the first, the last, and evenly spaced ones in between.

    Candidates are the outputs of layers with weights, after their norms and activations, and the logits.
    """
    if network.spec is None:
        names = list(network.layers)
    else:
        rows = {row.name: row for row in layer_table(network.spec, network.input_shape).layers}
        weighted: list[str] = []
        open_group = False
        for layer in network.spec:
            if layer.follows and open_group:
                weighted[-1] = layer.name
            elif open_group := sum(rows[inner.name].params for inner in flat([layer])) > 0:
                weighted.append(layer.name)
        last = network.spec[-1].name
        names = [*weighted, *([last] if weighted[-1:] != [last] else [])]
    return [names[i] for i in sorted({round(x) for x in np.linspace(0, len(names) - 1, most)})]


def _spatial(network: TrainedNetwork, names: Sequence[str]) -> list[str]:
    """Return the layers with spatial axes among `names`, or all of the network's if there are few."""
    every = [name for name in network.layers if len(network.feature_shapes[name]) > 1]
    return every if len(every) <= LAYERS else [name for name in every if name in names]


def look_inside(
    network: TrainedNetwork, dataset: Dataset, choice: Choice | None = None, tell: Callable[[str], None] = lambda text: None
) -> Inside:
    """Inspect a trained network.

    Args:
      network: the network.
      dataset: its data.
      choice: layer, channel and images to inspect.
      tell: called with a description of each computation before it starts.

    Raises:
      UsageError: unknown layer, channel or test image, or the model returns no features.
    """
    choice = choice or Choice()
    images, labels = dataset.test_images, np.asarray(dataset.test_labels)
    choice.check(network, len(images))
    names = [choice.layer] if choice.layer else default_layers(network)
    tell(f"{len(images):,} test images")
    logits_NK, found = excitation.logits_and_responses(network, images, names)
    answers_N, wrong = logits_NK.argmax(-1), mistakes(logits_NK, labels)
    views = []
    for name in names:
        tell(f"maximising {name}")
        views.append(_view(network, images, name, found[name], choice))
    count = EXAMPLES if network.macs > _LARGE else SANITY
    found_images = _examples(labels, answers_N, [m.image for m in wrong])[:count]
    chosen = found_images if choice.image is None else [choice.image]
    shown = chosen[:EXAMPLES]
    maps = network.features(images[shown], [choice.layer] if choice.layer else _spatial(network, names))
    cam = choice.layer if choice.layer and len(network.feature_shapes[choice.layer]) > 1 else None
    pictures = attributions(network, images[chosen], answers_N[chosen], cam, tell=tell)
    matrix_KK = confusion.matrix(labels, answers_N, network.num_classes)
    return Inside(
        network, dataset, first_kernels(network), views, logits_NK, matrix_KK, wrong, shown, maps, pictures
    )  # fmt: skip


def _view(network: TrainedNetwork, images: np.ndarray, name: str, responses: Responses, choice: Choice) -> LayerView:
    field = ReceptiveField.of(network, name)
    shape, size = network.feature_shapes[name], network.input_shape[:-1]
    sizes = None if field.last is None else tuple(part.size for part in field.last)
    most = MANY if max(sizes or size) <= _SMALL else FEW
    steps = STEPS // 2 if network.macs > _LARGE else STEPS
    most = min(most, max(4, int(_WORK / (3 * steps * max(network.macs, 1)))))
    channels = (choice.channel,) if choice.channel is not None else tuple(range(min(shape[-1], most)))
    top = responses.most()
    patches = [
        [cut(images[i], field.window(at), field.seen(at)) for i, at in zip(top.images[c], top.positions[c], strict=True)]
        for c in channels
    ]
    maximised = maximise(network, name, channels, steps=steps)
    where = field.window(maximised.position), field.seen(maximised.position)
    window = [cut(pixels, *where) for pixels in maximised.pixels]
    return LayerView(name, shape, sizes, responses, top, channels, patches, maximised, window)


def _examples(labels_N: np.ndarray, answers_N: np.ndarray, wrong: Sequence[int]) -> list[int]:
    """Select `SANITY` test images: correct ones of different classes, the most confident mistake as the fourth, then others."""
    right = [int(np.flatnonzero((labels_N == k) & (answers_N == k))[0]) for k in np.unique(labels_N[labels_N == answers_N])]
    first = [*right[: EXAMPLES - 1], *wrong[:1], *right[EXAMPLES - 1 :]]
    rest = [i for i in range(len(labels_N)) if i not in first]
    return [*first, *rest][:SANITY]
