"""Export to a PyTorch module: code in NAME.py, weights in NAME.pt.

Code is exported rather than a torch.export program: it can be read, edited, fine-tuned and split into features, works with any
version of PyTorch, and its weights are a plain state dict for `torch.load(..., weights_only=True)`.
"""

import io
import json
import types

import numpy as np

from cnn_jax.data.normalization import Normalization
from cnn_jax.export.exportable import Exportable, Files
from cnn_jax.export.requirement import require
from cnn_jax.export.torch_code import Code, emit

FORMAT = "torch"

_MODULE = '''"""A network trained by cnn_jax, as a PyTorch module.

    network = load()                       # in evaluation mode, with the weights of the .pt file in the same folder
    logits = network(images)               # uint8 0 to 255, ({shape}) -> float32 (N, {classes})

ABOUT["class_names"] lists the classes. `network.normalize` converts images to inputs of the network.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ABOUT = {about}
{helpers}

class Network(nn.Module):
    def __init__(self):
        super().__init__()
{modules}

    def normalize(self, image):
        """Convert uint8 images 0 to 255 to inputs of the network."""
        if image.dtype != torch.uint8 or image.shape[1:] != ({channels}, {height}, {width}):
            raise ValueError(f"images must be uint8 0 to 255, ({shape}), not {{image.dtype}}, {{tuple(image.shape)}}")
{normalization}

    def forward(self, image):
        x = self.normalize(image)
{forward}
        return x


def load(weights=Path(__file__).with_suffix(".pt")):
    """Load the network in evaluation mode. weights: path or file of the state dict."""
    network = Network()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()
'''


def files(network: Exportable) -> Files:
    """Export weights, and code of a module from uint8 images (N, C, H, W) to logits (N, K)."""
    code = Code()
    emit(code, network.ops, "x", network.input_shape)
    torch = require("torch", FORMAT)
    height, width, channels = network.input_shape
    about = network.about(network.input_text(channels, height, width))
    decoded = about | {name: json.loads(about[name]) for name in ("class_names", "normalization", "input_shape")}
    entries = "".join(f"    {name!r}: {_literal(value)},\n" for name, value in decoded.items())
    text = _MODULE.format(
        about=f"{{\n{entries}}}",
        helpers="".join(f"\n\n{helper}" for helper in code.helpers),
        modules=_indented(code.modules),
        normalization=_indented(_normalization(network.normalization, network.input_shape)),
        forward=_indented(code.forward),
        shape=f"N, {channels}, {height}, {width}",
        classes=network.num_classes,
        channels=channels,
        height=height,
        width=width,
    )
    weights = io.BytesIO()
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in code.state.items()}, weights)
    return {".pt": weights.getvalue(), ".py": text.encode()}


def logits(files: Files, images: np.ndarray) -> np.ndarray:
    """Run the module on uint8 images (N, H, W, C)."""
    torch = require("torch", FORMAT)
    module = types.ModuleType("exported")
    module.__file__ = "exported.py"
    exec(compile(files[".py"], "exported.py", "exec"), module.__dict__)
    network = module.load(io.BytesIO(files[".pt"]))
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _literal(value: object) -> str:
    return ascii(value)  # names of classes and files may have any character


def _indented(lines: list[str]) -> str:
    return "\n".join(" " * 8 + line for line in lines)


def _normalization(normalization: Normalization, shape: tuple[int, ...]) -> list[str]:
    """Return the code of `Normalization`, with its constants."""
    if normalization.kind == "standardize":
        return [
            "x = image.float()",
            "x = x - x.mean(dim=(1, 2, 3), keepdim=True)",
            f"return x / x.square().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1 / {int(np.prod(shape))}).sqrt()",
        ]
    if normalization.kind == "per_channel":
        constants = {"mean": normalization.mean, "std": normalization.std}
        found = [f"{n} = torch.tensor({list(v)}, device=image.device).view(-1, 1, 1)" for n, v in constants.items()]
        return [*found, "return (image.float() / 255 - mean) / std"]
    return ["return image.float() / 255"]
