"""ONNX's own operators for quantization, in what :func:`torch.onnx.export` makes of :func:`ste.fake_quantize`."""

from typing import Any

import torch
from packaging.version import Version

__all__ = ["quantize_dequantize"]


def quantize_dequantize() -> dict[Any, Any]:
    """The ``custom_translation_table`` with which fake_quantize becomes QuantizeLinear and DequantizeLinear.

    Without it, :func:`torch.onnx.export` writes :func:`ste.fake_quantize` as its formula, in elementary operators; with
    it, in the two operators that runtimes look for to compute in integers. Both give the bits of PyTorch.

    It is for grids within the range of one byte, signed or not, whose zero point is whole, and for one scale in all or
    one for each index of one dimension. An operator Clip between the two holds a narrower range.

    Returns:
        What to give to ``torch.onnx.export(..., dynamo=True, custom_translation_table=...)``.

    Raises:
        RuntimeError: torch is older than 2.8, whose exporter takes the op apart before it looks at the table.
        ValueError: By the export, of a grid that is not within a byte, or of a scale for each index of more than one
            dimension.
        ImportError: onnxscript is not installed, which the exporter needs too.

    Example:
        >>> class Quantized(torch.nn.Module):
        ...     def forward(self, x):
        ...         return ste.fake_quantize(x, torch.tensor(0.5), None, -8, 7)
        >>> table = ste.onnx.quantize_dequantize()
        >>> options = {"dynamo": True, "verbose": False, "custom_translation_table": table}
        >>> program = torch.onnx.export(Quantized().eval(), (torch.randn(4),), **options)
        >>> sorted(node.op_type for node in program.model.graph if "Linear" in node.op_type)
        ['DequantizeLinear', 'QuantizeLinear']
    """
    if Version(torch.__version__).release < (2, 8):
        raise RuntimeError(
            f"ste.onnx.quantize_dequantize needs torch 2.8 or later, and torch {torch.__version__} is running: its "
            "exporter takes fake_quantize apart before it looks at the table"
        )
    from onnxscript import ir, opset18

    op: Any = opset18  # its types are those of functions that onnxscript compiles

    def fake_quantize(
        x: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, grad_scale: float = 1.0
    ) -> Any:
        dtype, lowest, highest = (ir.DataType.INT8, -128, 127) if quant_min < 0 else (ir.DataType.UINT8, 0, 255)
        if quant_min < lowest or quant_max > highest:
            raise ValueError(
                f"fake_quantize: the grid from {quant_min} to {quant_max} is not within the range of a byte"
            )
        dims = [dim - len(scale.shape) for dim, size in enumerate(scale.shape) if size != 1]
        if len(dims) > 1:
            raise ValueError(f"fake_quantize: QuantizeLinear has no scale of shape {list(scale.shape)}")
        shape = op.Constant(value_ints=[-1] if dims else [])
        axis = len(x.shape) + dims[0] if dims else 0
        steps = op.Reshape(op.Cast(scale, to=ir.DataType.FLOAT), shape)
        if zero_point is None:
            zero_point = op.Constant(value_float=0.0)
        zeros = op.Expand(op.Reshape(op.Cast(zero_point, to=dtype), op.Constant(value_ints=[-1])), op.Shape(steps))
        if not dims:
            zeros = op.Reshape(zeros, shape)
        q = op.QuantizeLinear(op.Cast(x, to=ir.DataType.FLOAT), steps, zeros, axis=axis)
        if (quant_min, quant_max) != (lowest, highest):
            low, high = (op.Cast(op.Constant(value_int=end), to=dtype) for end in (quant_min, quant_max))
            q = op.Clip(q, low, high)
        return op.CastLike(op.DequantizeLinear(q, steps, zeros, axis=axis), x)

    return {torch.ops.ste.fake_quantize.default: fake_quantize}
