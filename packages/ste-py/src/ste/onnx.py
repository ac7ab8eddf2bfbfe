"""ONNX's own operators for quantization, in what :func:`torch.onnx.export` makes of :func:`ste.fake_quantize`."""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version
from torch import Tensor
from torch._ops import OpOverload

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

__all__ = ["quantize_dequantize"]


def quantize_dequantize() -> dict[Any, Any]:
    """The ``custom_translation_table`` with which fake_quantize becomes QuantizeLinear and DequantizeLinear.

    Without it, :func:`torch.onnx.export` writes :func:`ste.fake_quantize` as its formula, in elementary operators; with
    it, in the two operators that runtimes look for to compute in integers. Both give the bits of PyTorch.

    What the two operators cannot express is refused, by the export, and with it nothing is exported that computes other
    numbers than PyTorch does (NaN aside, for which ONNX names no integer). They can express:

    - a grid within the range of one byte, signed or not. An operator Clip between the two holds a narrower range; from
      opset 21 on, the whole range of 4 bits is int4 or uint4 by itself;
    - zero points that are whole and within that byte. They are looked at where they follow from parameters, buffers and
      constants. One that follows from the model's inputs cannot be, and has to be of int8 or uint8:
      ``zero_point.to(torch.uint8)``;
    - one scale and zero point in all, or one for each index of one dimension, the same for both: where one has them and
      the other is a single number, that is repeated. From opset 21 on (``opset_version=21``), any that broadcast to x's
      shape, such as one for each group of a view, in blocks;
    - x of float32, float16 or bfloat16, which are computed in float32.

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
    """
    if Version(torch.__version__).release < (2, 8):
        raise RuntimeError(
            f"ste.onnx.quantize_dequantize needs torch 2.8 or later, and torch {torch.__version__} is running: its "
            "exporter takes fake_quantize apart before it looks at the table"
        )
    from onnxscript import evaluator, ir

    def fake_quantize(
        x: Any,
        scale: Any,
        zero_point: Any = None,
        quant_min: Any = -128,
        quant_max: Any = 127,
        grad_scale: Any = 1.0,
        inside: Any = "rounded",
    ) -> Any:
        op: Any = evaluator.default().opset  # type: ignore[attr-defined]  # the opset that is exported to
        if x.dtype == ir.DataType.DOUBLE:
            raise ValueError("fake_quantize: QuantizeLinear computes in float32, but x is float64")
        if not isinstance(quant_min, int) or not isinstance(quant_max, int):
            raise ValueError("fake_quantize: QuantizeLinear's range is fixed, but quant_min or quant_max is computed")
        known = torch.tensor(0) if zero_point is None else _known_zero_point()
        z_shape = list(zero_point.shape if known is None else known.shape)

        # As the operators have them, scale and zero point have no dimension, one, or, for blocks, x's: `sizes`, and the
        # dimensions of x that these are.
        rank = len(x.shape)
        varying = {i - len(shape) for shape in (scale.shape, z_shape) for i, n in enumerate(shape) if n != 1}
        attributes: dict[str, int] = {}
        dims = [rank + i for i in varying]
        if len(dims) == 1:
            attributes = {"axis": dims[0]}
        elif dims and op.version < 21:
            raise ValueError(
                "fake_quantize: before opset 21, QuantizeLinear has one scale for each index of at most one dimension; "
                f"scale has shape [{', '.join(map(str, scale.shape))}], zero_point [{', '.join(map(str, z_shape))}]"
            )
        sizes = [x.shape[i] for i in dims]
        if len(dims) > 1:
            # A block is as long as x along one of the dimensions on which nothing depends, and else has one element.
            long = [i for i in range(rank) if i not in dims and isinstance(x.shape[i], int)]
            axis = max(long, key=lambda i: int(x.shape[i]), default=rank - 1)
            attributes = {"axis": axis, "block_size": int(x.shape[axis]) if long else 1}
            dims = list(range(rank))
            sizes = [1 if long and i == axis else x.shape[i] for i in dims]
        is_static = all(isinstance(n, int) for n in sizes)

        def ints(values: int | list[int]) -> Any:
            return op.Constant(value=ir.tensor(values, dtype=ir.DataType.INT64))

        def laid_out(parameter: Any, shape: list[Any]) -> Any:
            if len(dims) < 2 and len(shape) != len(dims):
                parameter = op.Reshape(parameter, ints([-1] * len(dims)))
            if [n for n in shape if n != 1] == sizes or shape == sizes:
                return parameter
            if is_static:
                return op.Expand(parameter, ints(sizes))
            lengths = (
                ints([n]) if isinstance(n, int) else op.Shape(x, start=i, end=i + 1) for i, n in zip(dims, sizes)
            )
            return op.Expand(parameter, op.Concat(*lengths, axis=0))

        steps = laid_out(op.Cast(scale, to=ir.DataType.FLOAT), list(scale.shape))
        if known is None:
            kind = _kind_of_computed(zero_point.dtype.name, quant_min, quant_max)
            zeros = laid_out(zero_point, z_shape)
        else:
            # ONNX's Expand is not for integers of 4 bits.
            kind = _kind(known, quant_min, quant_max, has_4_bits=op.version >= 21 and is_static)
            if len(dims) < 2:
                known = known.reshape([-1] * len(dims))
            if is_static:
                known = known.expand(sizes)
            numbers = known.detach().cpu().to(torch.int64).tolist()
            zeros = op.Constant(value=ir.tensor(numbers, dtype=ir.DataType[kind]))
            if not is_static:
                zeros = laid_out(zeros, list(known.shape))
        q = op.QuantizeLinear(op.Cast(x, to=ir.DataType.FLOAT), steps, zeros, **attributes)
        if (quant_min, quant_max) != _KINDS[kind]:
            q = op.Clip(q, *(op.Cast(ints(end), to=ir.DataType[kind]) for end in (quant_min, quant_max)))
        return op.CastLike(op.DequantizeLinear(q, steps, zeros, **attributes), x)

    return {torch.ops.ste.fake_quantize.default: fake_quantize}


