"""Models that :func:`torch.onnx.export` writes with ``ste.onnx.quantize_dequantize``, and what they compute."""

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import ste


def written(module: torch.nn.Module, x: Tensor, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        program = torch.onnx.export(module.eval(), (x,), dynamo=True, verbose=False, **options)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def exported(module: torch.nn.Module, x: Tensor, opset: int, **options: Any) -> onnx.ModelProto:
    """Export with QuantizeLinear and DequantizeLinear."""
    table = ste.onnx.quantize_dequantize()
    model = written(module, x, opset_version=opset, custom_translation_table=table, **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def session_of(model: onnx.ModelProto, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """A session on one thread, which saves the optimized model to a file, without machine-dependent optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, x: Tensor) -> list[Tensor]:
    # An input on which no value depends may be left out.
    given = {value.name: x.numpy() for value in session.get_inputs()}
    return [torch.as_tensor(y) for y in session.run(None, given)]


def computed(model: onnx.ModelProto, x: Tensor, quantized: int | None = None) -> list[Tensor]:
    """ONNX Runtime's results for x, with this many pairs of the two operators; None: one pair for each result."""
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == (quantized or len(model.graph.output))
    return run(session_of(model), x)


def causes(raised: pytest.ExceptionInfo[BaseException]) -> str:
    lines, cause = [], raised.value.__cause__
    while cause is not None:
        lines.append(str(cause))
        cause = cause.__cause__
    return "\n".join(lines)
