"""What an op accepts: the rules of ``csrc/register/arguments.cpp`` and of the native call, in the same words."""

import ctypes
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    Parameter: TypeAlias = Tensor | float
else:  # TorchScript reads annotations when it compiles, and calls no op with a union.
    Parameter = Tensor

FLOATING = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
_INTEGER = frozenset((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8))
_SUPPORTED = FLOATING | _INTEGER
_INT64 = torch.iinfo(torch.int64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _instead(op: str, name: str, expected: str, value: object) -> str:
    """What to call instead, if a number was given for a tensor, or a tensor for a number."""
    if isinstance(value, Tensor):
        return "; ste.tensor_clamp_ste takes tensors" if op == "scalar_clamp_ste" else ""
    if expected != "a Tensor" or not isinstance(value, (int, float)):
        return ""
    is_bound = op.startswith("tensor_clamp") and name != "x"
    return "; ste.scalar_clamp_ste takes numbers" if is_bound else "; torch.tensor makes one from a number"


def _wrong_type(op: str, name: str, expected: str, value: object) -> TypeError:
    return TypeError(
        f"{op}: {name} must be {expected}, got {type(value).__name__}{_instead(op, name, expected, value)}"
    )


def check_is_tensor(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise _wrong_type(op, name, "a Tensor", value)


def check_is_string(op: str, name: str, value: object) -> None:
    if not isinstance(value, str):
        raise _wrong_type(op, name, "a string", value)


def check_is_bool(op: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _wrong_type(op, name, "a bool", value)


def check_tensor(op: str, name: str, value: Any) -> None:
    """A Tensor of one of the supported dtypes."""
    check_is_tensor(op, name, value)
    if value.dtype not in _SUPPORTED:
        raise TypeError(
            f"{op}: {name} has dtype {_name(value.dtype)}; supported are float64, float32, float16, bfloat16, int64, "
            "int32, int16, int8 and uint8"
        )


def checked(op: str, x: Tensor) -> Tensor:
    """x, if the op supports it."""
    check_tensor(op, "x", x)
    return x


def check_bounds(op: str, x: Tensor, min_val: Tensor, max_val: Tensor) -> None:
    """Bounds are on x's device (one without dimensions may be on the CPU) and broadcast to x's shape."""
    check_tensor(op, "x", x)
    for name, bound in (("min_val", min_val), ("max_val", max_val)):
        check_tensor(op, name, bound)
        _check_fits(op, name, bound, x)


def check_quantization(
    op: str,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: Any,
    quant_max: Any,
    grad_scale: Any = 1.0,
    inside: Any = "rounded",
) -> None:
    """X is floating-point; the parameters have its dtype or float32, and fit x as bounds do."""
    check_is_floating(op, "x", x)
    check_parameter(op, "scale", scale, x)
    if zero_point is not None:
        check_parameter(op, "zero_point", zero_point, x, may_be_integer=True)
    for name, end in (("quant_min", quant_min), ("quant_max", quant_max)):
        if not isinstance(end, torch.SymInt):
            integer(op, name, end)
    if not isinstance(grad_scale, (torch.SymInt, torch.SymFloat)):
        number(op, "grad_scale", grad_scale)
    if isinstance(quant_min, torch.SymInt) or isinstance(quant_max, torch.SymInt):
        # An end whose value is not known yet is checked when the graph runs.
        torch._check(
            quant_min < quant_max, lambda: f"{op}: quant_min={quant_min} is not less than quant_max={quant_max}"
        )
    elif quant_min >= quant_max:
        raise ValueError(f"{op}: quant_min={quant_min} is not less than quant_max={quant_max}")
    elif max(quant_max, -quant_min) > 1 << 24:
        dtype = torch.promote_types(x.dtype, torch.float32)
        if end_in_dtype(quant_min, dtype, True) > end_in_dtype(quant_max, dtype, False):
            raise ValueError(f"{op}: no {_name(dtype)} lies between quant_min={quant_min} and quant_max={quant_max}")
    check_is_string(op, "inside", inside)
    if inside not in ("rounded", "scaled"):
        raise ValueError(f"{op}: inside must be rounded or scaled, got {inside}")


def check_is_floating(op: str, name: str, tensor: Tensor) -> None:
    check_is_tensor(op, name, tensor)
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{op}: {name} has dtype {_name(tensor.dtype)}; supported are float64, float32, float16 and bfloat16"
        )


def check_hard_and_soft(op: str, hard: Tensor, soft: Tensor) -> None:
    """Hard is floating-point, integer or boolean; soft is floating-point, of hard's shape and on its device."""
    check_is_tensor(op, "hard", hard)
    check_is_tensor(op, "soft", soft)
    if hard.dtype not in _SUPPORTED and hard.dtype != torch.bool:
        raise TypeError(
            f"{op}: hard has dtype {_name(hard.dtype)}; supported are float64, float32, float16, bfloat16, int64, "
            "int32, int16, int8, uint8 and bool"
        )
    check_is_floating(op, "soft", soft)
    _check_lies_as(op, "hard", hard, "soft", soft)


def end_in_dtype(end: int, dtype: torch.dtype, is_min: bool) -> float:
    """The end of a grid in the dtype of the computation: rounded inwards, so that nothing lies beyond it.

    Written so that TorchScript can compile it.
    """
    surplus = 0
    while abs(end) >> surplus >= 1 << (53 if dtype == torch.float64 else 24):
        surplus += 1
    return float(-((-end >> surplus) << surplus) if is_min else (end >> surplus) << surplus)


def beside(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter that has been checked, on x's device, and with no more dimensions than x."""
    if parameter.dim() > x.dim():
        parameter = parameter.reshape([])
    return parameter if parameter.device == x.device else parameter.to(x.device)


def tensor_parameter(op: str, name: str, value: Any, x: Tensor) -> Any:
    """A parameter that may be given as a number, which gets no gradient."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (torch.SymInt, torch.SymFloat)):
        try:
            value = number(op, name, value)
        except TypeError:
            return value
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.scalar_tensor(value, dtype=dtype, device=x.device)


def check_parameter(op: str, name: str, parameter: Any, x: Tensor, *, may_be_integer: bool = False) -> None:
    """A parameter has x's dtype or float32, or an integer dtype if it may, and fits x as bounds do."""
    _check_parameter_dtype(op, name, parameter, x, may_be_integer=may_be_integer)
    _check_fits(op, name, parameter, x)


def check_beside(op: str, name: str, tensor: Any, x: Tensor) -> None:
    """A tensor of x's dtype or float32, and of x's shape."""
    _check_parameter_dtype(op, name, tensor, x, may_be_integer=False)
    _check_lies_as(op, name, tensor, "x", x)


def check_random(op: str, random: Any, x: Tensor) -> None:
    """The same for the numbers to round by, if there are any."""
    if random is not None:
        check_beside(op, "random", random, x)


def _check_lies_as(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """On the same device, and of the same shape."""
    if tensor.device != other.device:
        raise RuntimeError(f"{op}: {name} is on {tensor.device}, but {other_name} is on {other.device}")
    if tensor.shape != other.shape:
        raise RuntimeError(
            f"{op}: {name} has shape {list(tensor.shape)}, but {other_name} has shape {list(other.shape)}"
        )


def _check_parameter_dtype(op: str, name: str, parameter: Any, x: Tensor, *, may_be_integer: bool) -> None:
    check_is_tensor(op, name, parameter)
    dtype = parameter.dtype
    if dtype not in (x.dtype, torch.float32) and not (may_be_integer and dtype in _INTEGER):
        others = ["an integer dtype"] if may_be_integer else []
        allowed = " or ".join(dict.fromkeys((_name(x.dtype), "float32", *others)))
        raise TypeError(f"{op}: {name} has dtype {_name(dtype)}, but for x of {_name(x.dtype)} it must be {allowed}")


def _check_fits(op: str, name: str, parameter: Tensor, x: Tensor) -> None:
    if parameter.device != x.device and not (parameter.dim() == 0 and parameter.is_cpu):
        raise RuntimeError(f"{op}: {name} is on {parameter.device}, but x is on {x.device}")
    check_broadcast(op, name, parameter.shape, x.shape)


def check_broadcast(op: str, name: str, bound: Sequence[int], x: Sequence[int]) -> None:
    """The bound's shape broadcasts to x's; that of one element does to any."""
    trailing = x[len(x) - len(bound) :] if len(bound) <= len(x) else [1] * len(bound)
    if any(b != s and b != 1 for b, s in zip(bound, trailing)):
        hint = _hint(name, bound, x)
        raise RuntimeError(f"{op}: {name} of shape {list(bound)} does not broadcast to x's shape {list(x)}{hint}")


def _hint(name: str, parameter: Sequence[int], x: Sequence[int]) -> str:
    """The shape that a one-dimensional parameter needs, if it was meant for another dimension of x than the last."""
    if len(parameter) != 1 or not all(type(size) is int for size in (*parameter, *x)) or parameter[0] not in x:
        return ""
    dim = list(x).index(parameter[0])
    shape = [parameter[0], *[1] * (len(x) - dim - 1)]
    return f"; for one {name} per index of dimension {dim}, give it shape {shape}"


def _index(value: Any) -> int | None:
    """A Python or NumPy integer, as an int; None for anything else, a Tensor included."""
    if isinstance(value, Tensor):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def number(op: str, name: str, value: Any) -> int | float:
    """A Python or NumPy number. A Tensor does not count, although it converts to one.

    An integer that int64 does not hold becomes a float, which is infinite if a float does not hold it either.
    """
    if type(value) is float:
        return value
    whole = _index(value)
    if whole is not None:
        if _INT64.min <= whole <= _INT64.max:
            return whole
        try:
            return float(whole)
        except OverflowError:
            return math.inf if whole > 0 else -math.inf
    if not isinstance(value, Tensor) and hasattr(type(value), "__float__"):
        try:
            return float(value)
        except TypeError:
            pass
    raise _wrong_type(op, name, "a number", value)


def integer(op: str, name: str, value: Any) -> int:
    """A Python or NumPy integer that int64 holds, or what :func:`ste.max_int` returns: one, in a tensor on the CPU."""
    if isinstance(value, Tensor) and value.is_cpu and value.numel() == 1 and value.dtype in _INTEGER:
        return int(value)
    whole = _index(value)
    if whole is not None and _INT64.min <= whole <= _INT64.max:
        return whole
    raise _wrong_type(op, name, "an integer of 64 bits", value)


def scalar_bound(op: str, name: str, value: Any, x: Tensor) -> int | float | torch.SymInt | torch.SymFloat:
    """The value that a bound stands for in x's dtype.

    For a floating-point x, a value that the dtype cannot hold is rounded as a cast rounds it (torch.clamp refuses it:
    "value cannot be converted to type at::Half without overflow"). An integer x requires a whole number; one beyond the
    dtype's range becomes the end of that range.
    """
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value  # a compiler's symbol: looking at its value would specialize the graph to it
    value = number(op, name, value)
    if x.is_floating_point():
        return _rounded(float(value), torch.finfo(x.dtype))
    info = torch.iinfo(x.dtype)
    if isinstance(value, float) and not math.isinf(value) and not value.is_integer():
        raise ValueError(f"{op}: {name}={value:g} is not an integer, but x is {_name(x.dtype)}")
    return int(min(max(value, info.min), info.max))


def _rounded(value: float, info: torch.finfo) -> float:
    if abs(value) <= info.max or not math.isfinite(value):
        return value
    if info.bits < 64:
        value = ctypes.c_float(value).value
    half_ulp = info.max * info.eps / (2 - info.eps) / 2
    return math.copysign(info.max if abs(value) < info.max + half_ulp else math.inf, value)


def tensor_bound(bound: Tensor, dtype: torch.dtype, *, is_min: bool) -> Tensor:
    """The bound in x's dtype; for an integer x, rounded inwards and clamped to the dtype's range."""
    if bound.dtype == dtype:
        return bound
    if dtype.is_floating_point:
        return bound.to(dtype)
    if bound.is_floating_point():
        wide = bound.to(torch.float64)
        whole = wide.ceil() if is_min else wide.floor()
        # The largest double below 2^63, then the end itself: a cast from 2^63 would be undefined.
        cast = whole.clamp(-(2.0**63), math.nextafter(2.0**63, 0.0)).to(torch.int64)
        bound = torch.where(whole >= 2.0**63, _INT64.max, cast)
    info = torch.iinfo(dtype)
    return bound.to(torch.int64).clamp(info.min, info.max).to(dtype)


def exact_value(op: str, name: str, value: Any, x: Tensor) -> int | float | torch.SymInt | torch.SymFloat:
    """A value that an integer x's dtype must represent exactly; for a floating-point x, the same as `scalar_bound`."""
    if type(value) is float and x.is_floating_point():
        return _rounded(value, torch.finfo(x.dtype))
    if isinstance(value, (torch.SymInt, torch.SymFloat)) or x.is_floating_point():
        return scalar_bound(op, name, value, x)
    exact = number(op, name, value)
    info = torch.iinfo(x.dtype)
    if (isinstance(exact, float) and not exact.is_integer()) or not info.min <= exact <= info.max:
        shown = f"{exact:g}" if isinstance(exact, float) else exact
        raise ValueError(f"{op}: {name}={shown} cannot be represented in {_name(x.dtype)}")
    return int(exact)
