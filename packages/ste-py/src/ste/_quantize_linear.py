"""QuantizeLinear and DequantizeLinear: the functions that the ONNX exporter calls for the ops that quantize.

:mod:`ste.onnx` imports this when a model is exported, and not before: ste does not require onnxscript.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from onnxscript import evaluator, ir
from torch import Tensor
from torch._ops import OpOverload

from ste._blocks import Settings, settings_of
from ste._float_format import format_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

__all__ = ["translations"]


def translations() -> dict[Any, Any]:
    """For each op, a function that gets the op's arguments from the exporter and adds nodes to the graph."""
    return {
        torch.ops.ste.fake_quantize.default: _fake_quantize,
        torch.ops.ste.fake_quantize_float.default: _fake_quantize_float,
        torch.ops.ste.fake_quantize_blocks.default: _fake_quantize_blocks,
    }


def _fake_quantize(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    quant_min: Any = -128,
    quant_max: Any = 127,
    grad_scale: Any = 1.0,
    inside: Any = "rounded",
    random: Any = None,
) -> Any:
    _check("fake_quantize", x, random)
    op = _opset()
    if not isinstance(quant_min, int) or not isinstance(quant_max, int):
        raise ValueError("fake_quantize: QuantizeLinear's range is fixed, but quant_min or quant_max is computed")
    known = torch.tensor(0) if zero_point is None else _known_zero_point()
    z_shape = list(zero_point.shape if known is None else known.shape)
    layout = _layout("fake_quantize", x, list(scale.shape), z_shape)
    scales = layout.of(_wide(scale), list(scale.shape))
    if known is None:
        kind = _kind_of_computed(zero_point.dtype.name, quant_min, quant_max)
        zeros = layout.of(zero_point, z_shape)
    else:
        # ONNX's Expand does not support 4-bit integers.
        kind = _kind(known, quant_min, quant_max, has_4_bits=op.version >= 21 and layout.is_static)
        zeros = layout.of_known(known.detach().cpu().to(torch.int64), kind)
    ends = None if (quant_min, quant_max) == _KINDS[kind] else (quant_min, quant_max)
    return op.CastLike(layout.quantized(_wide(x), scales, zeros, kind, ends), x)


def _fake_quantize_float(
    x: Any, scale: Any, format: Any, grad_scale: Any = 1.0, saturate: Any = True, random: Any = None
) -> Any:
    _check("fake_quantize_float", x, random)
    op = _opset()
    name = str(format_of("fake_quantize_float", format))
    if name not in _FLOAT_KINDS:
        raise ValueError(f"fake_quantize_float: the table has {', '.join(_FLOAT_KINDS)}, got {name}")
    if op.version < 19:
        raise ValueError(f"fake_quantize_float: QuantizeLinear has {name} from opset 19 on, got opset {op.version}")
    if not saturate and not name.endswith("fnuz"):
        # ONNX Runtime 1.32 turns values between 480 and 496 into 448 in e4m3fn, and values from 61440 to 65536 into NaN
        # in e5m2. ONNX's reference gives NaN and infinity, as PyTorch does.
        raise ValueError(
            "fake_quantize_float: with saturate=False, ONNX Runtime computes other numbers beyond the largest of "
            f"{name}"
        )
    layout = _layout("fake_quantize_float", x, list(scale.shape))
    scales = layout.of(_wide(scale), list(scale.shape))
    kind = _FLOAT_KINDS[name]
    y = layout.quantized(_wide(x), scales, layout.zeros(kind), kind, saturate=int(saturate))
    return op.CastLike(y, x)


def _fake_quantize_blocks(
    x: Any, grid: Any, block: Any, rule: Any, dim: Any = -1, tensor_scale: Any = None, random: Any = None
) -> Any:
    _check("fake_quantize_blocks", x, random)
    op = _opset()
    if not isinstance(block, int) or not isinstance(dim, int):
        raise ValueError("fake_quantize_blocks: QuantizeLinear's blocks are fixed, but block or dim is computed")
    settings = settings_of("fake_quantize_blocks", grid, block, rule, dim)
    name = grid if settings.format is None else str(settings.format)
    kinds = {"int4": "INT4", "int8": "INT8", **_FLOAT_KINDS}
    if name not in kinds:
        raise ValueError(f"fake_quantize_blocks: the table has {', '.join(kinds)}, got {name}")
    if rule not in ("absmax", "minmax"):
        raise ValueError(f"fake_quantize_blocks: the table has the rules absmax and minmax, got {rule}")
    if op.version < 21:
        raise ValueError(f"fake_quantize_blocks: QuantizeLinear has blocks from opset 21 on, got opset {op.version}")
    shape = list(x.shape) or [1]
    axis = dim % len(shape)
    if not isinstance(shape[axis], int):
        raise ValueError(
            f"fake_quantize_blocks: QuantizeLinear's blocks are fixed, but the length of dim {dim} is dynamic"
        )
    if shape[axis] == 0:
        return op.Identity(x)
    size = shape[axis] if block < 0 else min(block, shape[axis])
    has_none = len(x.shape) == 0
    wide = op.Reshape(_wide(x), _ints([1])) if has_none else _wide(x)
    y = _by_blocks(wide, shape, axis, size, settings, kinds[name])
    return op.CastLike(op.Reshape(y, _ints([])) if has_none else y, x)


