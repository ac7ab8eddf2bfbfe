"""ONNX."""

import io
import warnings
from typing import Any

import onnx
import pytest
import torch
from bits import assert_same_bits, values
from onnx_models import run, session_of, written
from subjects import OPS, Op, X
from torch import Tensor
from torch.export import Dim

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
NO_BFLOAT16 = "ONNX Runtime has few bfloat16 kernels on CPUs"
# Computed in float32, or not computed.
NEED_NO_BFLOAT16 = (
    *("fake_quantize", "fake_quantize_blocks", "fake_quantize_float"),
    *("stochastic_round_ste", "straight_through"),
)
ROWS = torch.stack([X, X / 2, X * 2 + 0.25])


class Module(torch.nn.Module):
    """The op with constant arguments: numbers, and tensors as buffers."""

    def __init__(self, op: Op, x: Tensor) -> None:
        super().__init__()
        self.op = op
        self.arguments: list[Any] = []
        for i, argument in enumerate(op.arguments_for(x)):
            if isinstance(argument, Tensor):
                self.register_buffer(f"argument{i}", argument.clone())
                argument = f"argument{i}"
            self.arguments.append(argument)

    def forward(self, x: Tensor) -> Tensor:
        return self.op.function(x, *[getattr(self, a, a) if isinstance(a, str) else a for a in self.arguments])


class OfEachBatch(torch.nn.Module):
    """The op, with tensors that are created for each x."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def check_standard(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {""}
    assert not model.functions


@row("`export(dynamo=True)`: standard operators, the same bits in ONNX Runtime (but for a zero's sign, in five ops)")
@EVERY_OP
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.float16))],
    ids=str,
)
def test_dynamo_exporter(op: Op, dtype: torch.dtype) -> None:
    x = values(dtype)
    model = written(Module(op, x), x)
    check_standard(model)
    (y,), expected = run(session_of(model), x), op.expected(x)
    if not op.onnx_keeps_sign_of_zero:
        y, expected = (torch.where(t == 0, 0.0, t).to(dtype) for t in (y, expected))
    assert_same_bits(y, expected, x)


@row("the same for bfloat16")
@pytest.mark.slow
@EVERY_OP
@pytest.mark.refused(
    NO_BFLOAT16,
    error="NOT_IMPLEMENTED",
    backend="native",
    where=lambda p: p["op"].name not in NEED_NO_BFLOAT16,
)
@pytest.mark.refused(
    NO_BFLOAT16,
    error="NOT_IMPLEMENTED",
    backend="python",
    # Nor is the binary sign, which is a comparison and a cast there.
    where=lambda p: p["op"].name not in NEED_NO_BFLOAT16 and str(p["op"]) != "binary_sign_ste",
)
@pytest.mark.refused(
    "in the opset that torch exports, ONNX's Round takes no bfloat16",
    error=r"tensor\(bfloat16\)",
    where=lambda p: p["op"].name == "round_ste",
)
def test_bfloat16(op: Op) -> None:
    x = X.bfloat16()
    model = written(Module(op, x), x)
    check_standard(model)
    session = session_of(model)
    # By address, because NumPy has no bfloat16.
    y = torch.empty_like(x)
    binding = session.io_binding()
    place: Any = ("cpu", 0, onnx.TensorProto.BFLOAT16, list(x.shape))
    binding.bind_input(session.get_inputs()[0].name, *place, x.data_ptr())
    binding.bind_output(session.get_outputs()[0].name, *place, y.data_ptr())
    session.run_with_iobinding(binding)
    assert torch.equal(y, op.expected(x))


@row("dynamic batch")
@EVERY_OP
def test_dynamic_batch(op: Op) -> None:
    module = Module(op, X) if op.broadcasts else OfEachBatch(op)
    model = written(module, ROWS, dynamic_shapes={"x": {0: Dim("batch")}})
    check_standard(model)
    session = session_of(model)
    for x in (ROWS, ROWS[:2], torch.cat([ROWS, ROWS])):
        assert torch.equal(run(session, x)[0], torch.stack([op.expected(line) for line in x]))


@row("the old exporter, `torch.onnx.export(dynamo=False)`")
@EVERY_OP
@pytest.mark.refused(
    "written for `dynamo=True` alone",
    error="torch.onnx.export supports it only with dynamo=True",
    where=lambda p: p["op"].name == "fake_quantize_blocks",
)
@pytest.mark.parametrize("opset", [None, 15])
def test_old_exporter(op: Op, opset: int | None) -> None:
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Module(op, X), (X,), buffer, dynamo=False, opset_version=opset)
    model = onnx.load_from_string(buffer.getvalue())
    check_standard(model)
    assert opset in (None, model.opset_import[0].version)
    assert torch.equal(run(session_of(model), X)[0], op.expected(X))
