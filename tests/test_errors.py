"""Errors have the same text on both backends, name the op and what it got, and never print the contents of a tensor."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from op_table import DISTINCT_OPS, OPS, Op
from packaging.version import Version
from plain import signature
from torch import Tensor

import ste

EVERY_OP = pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
SUPPORTED = "supported are float64, float32, float16, bfloat16, int64, int32, int16, int8 and uint8"
SECRET = 123456789.0
INT64_MAX = 2**63 - 1
X = torch.full((2, 3), SECRET)
ZERO, ONE = torch.tensor(0.0), torch.tensor(1.0)
UINT8, INT8 = torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([1, 2], dtype=torch.int8)


def for_each_channel(name: str) -> str:
    return f"for one {name} per index of dimension 0, give it shape [2, 1]"


def supported(op: Op) -> str:
    return "supported are float64, float32, float16 and bfloat16" if op.floating_only else SUPPORTED


def message_of(kind: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    assert str(int(SECRET)) not in str(error.value)
    return str(error.value)


@EVERY_OP
@pytest.mark.parametrize(
    "x", [[SECRET], None, "x", SECRET, np.array([SECRET]), X.numpy], ids=lambda x: type(x).__name__
)
def test_x_is_no_tensor(op: Op, x: Any) -> None:
    arguments = op.arguments_for(X)
    hint = "; torch.tensor makes one from a number" if isinstance(x, float) else ""
    expected = f"{op.name}: {op.x} must be a Tensor, got {type(x).__name__}{hint}"
    assert message_of(TypeError, lambda: op.function(x, *arguments)) == expected


@EVERY_OP
@pytest.mark.parametrize("name", ["complex64", "bool", "uint16", "uint64", "float8_e4m3fn"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_dtype_of_x(op: Op, name: str, requires_grad: bool) -> None:
    x = X.to(getattr(torch, name))
    if requires_grad and (x.is_complex() or name.startswith("float8")):
        x.requires_grad_()
    arguments = op.arguments_for(X)
    expected = f"{op.name}: {op.x} has dtype {name}; {supported(op)}"
    assert message_of(TypeError, lambda: op.function(x, *arguments)) == expected


CASES: dict[str, tuple[type[Exception], Callable[[], Any], str]] = {
    # binary_sign_ste's low
    "low is a str": (TypeError, lambda: ste.binary_sign_ste(X, "0"), "low must be a number, got str"),  # type: ignore[arg-type]
    "low is None": (TypeError, lambda: ste.binary_sign_ste(X, None), "low must be a number, got NoneType"),  # type: ignore[arg-type]
    "low is a Tensor": (TypeError, lambda: ste.binary_sign_ste(X, X[0, 0]), "low must be a number, got Tensor"),  # type: ignore[arg-type]
    "low is complex": (TypeError, lambda: ste.binary_sign_ste(X, 1j), "low must be a number, got complex"),  # type: ignore[arg-type]
    "low for uint8": (ValueError, lambda: ste.binary_sign_ste(UINT8, -1.0), "low=-1 cannot be represented in uint8"),
    "low for int8": (ValueError, lambda: ste.binary_sign_ste(INT8, 0.5), "low=0.5 cannot be represented in int8"),
    "low past int8": (ValueError, lambda: ste.binary_sign_ste(INT8, -129.0), "low=-129 cannot be represented in int8"),
    "low is NaN": (
        ValueError,
        lambda: ste.binary_sign_ste(INT8, float("nan")),
        "low=nan cannot be represented in int8",
    ),
    "low is infinite": (
        ValueError,
        lambda: ste.binary_sign_ste(INT8, -float("inf")),
        "low=-inf cannot be represented in int8",
    ),
    "low is infinite, int64": (
        ValueError,
        lambda: ste.binary_sign_ste(INT8.long(), float("inf")),
        "low=inf cannot be represented in int64",
    ),
    "low past int64": (
        ValueError,
        lambda: ste.binary_sign_ste(INT8.long(), 2**63),
        "low=9.22337e+18 cannot be represented in int64",
    ),
    "low of int past int8": (
        ValueError,
        lambda: ste.binary_sign_ste(INT8, 128),
        "low=128 cannot be represented in int8",
    ),
    # scalar_clamp_ste's bounds
    "bound is None": (TypeError, lambda: ste.scalar_clamp_ste(X, None, 1), "min_val must be a number, got NoneType"),  # type: ignore[arg-type]
    "bound is a Tensor": (
        TypeError,
        lambda: ste.scalar_clamp_ste(X, 0.0, ONE),  # type: ignore[arg-type]
        "max_val must be a number, got Tensor; ste.tensor_clamp_ste takes tensors",
    ),
    "bound is a list": (TypeError, lambda: ste.scalar_clamp_ste(X, [0], 1), "min_val must be a number, got list"),  # type: ignore[arg-type]
    "bound is fractional": (
        ValueError,
        lambda: ste.scalar_clamp_ste(INT8, 0.5, 1),
        "min_val=0.5 is not an integer, but x is int8",
    ),
    "bound is NaN": (
        ValueError,
        lambda: ste.scalar_clamp_ste(UINT8, 0, float("nan")),
        "max_val=nan is not an integer, but x is uint8",
    ),
}
for name, value, error, message in [
    ("x", X.to(torch.int32), TypeError, "x has dtype int32; supported are float64, float32, float16 and bfloat16"),
    ("scale", "0.5", TypeError, "scale must be a Tensor, got str"),
    ("scale", np.ones(3), TypeError, "scale must be a Tensor, got ndarray"),
    ("scale", None, TypeError, "scale must be a Tensor, got NoneType"),
    ("scale", ONE.double(), TypeError, "scale has dtype float64, but for x of float32 it must be float32"),
    ("scale", ONE.long(), TypeError, "scale has dtype int64, but for x of float32 it must be float32"),
    (
        "scale",
        torch.full((4, 2, 3), SECRET),
        RuntimeError,
        "scale of shape [4, 2, 3] does not broadcast to x's shape [2, 3]",
    ),
    ("scale", ONE.to("meta"), RuntimeError, "scale is on meta, but x is on cpu"),
    ("zero_point", 0, TypeError, "zero_point must be a Tensor, got int; torch.tensor makes one from a number"),
    (
        "zero_point",
        ONE.half(),
        TypeError,
        "zero_point has dtype float16, but for x of float32 it must be float32 or an integer dtype",
    ),
    (
        "zero_point",
        ONE.bool(),
        TypeError,
        "zero_point has dtype bool, but for x of float32 it must be float32 or an integer dtype",
    ),
    (
        "zero_point",
        torch.full((2,), SECRET),
        RuntimeError,
        f"zero_point of shape [2] does not broadcast to x's shape [2, 3]; {for_each_channel('zero_point')}",
    ),
    ("quant_min", 0.0, TypeError, "quant_min must be an integer of 64 bits, got float"),
    ("quant_min", ONE, TypeError, "quant_min must be an integer of 64 bits, got Tensor"),
    ("quant_min", INT8, TypeError, "quant_min must be an integer of 64 bits, got Tensor"),
    ("quant_min", ONE.long().to("meta"), TypeError, "quant_min must be an integer of 64 bits, got Tensor"),
    (
        "quant_max",
        INT64_MAX,
        ValueError,
        f"no float32 lies between quant_min={INT64_MAX - 1} and quant_max={INT64_MAX}",
    ),
    ("quant_max", None, TypeError, "quant_max must be an integer of 64 bits, got NoneType"),
    ("quant_max", 2**63, TypeError, "quant_max must be an integer of 64 bits, got int"),
    ("quant_max", -8, ValueError, "quant_min=-8 is not less than quant_max=-8"),
    ("grad_scale", "1", TypeError, "grad_scale must be a number, got str"),
    ("grad_scale", None, TypeError, "grad_scale must be a number, got NoneType"),
    ("inside", None, TypeError, "inside must be a string, got NoneType"),
    ("inside", "both", ValueError, "inside must be rounded or scaled, got both"),
    ("axis", 2, ValueError, "axis=2, but x has 2 dimension(s)"),
    ("axis", -3, ValueError, "axis=-3, but x has 2 dimension(s)"),
    ("axis", 0, ValueError, "scale of shape [3] does not lie along axis 0 of x's shape [2, 3]"),
]:
    arguments: dict[str, Any] = {"x": X, "scale": ONE, "zero_point": ZERO, "quant_min": -8, "quant_max": 7, name: value}
    if name == "axis":
        arguments["scale"] = torch.full((3,), SECRET)
    if value is INT64_MAX:
        arguments["quant_min"] = INT64_MAX - 1
    CASES[f"fake_quantize: {message}"] = (error, partial(ste.fake_quantize, **arguments), message)
    if name not in ("grad_scale", "inside"):
        CASES[f"quantize: {message}"] = (error, partial(ste.quantize, **arguments), message)
FORMATS = "e4m3fn, e5m2, e4m3fnuz, e5m2fnuz, e3m2fn, e2m3fn, e2m1fn, or a ste.FloatFormat"
for name, wrong, error, message in [
    ("x", X.long(), TypeError, "x has dtype int64; supported are float64, float32, float16 and bfloat16"),
    ("x", [SECRET], TypeError, "x must be a Tensor, got list"),
    ("scale", [SECRET], TypeError, "scale must be a Tensor, got list"),
    ("scale", ONE.double(), TypeError, "scale has dtype float64, but for x of float32 it must be float32"),
    ("scale", ONE.to("meta").expand(3), RuntimeError, "scale is on meta, but x is on cpu"),
    (
        "scale",
        torch.full((2,), SECRET),
        RuntimeError,
        f"scale of shape [2] does not broadcast to x's shape [2, 3]; {for_each_channel('scale')}",
    ),
    ("format", "e4m3", ValueError, f"format must be one of {FORMATS}, got e4m3"),
    ("format", "float4_e4m3fn", ValueError, f"format must be one of {FORMATS}, got float4_e4m3fn"),
    ("format", torch.float8_e4m3fn, TypeError, "format must be a string, got dtype"),
    ("format", None, TypeError, "format must be a string, got NoneType"),
    ("grad_scale", "1", TypeError, "grad_scale must be a number, got str"),
    ("saturate", 1, TypeError, "saturate must be a bool, got int"),
    ("saturate", None, TypeError, "saturate must be a bool, got NoneType"),
    ("axis", 2, ValueError, "axis=2, but x has 2 dimension(s)"),
    ("axis", 0, ValueError, "scale of shape [3] does not lie along axis 0 of x's shape [2, 3]"),
]:
    given: dict[str, Any] = {"x": X, "scale": ONE, "format": "e4m3fn", name: wrong}
    if name == "axis":
        given["scale"] = torch.full((3,), SECRET)
    CASES[f"fake_quantize_float: {message}"] = (error, partial(ste.fake_quantize_float, **given), message)
for clamp in (ste.tensor_clamp_ste, ste.tensor_clamp):
    name = clamp.__name__
    CASES |= {
        f"{name}'s bound is a float": (
            TypeError,
            partial(clamp, X, 0.0, ONE),  # type: ignore[arg-type]
            "min_val must be a Tensor, got float; ste.scalar_clamp_ste takes numbers",
        ),
        f"{name}'s bound is None": (
            TypeError,
            partial(clamp, X, ZERO, None),  # type: ignore[arg-type]
            "max_val must be a Tensor, got NoneType",
        ),
        f"{name}'s bound is complex": (
            TypeError,
            partial(clamp, X, ZERO, ONE.to(torch.complex64)),
            f"max_val has dtype complex64; {SUPPORTED}",
        ),
        f"{name}'s bound is boolean": (
            TypeError,
            partial(clamp, X, ZERO.bool(), ONE),
            f"min_val has dtype bool; {SUPPORTED}",
        ),
        f"{name}'s bound is larger": (
            RuntimeError,
            partial(clamp, X, ZERO, torch.full((4, 2, 3), SECRET)),
            "max_val of shape [4, 2, 3] does not broadcast to x's shape [2, 3]",
        ),
        f"{name}'s bound does not fit": (
            RuntimeError,
            partial(clamp, X, torch.full((2,), SECRET), ONE),
            f"min_val of shape [2] does not broadcast to x's shape [2, 3]; {for_each_channel('min_val')}",
        ),
        f"{name}'s bound is elsewhere": (
            RuntimeError,
            partial(clamp, X, ZERO.to("meta"), ONE),
            "min_val is on meta, but x is on cpu",
        ),
        f"{name}'s x is elsewhere": (
            RuntimeError,
            partial(clamp, X.to("meta"), ZERO.to("meta"), ONE.expand(3)),
            "max_val is on cpu, but x is on meta",
        ),
    }

SOFT = torch.full((2, 3), 0.5)
DTYPES_OF_HARD = "supported are float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8 and bool"
for hard, soft, error, message in [
    ([SECRET], SOFT, TypeError, "hard must be a Tensor, got list"),
    (SECRET, SOFT, TypeError, "hard must be a Tensor, got float; torch.tensor makes one from a number"),
    (X, None, TypeError, "soft must be a Tensor, got NoneType"),
    (X, SECRET, TypeError, "soft must be a Tensor, got float; torch.tensor makes one from a number"),
    (X.to(torch.complex64), SOFT, TypeError, f"hard has dtype complex64; {DTYPES_OF_HARD}"),
    (X.to(torch.float8_e4m3fn), SOFT, TypeError, f"hard has dtype float8_e4m3fn; {DTYPES_OF_HARD}"),
    (X.to(torch.uint16), SOFT, TypeError, f"hard has dtype uint16; {DTYPES_OF_HARD}"),
    (X, X.long(), TypeError, "soft has dtype int64; supported are float64, float32, float16 and bfloat16"),
    (X, X[0], RuntimeError, "hard has shape [2, 3], but soft has shape [3]"),
    (X[0], X, RuntimeError, "hard has shape [3], but soft has shape [2, 3]"),
    (X, X.T, RuntimeError, "hard has shape [2, 3], but soft has shape [3, 2]"),
    (X[:1], X, RuntimeError, "hard has shape [1, 3], but soft has shape [2, 3]"),
    (X[0, 0], X, RuntimeError, "hard has shape [], but soft has shape [2, 3]"),
    (X, X[0, 0], RuntimeError, "hard has shape [2, 3], but soft has shape []"),
    (X.to("meta"), SOFT, RuntimeError, "hard is on meta, but soft is on cpu"),
    (X, SOFT.to("meta"), RuntimeError, "hard is on cpu, but soft is on meta"),
    (X[0, 0], SOFT[0, 0].to("meta"), RuntimeError, "hard is on cpu, but soft is on meta"),
]:
    CASES[f"straight_through: {message}"] = (error, partial(ste.straight_through, hard, soft), message)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_arguments(case: str) -> None:
    kind, call, message = CASES[case]
    assert message_of(kind, call).split(": ", 1)[1] == message


@EVERY_OP
def test_by_way_of_the_dispatcher(op: Op) -> None:
    """The op itself checks its arguments, so calls from compilers, TorchScript and C++ are checked too."""
    with pytest.raises(TypeError, match=f"^{op.name}: {op.x} has dtype complex64; {supported(op)}"):
        op.overload(*op.in_order(X.to(torch.complex64), *op.arguments_for(X)))


@EVERY_OP
def test_under_transforms(op: Op) -> None:
    arguments = op.arguments_for(X)
    expected = f"^{op.name}: {op.x} has dtype complex64; {supported(op)}"
    x = torch.zeros(3, dtype=torch.complex64)
    with pytest.raises(TypeError, match=expected):
        torch.func.vmap(lambda t: op.function(t, *op.arguments_for(t.real)))(x)
    with pytest.raises(TypeError, match=expected):
        torch.func.grad(lambda t: op.function(t + 0j, *op.arguments_for(t)).real.sum())(x.real)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(TypeError, match=expected):
        op.function(torch.autograd.forward_ad.make_dual(x, x), *arguments[:0], *op.arguments_for(x.real))


@EVERY_OP
def test_missing_and_surplus_arguments(op: Op) -> None:
    with pytest.raises(TypeError, match=rf"{op.name}\(\) missing 1 required positional argument: '{op.x}'"):
        op.public(**dict(zip(list(signature(op).parameters)[1:], op.arguments_for(X))))
    with pytest.raises(TypeError, match=rf"{op.name}\(\) got an unexpected keyword argument 'inplace'"):
        op.public(*op.in_order(X, *op.arguments_for(X)), inplace=True)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_an_error_loses_nothing(op: Op) -> None:
    x = torch.tensor([-3.3, 0.4], requires_grad=True)
    before = x.detach().clone()
    for wrong in ([1.0], x.detach().to(torch.complex64)):
        with pytest.raises(TypeError):
            op.function(wrong, *op.arguments_for(before))
    assert torch.equal(x.detach(), before)
    y = op(x)
    assert torch.equal(y.detach(), op.expected(x))
    y.sum().backward()


@pytest.mark.skipif(ste.backend().name == "native", reason="the native backend has a kernel for every device")
def test_the_fallback_refuses_a_device_whose_gradient_it_cannot_give() -> None:
    """Python cannot name the autograd keys of a few devices; there the composite kernel would give zero gradients."""
    from ste._fallback import _refusing

    class OnMaia(Tensor):
        device = torch.device("maia")

    kernel = _refusing("round_ste", ste.autograd_ops.round_ste_fn.forward, {"maia"})
    x = torch.tensor([0.4, 1.6]).as_subclass(OnMaia)
    assert kernel(x).tolist() == [0, 2]
    with pytest.raises(
        NotImplementedError, match="round_ste: the Python backend has no gradient on maia; ste-core has"
    ):
        kernel(x.requires_grad_())


@pytest.mark.skipif(Version(torch.__version__).release >= (2, 8), reason="torch keeps the op whole")
def test_onnx_where_torch_takes_the_op_apart() -> None:
    with pytest.raises(RuntimeError, match=r"quantize_dequantize requires torch 2\.8 or later, but torch 2\."):
        ste.onnx.quantize_dequantize()
