"""Models as :func:`torch.onnx.export` writes them with ``ste.onnx.quantize_dequantize``, and what they compute."""

import warnings
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import ste


def exported(module: torch.nn.Module, x: Tensor, opset: int, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            module.eval(),
            (x,),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            custom_translation_table=ste.onnx.quantize_dequantize(),
            **options,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def computed(model: onnx.ModelProto, x: Tensor, quantized: int | None = None) -> list[Tensor]:
    """What ONNX Runtime makes of x, with as many pairs of the two operators; None: one for each result."""
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == (quantized or len(model.graph.output))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [torch.as_tensor(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]


def causes(raised: pytest.ExceptionInfo[BaseException]) -> str:
    lines, cause = [], raised.value.__cause__
    while cause is not None:
        lines.append(str(cause))
        cause = cause.__cause__
    return "\n".join(lines)