_KINDS = {"INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127), "UINT8": (0, 255)}


def _holding(quant_min: int, quant_max: int) -> list[str]:
    """The kinds of byte that hold a grid; that of its sign is the first."""
    kinds = ["INT8", "UINT8"] if quant_min < 0 else ["UINT8", "INT8"]
    holding = [kind for kind in kinds if _KINDS[kind][0] <= quant_min and quant_max <= _KINDS[kind][1]]
    if not holding:
        raise ValueError(f"fake_quantize: the grid from {quant_min} to {quant_max} is not within the range of a byte")
    return holding


def _kind(zero_point: Tensor, quant_min: int, quant_max: int, *, has_4_bits: bool) -> str:
    """The integers that hold the grid and the zero point."""
    kinds = _holding(quant_min, quant_max)
    if has_4_bits:
        # A narrower range would need a Clip, which is not for integers of 4 bits.
        kinds = [kind for kind in ("INT4", "UINT4") if _KINDS[kind] == (quant_min, quant_max)] + kinds
    if zero_point.is_floating_point() and not bool((zero_point == zero_point.round()).all()):
        raise ValueError("fake_quantize: QuantizeLinear's zero points are integers, but zero_point is not whole")
    for kind in kinds:
        low, high = _KINDS[kind]
        if bool(((zero_point >= low) & (zero_point <= high)).all()):
            return kind
    raise ValueError(
        "fake_quantize: zero_point is not within the range of a byte that holds the grid "
        f"from {quant_min} to {quant_max}"
    )


def _kind_of_computed(dtype: str, quant_min: int, quant_max: int) -> str:
    """That of a zero point whose values are not known."""
    kinds = _holding(quant_min, quant_max)
    if dtype in kinds:
        return dtype
    names = " or ".join(kind.lower() for kind in kinds)
    raise ValueError(
        f"fake_quantize: zero_point is computed from the model's inputs, in {dtype.lower()}; "
        f"for the grid from {quant_min} to {quant_max}, QuantizeLinear needs it in {names}"
    )


def _known_zero_point() -> Tensor | None:
    """The value of the zero point of the op that is being exported, if it follows from what the program holds.

    A translation is given names and shapes alone. But among its callers is the exporter, with the op's node and the
    program in hand. Where a version of it is not, no value is known, and a zero point is refused unless its dtype
    says enough.
    """
    from torch.export import ExportedProgram  # takes as long to import as all of ste
    from torch.fx import Node

    node: Any = None
    frame = inspect.currentframe()
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if node is None and isinstance(value, Node) and value.target is torch.ops.ste.fake_quantize.default:
                node = value
            if node is not None and isinstance(value, ExportedProgram) and value.graph is node.graph:
                argument = node.args[2] if len(node.args) > 2 else node.kwargs["zero_point"]
                try:
                    with torch.no_grad():
                        zero_point: Tensor = _value(argument, value, {})
                        return zero_point
                except LookupError:
                    return None
        frame = frame.f_back
    return None


def _value(node: Any, program: "ExportedProgram", values: "dict[Node, Any]") -> Any:
    """The value of a node. LookupError: it follows from an input, or from chance."""
    from torch._subclasses import FakeTensor
    from torch.fx.node import map_arg

    if node in values:
        return values[node]
    if node.op == "placeholder":
        (target,) = [spec.target for spec in program.graph_signature.input_specs if spec.arg.name == node.name]
        held = {**program.state_dict, **program.constants}
        value = held[target] if target is not None else None
    elif node.op == "call_function" and isinstance(node.target, OpOverload):
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise LookupError
        args, kwargs = (map_arg(a, lambda n: _value(n, program, values)) for a in (node.args, node.kwargs))
        value = node.target(*args, **kwargs)
    else:
        value = None
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
        raise LookupError
    values[node] = value
    return value
