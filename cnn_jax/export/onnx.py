"""Export to an ONNX graph, for onnxruntime and Netron.

The image is channels last, as in Pillow and NumPy, and is normalized in the graph; afterwards, tensors are NCHW, as in ONNX.
Opset 17 has all operators used, and is supported by runtimes since 2022.
"""

import numpy as np

import cnn_jax
from cnn_jax.data.normalization import Normalization
from cnn_jax.export.exportable import Exportable, Files
from cnn_jax.export.onnx_graph import Graph, emit
from cnn_jax.export.requirement import require

FORMAT = "onnx"
OPSET, IR_VERSION = 17, 8


def files(network: Exportable) -> Files:
    """Export a graph from 'image', uint8 (batch, H, W, C), to 'logits', float32 (batch, K), checked by onnx."""
    ops, onnx = network.ops, require("onnx", FORMAT)
    graph = Graph(onnx)
    x = _input(graph, network.normalization, network.input_shape)
    x, _ = emit(graph, ops, x, network.input_shape)
    graph.nodes.append(onnx.helper.make_node("Identity", [x], ["logits"], name="logits"))
    types = onnx.TensorProto
    image = onnx.helper.make_tensor_value_info("image", types.UINT8, ["batch", *network.input_shape])
    logits = onnx.helper.make_tensor_value_info("logits", types.FLOAT, ["batch", network.num_classes])
    made = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, network.name, [image], [logits], graph.constants),
        producer_name="cnn_jax",
        producer_version=cnn_jax.__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.helper.set_model_props(made, network.about(network.input_text(*network.input_shape)))
    onnx.checker.check_model(made, full_check=True)
    return {".onnx": made.SerializeToString()}


def logits(files: Files, images: np.ndarray) -> np.ndarray | None:
    """Run the graph on uint8 images (N, H, W, C); None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(files[".onnx"], providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def _input(graph: Graph, normalization: Normalization, shape: tuple[int, ...]) -> str:
    """Add the steps of `Normalization`, then NHWC -> NCHW."""
    with graph.naming("normalize"):
        x = graph.node("Cast", "image", to=1)  # float32
        if normalization.kind == "standardize":
            axes = {"axes": [1, 2, 3], "keepdims": 1}
            x = graph.node("Sub", x, graph.node("ReduceMean", x, **axes))
            variance = graph.node("ReduceMean", graph.node("Mul", x, x), **axes)
            least = graph.constant("least_variance", np.float32(1 / np.prod(shape)))
            x = graph.node("Div", x, graph.node("Sqrt", graph.node("Max", variance, least)))
        else:
            x = graph.node("Mul", x, graph.constant("scale", np.float32(1 / 255)))
        if normalization.kind == "per_channel":
            x = graph.node("Sub", x, graph.constant("mean", np.array(normalization.mean, np.float32)))
            x = graph.node("Mul", x, graph.constant("inverse_std", np.array([1 / s for s in normalization.std], np.float32)))
        return graph.node("Transpose", x, perm=[0, 3, 1, 2])
