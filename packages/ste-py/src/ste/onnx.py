"""Export the ops that quantize as ONNX's own quantization operators."""

from typing import Any

import torch
from packaging.version import Version

__all__ = ["quantize_dequantize"]


def quantize_dequantize() -> dict[Any, Any]:
    """The ``custom_translation_table`` that exports the quantizing ops as QuantizeLinear and DequantizeLinear.

    Without it, :func:`torch.onnx.export` writes :func:`ste.fake_quantize`, :func:`ste.fake_quantize_float` and
    :func:`ste.fake_quantize_blocks` as their formulas, in elementary operators; with it, as the two operators that
    runtimes look for in order to compute in few bits. Both give the same bits as PyTorch.

    The export refuses what the two operators cannot express, so an exported model computes the same numbers as PyTorch,
    with two exceptions. The first is NaN: ONNX does not say which integer it becomes, and where PyTorch makes a whole
    block NaN, a runtime may leave numbers in it. The second is -0 in e4m3fnuz and e5m2fnuz, which have none: it becomes
    0. To export one op as its formula and the others with the table, remove it from the table:
    ``del table[torch.ops.ste.fake_quantize_blocks.default]``.

    x must be float32, float16 or bfloat16, and is computed in float32. For :func:`ste.fake_quantize`, the two operators
    can express:

    - a grid within the range of one byte, signed or not. A Clip between the two operators narrows the range; from opset
      21 on, the whole range of 4 bits becomes int4 or uint4 without one;
    - zero points that are whole and within that byte. Those that are computed from parameters, buffers and constants
      are checked. One that is computed from the model's inputs cannot be, and must be int8 or uint8:
      ``zero_point.to(torch.uint8)``;
    - one scale and zero point in all, or one for each index of one dimension, the same for both; if only one of the two
      is a single number, it is repeated. From opset 21 on (``opset_version=21``), any that broadcast to x's shape, such
      as one for each group of a view, as blocks.

    For :func:`ste.fake_quantize_float`, from opset 19 on:

    - the formats e4m3fn, e5m2, e4m3fnuz and e5m2fnuz, with scales as above;
    - ``saturate=False`` with e4m3fnuz and e5m2fnuz. With the other two, ONNX Runtime computes other numbers beyond the
      largest.

    For :func:`ste.fake_quantize_blocks`, from opset 21 on, with scales and zero points that elementary operators
    compute from x:

    - the grids int4 and int8 with the rules absmax and minmax, and the same four formats with absmax;
    - blocks of any size, along a dimension whose length is fixed when the model is exported.

    For all three, rounding must be to the nearest, not stochastic.

    Returns:
        The table to pass to ``torch.onnx.export(..., dynamo=True, custom_translation_table=...)``.

    Raises:
        RuntimeError: torch is older than 2.8: its exporter decomposes the op before it looks at the table.
        ValueError: Raised by the export, for what the operators cannot express.
        ImportError: onnxscript is not installed; the exporter requires it too.

    Example:
        >>> class Quantized(torch.nn.Module):
        ...     def forward(self, x):
        ...         return ste.fake_quantize(x, torch.tensor(0.5), None, -8, 7)
        >>> table = ste.onnx.quantize_dequantize()
        >>> options = {"dynamo": True, "verbose": False, "custom_translation_table": table}
        >>> program = torch.onnx.export(Quantized().eval(), (torch.randn(4),), **options)
        >>> sorted(node.op_type for node in program.model.graph if "Linear" in node.op_type)
        ['DequantizeLinear', 'QuantizeLinear']

        A weight in groups of 32 becomes int4 in blocks:

        >>> class InGroups(torch.nn.Linear):
        ...     def forward(self, x):
        ...         recipe = ste.BLOCK_RECIPES["int4_32"]
        ...         weight = ste.fake_quantize_blocks(self.weight, *recipe)
        ...         return torch.nn.functional.linear(x, weight, self.bias)
        >>> options["opset_version"] = 21
        >>> layer, x = InGroups(64, 8).eval(), torch.randn(2, 64)
        >>> program = torch.onnx.export(layer, (x,), **options)
        >>> (node,) = (n for n in program.model.graph if n.op_type == "QuantizeLinear")
        >>> node.attributes["block_size"].value, str(node.outputs[0].dtype)
        (32, 'INT4')
    """
    if Version(torch.__version__).release < (2, 8):
        raise RuntimeError(
            f"ste.onnx.quantize_dequantize requires torch 2.8 or later, but torch {torch.__version__} is running: its "
            "exporter decomposes fake_quantize before it looks at the table"
        )
    from ste._quantize_linear import translations

    return translations()