def _by_blocks(x: Any, shape: list[Any], axis: int, size: int, settings: Settings, kind: str) -> Any:
    """Computes step by step what ``_blocks.Blocks`` computes, for x in float32."""
    op = _opset()
    before, length, after = shape[:axis], shape[axis], shape[axis + 1 :]
    count = -(-length // size)
    is_padded = count * size > length
    # Give the blocks a dimension of their own. The zeros that pad the last one change no scale.
    padded = op.Pad(x, _ints([0, count * size - length]), None, _ints([axis])) if is_padded else x
    dims = [*range(axis + 1), *range(axis, len(shape))]
    blocks = op.Reshape(padded, _lengths(x, dims, [*before, count, size, *after]))
    along = _ints([axis + 1])
    zero = _number(0.0)
    if settings.rule == "minmax":
        low = op.Min(op.ReduceMin(blocks, along), zero)
        high = op.Max(op.ReduceMax(blocks, along), zero)
        scale = op.Div(op.Sub(high, low), _number(2 * settings.limit - 1))
    else:
        scale = op.Div(op.ReduceMax(op.Abs(blocks), along), _number(settings.max))
    # Where the scale is 0, 0 / 0 would be NaN, and x is so small that a scale of 1 gives 0 too.
    scale = op.Where(op.Equal(scale, zero), _number(1.0), scale)

    sizes = [*before, count, *after]
    if all(n == 1 for n in sizes):
        # With a block_size, ONNX Runtime 1.32 refuses a single block: at once if x has one dimension, and otherwise
        # after its optimizer drops the zero point's dimensions.
        layout = _Layout(x, [], [], {})
    else:
        layout = _Layout(x, list(range(len(shape))), sizes, {"axis": axis, "block_size": size})
    scales = layout.of(op.Squeeze(scale, along), sizes)
    if settings.rule == "minmax":
        zero_point = op.Sub(op.Round(op.Div(op.Neg(low), scale)), _number(settings.limit))
        zero_point = op.Clip(zero_point, _number(-settings.limit), _number(settings.limit - 1))
        zeros = op.Cast(layout.of(op.Squeeze(zero_point, along), sizes), to=ir.DataType[kind])
        return layout.quantized(x, scales, zeros, kind)
    if settings.format is None:
        # The grid starts at -max, QuantizeLinear's range one below it. A subnormal scale has lost so many bits that x
        # may be -10 scales where max is 7. Not a Clip after QuantizeLinear: Clip does not support 4-bit integers.
        x = op.Reshape(op.Max(blocks, op.Mul(scale, _number(-settings.max))), op.Shape(padded))
        if is_padded:
            x = op.Slice(x, _ints([0]), _ints([length]), _ints([axis]))
    return layout.quantized(x, scales, layout.zeros(kind), kind)


def _check(name: str, x: Any, random: Any) -> None:
    if x.dtype == ir.DataType.DOUBLE:
        raise ValueError(f"{name}: QuantizeLinear computes in float32, but x is float64")
    if random is not None:
        raise ValueError(f"{name}: QuantizeLinear rounds to the nearest, but random was given")


def _opset() -> Any:
    """The operators of the target opset."""
    return evaluator.default().opset  # type: ignore[attr-defined]  # its types do not name it


def _ints(values: int | list[int]) -> Any:
    return _opset().Constant(value=ir.tensor(values, dtype=ir.DataType.INT64))


def _number(value: float) -> Any:
    return _opset().Constant(value=ir.tensor(value, dtype=ir.DataType.FLOAT))


def _wide(value: Any) -> Any:
    return _opset().Cast(value, to=ir.DataType.FLOAT)


def _lengths(x: Any, dims: list[int], sizes: list[Any]) -> Any:
    """Sizes as a tensor; unknown ones are those of x along dims."""
    if all(isinstance(n, int) for n in sizes):
        return _ints(sizes)
    op = _opset()
    parts = (_ints([n]) if isinstance(n, int) else op.Shape(x, start=i, end=i + 1) for i, n in zip(dims, sizes))
    return op.Concat(*parts, axis=0)


class _Layout:
    """The layout of QuantizeLinear's scales and zero points: no dimension, one, or, in blocks, all of x's.

    Attributes:
        is_static: Whether all sizes are known.
    """

    def __init__(self, x: Any, dims: list[int], sizes: list[Any], attributes: dict[str, int]) -> None:
        self._x = x
        self._dims = dims
        self._sizes = sizes
        self._attributes = attributes
        self.is_static = all(isinstance(n, int) for n in sizes)

    def of(self, parameter: Any, shape: list[Any]) -> Any:
        """A parameter of this shape, in the layout."""
        if len(self._dims) < 2 and len(shape) != len(self._dims):
            parameter = _opset().Reshape(parameter, _ints([-1] * len(self._dims)))
        if [n for n in shape if n != 1] == self._sizes or shape == self._sizes:
            return parameter
        return _opset().Expand(parameter, _lengths(self._x, self._dims, self._sizes))

    def of_known(self, values: Tensor, kind: str) -> Any:
        if len(self._dims) < 2:
            values = values.reshape([-1] * len(self._dims))
        if self.is_static:
            values = values.expand(self._sizes)
        constant = _opset().Constant(value=ir.tensor(values.tolist(), dtype=ir.DataType[kind]))
        return constant if self.is_static else self.of(constant, list(values.shape))

    def zeros(self, kind: str) -> Any:
        if self.is_static:
            return self.of_known(torch.tensor(0), kind)
        # ONNX's Expand supports neither 4-bit integers nor 8-bit floats.
        return _opset().Cast(self.of(_number(0.0), []), to=ir.DataType[kind])

    def quantized(
        self, x: Any, scales: Any, zeros: Any, kind: str, ends: tuple[int, int] | None = None, **attributes: int
    ) -> Any:
        """Quantizes, clamps to the ends, and dequantizes."""
        op = _opset()
        q = op.QuantizeLinear(x, scales, zeros, **self._attributes, **attributes)
        if ends is not None:
            q = op.Clip(q, *(op.Cast(_ints(end), to=ir.DataType[kind]) for end in ends))
        return op.DequantizeLinear(q, scales, zeros, **self._attributes)


def _layout(name: str, x: Any, scale: list[Any], zero_point: list[Any] | None = None) -> _Layout:
    """The layout for parameters of these shapes, which broadcast to x's."""
    rank = len(x.shape)
    dims = sorted({rank + i - len(shape) for shape in (scale, zero_point or []) for i, n in enumerate(shape) if n != 1})
    if len(dims) < 2:
        return _Layout(x, dims, [x.shape[i] for i in dims], {"axis": dims[0]} if dims else {})
    if _opset().version < 21:
        zeros = "" if zero_point is None else f", zero_point [{', '.join(map(str, zero_point))}]"
        raise ValueError(
            f"{name}: before opset 21, QuantizeLinear has one scale for each index of at most one dimension; "
            f"scale has shape [{', '.join(map(str, scale))}]{zeros}"
        )
    # A block is as long as x along one of the dimensions on which nothing depends, or has one element if there is none.
    long = [i for i in range(rank) if i not in dims and isinstance(x.shape[i], int)]
    axis = max(long, key=lambda i: int(x.shape[i]), default=rank - 1)
    sizes = [1 if long and i == axis else n for i, n in enumerate(x.shape)]
    return _Layout(x, list(range(rank)), sizes, {"axis": axis, "block_size": int(x.shape[axis]) if long else 1})


_KINDS = {"INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127), "UINT8": (0, 255)}
_FLOAT_KINDS = {
    "e4m3fn": "FLOAT8E4M3FN",
    "e5m2": "FLOAT8E5M2",
    "e4m3fnuz": "FLOAT8E4M3FNUZ",
    "e5m2fnuz": "FLOAT8E5M2FNUZ",
}


def _holding(quant_min: int, quant_max: int) -> list[str]:
    """The kinds of byte that hold a grid, the one with its signedness first."""
    kinds = ["INT8", "UINT8"] if quant_min < 0 else ["UINT8", "INT8"]
    holding = [kind for kind in kinds if _KINDS[kind][0] <= quant_min and quant_max <= _KINDS[kind][1]]
    if not holding:
        raise ValueError(f"fake_quantize: the grid from {quant_min} to {quant_max} is not within the range of a byte")
    return holding


def _kind(zero_point: Tensor, quant_min: int, quant_max: int, *, has_4_bits: bool) -> str:
    """The kind of integer that holds the grid and the zero point."""
    kinds = _holding(quant_min, quant_max)
    if has_4_bits:
        # A narrower range would need a Clip, which does not support 4-bit integers.
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
    """The kind of integer for a zero point whose values are not known."""
    kinds = _holding(quant_min, quant_max)
    if dtype in kinds:
        return dtype
    names = " or ".join(kind.lower() for kind in kinds)
    raise ValueError(
        f"fake_quantize: zero_point is computed from the model's inputs, in {dtype.lower()}; "
        f"for the grid from {quant_min} to {quant_max}, QuantizeLinear needs it in {names}"
    )


def _known_zero_point() -> Tensor | None:
    """The zero point's value for the op that is being exported, if it can be computed from what the program holds.

    A translation only gets names and shapes. But one of its callers is the exporter, which has the op's node and the
    program. In a version of the exporter where that is not so, no value is known, and a zero point is refused unless
    its dtype says enough.
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
    """The value of a node. LookupError: it depends on an input, or on random numbers."""
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
