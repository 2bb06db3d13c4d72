"""A tiny exported model for tests that need one: it says how light an image is. No training, no PyTorch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def onnx_model(
    path: Path,  # the file to write
    shape: Sequence[int] = (28, 28),  # of an image, [H, W] or [3, H, W]
    classes: Sequence[str] = ("dark", "light"),  # two
    **metadata: Any,  # more of it, or other texts for classes, image_shape and datamodule; None leaves one out
) -> Path:
    "Write a model whose probability of the second class is the mean of all pixels, divided by 255."
    import onnx
    from onnx import TensorProto, helper

    def tensor(name, values, kind=TensorProto.FLOAT): return helper.make_tensor(name, kind, [len(values)] * bool(name), values)

    axes = list(range(1, len(shape) + 1))
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=axes, keepdims=0),
             helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
             helper.make_node("Div", ["column", "most"], ["light"]),
             helper.make_node("Sub", ["one", "light"], ["dark"]),
             helper.make_node("Concat", ["dark", "light"], ["probabilities"], axis=1)]
    numbers = [tensor("most", [255.0]), tensor("one", [1.0]), tensor("last", [1], TensorProto.INT64)]
    graph = helper.make_graph(nodes, "tiny", [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *shape])],
                              [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])], numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    texts = {"classes": [*(classes or ())], "image_shape": list(shape), "datamodule": {"color": "grey"}} | metadata
    helper.set_model_props(model, {key: json.dumps(value) for key, value in texts.items() if value is not None})
    onnx.save(model, path)
    return path
