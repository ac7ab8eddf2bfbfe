"""ONNX's own operators for quantization, in what :func:`torch.onnx.export` makes of the ops that quantize."""

from typing import Any

import torch
from packaging.version import Version

__all__ = ["quantize_dequantize"]


def quantize_dequantize() -> dict[Any, Any]:
    """The ``custom_translation_table`` with which what quantizes becomes QuantizeLinear and DequantizeLinear.

    Without it, :func:`torch.onnx.export` writes :func:`ste.fake_quantize`, :func:`ste.fake_quantize_float` and
    :func:`ste.fake_quantize_blocks` as their formulas, in elementary operators; with it, in the two operators that
    runtimes look for to compute in few bits. Both give the bits of PyTorch.

    What the two operators cannot express is refused, by the export, and with it nothing is exported that computes other
    numbers than PyTorch does, with two exceptions. The first is NaN: ONNX names no integer for it, and where PyTorch
    makes a whole block NaN, a runtime may leave numbers in it. The second is -0 in e4m3fnuz and e5m2fnuz: they have
    none, and it becomes 0. To export an op as its formula beside others, take it out of the table:
    ``del table[torch.ops.ste.fake_quantize_blocks.default]``.

    x is float32, float16 or bfloat16, which are computed in float32. Of :func:`ste.fake_quantize`, the two operators
    can express:

    - a grid within the range of one byte, signed or not. An operator Clip between the two holds a narrower range; from
      opset 21 on, the whole range of 4 bits is int4 or uint4 by itself;
    - zero points that are whole and within that byte. They are looked at where they follow from parameters, buffers and
      constants. One that follows from the model's inputs cannot be, and has to be of int8 or uint8:
      ``zero_point.to(torch.uint8)``;
    - one scale and zero point in all, or one for each index of one dimension, the same for both: where one has them and
      the other is a single number, that is repeated. From opset 21 on (``opset_version=21``), any that broadcast to x's
      shape, such as one for each group of a view, in blocks.

    Of :func:`ste.fake_quantize_float`, from opset 19 on:

    - the formats e4m3fn, e5m2, e4m3fnuz and e5m2fnuz, with scales as above;
    - ``saturate=False`` with e4m3fnuz and e5m2fnuz. With the other two, ONNX Runtime computes other numbers of what is
      beyond the largest.

    Of :func:`ste.fake_quantize_blocks`, from opset 21 on, with scales and zero points that elementary operators compute
    from x:

    - the grids int4 and int8 with the rules absmax and minmax, and the same four formats with absmax;
    - blocks of any size, along a dimension whose length is fixed when the model is exported.

    Of all three, rounding to the nearest, not at random.

    Returns:
        What to give to ``torch.onnx.export(..., dynamo=True, custom_translation_table=...)``.

    Raises:
        RuntimeError: torch is older than 2.8, whose exporter takes the op apart before it looks at the table.
        ValueError: By the export, of what the operators cannot express.
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

        A weight in groups of 32 is int4 in blocks:

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
            f"ste.onnx.quantize_dequantize needs torch 2.8 or later, and torch {torch.__version__} is running: its "
            "exporter takes fake_quantize apart before it looks at the table"
        )
    from ste._quantize_linear import translations

    return translations()
