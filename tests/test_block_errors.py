"""The errors of fake_quantize_blocks, block_scale and block_zero_point."""

import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from block_samples import (
    block_scale,
    block_zero_point,
    fake_quantize_blocks,
    of_class,
)
from torch.func import grad, vmap

X = torch.zeros(2, 3)
ONE = torch.tensor(1.0)
Error = tuple[type[Exception], str, dict[str, Any]]
OF_GRID = (
    "grid must be one of e4m3fn, e5m2, e4m3fnuz, e5m2fnuz, e3m2fn, e2m3fn, e2m1fn, int2 to int8, or a ste.FloatFormat"
)
OF_RULE = "rule must be one of absmax, minmax, floor, ceil, even, rceil, e4m3fn"
DTYPES = "supported are float64, float32, float16 and bfloat16"

# Errors of the op as well, except for argument types, which the dispatcher checks.
ERRORS: list[Error] = [
    *(
        (TypeError, f"x has dtype {name}; {DTYPES}", {"x": X.to(getattr(torch, name))})
        for name in ("int64", "uint8", "bool", "complex64")
    ),
    *(
        (ValueError, f"{OF_GRID}, got {grid}", {"grid": grid})
        for grid in ("e4m3", "int1", "int9", "int16", "int", "uint4", "float4_e4m3fn", "", "e2m1:bias=99:max=6.0")
    ),
    *((ValueError, f"{OF_RULE}, got {rule}", {"rule": rule}) for rule in ("max", "", "Floor", "e5m2")),
    *(
        (ValueError, f"block must be at least 1, or None for the whole of dim, got {block}", {"block": block})
        for block in (0, -2, -32)
    ),
    *(
        (ValueError, f"rule minmax is for integers, but grid is {grid}", {"rule": "minmax", "grid": grid})
        for grid in ("e4m3fn", "e2m1fn")
    ),
    *((ValueError, f"dim={dim}, but x has 2 dimension(s)", {"dim": dim}) for dim in (2, -3)),
    *((ValueError, f"dim={dim}, but x has 0 dimension(s)", {"x": ONE, "dim": dim}) for dim in (1, -2)),
]
OF_TENSOR_SCALE: list[Error] = [
    *(
        (ValueError, f"tensor_scale is for rule e4m3fn, but rule is {rule}", {"rule": rule, "tensor_scale": ONE})
        for rule in ("absmax", "floor", "ceil", "even", "rceil")
    ),
    (
        ValueError,
        "tensor_scale is for rule e4m3fn, but rule is minmax",
        {"grid": "int4", "rule": "minmax", "tensor_scale": ONE},
    ),
    *(
        (error, f"tensor_scale {message}", {"rule": "e4m3fn", "tensor_scale": tensor_scale, "dim": dim})
        for error, message, tensor_scale, dim in (
            (TypeError, "has dtype float64, but for x of float32 it must be float32", ONE.double(), -1),
            (TypeError, "has dtype int64, but for x of float32 it must be float32", ONE.long(), -1),
            (
                RuntimeError,
                "of shape [4, 2, 3] does not broadcast to x's shape [2, 3]",
                torch.ones(4, 2, 3),
                -1,
            ),
            (RuntimeError, "of shape [5, 1] does not broadcast to x's shape [2, 3]", torch.ones(5, 1), -1),
            (RuntimeError, "varies along dim 1, in which the blocks lie", torch.ones(2, 3), 1),
            (RuntimeError, "varies along dim 1, in which the blocks lie", torch.ones(3), 1),
            (RuntimeError, "varies along dim 0, in which the blocks lie", torch.ones(2, 1), 0),
            (RuntimeError, "is on meta, but x is on cpu", torch.ones(2, 1, device="meta"), -1),
        )
    ),
]
OF_TYPES: list[Error] = [
    (TypeError, "grid must be a string, got int", {"grid": 4}),
    (TypeError, "grid must be a string, got NoneType", {"grid": None}),
    (TypeError, "grid must be a string, got dtype", {"grid": torch.float8_e4m3fn}),
    (TypeError, "block must be an integer of 64 bits, got float", {"block": 32.0}),
    (TypeError, "block must be an integer of 64 bits, got str", {"block": "32"}),
    (TypeError, "rule must be a string, got NoneType", {"rule": None}),
    (TypeError, "rule must be a string, got int", {"rule": 3}),
    (TypeError, "dim must be an integer of 64 bits, got str", {"dim": "0"}),
    (TypeError, "dim must be an integer of 64 bits, got float", {"dim": 1.0}),
    (TypeError, "dim must be an integer of 64 bits, got NoneType", {"dim": None}),
]
OF_FORMAT = "rule minmax is for integers, but grid is e4m3fn"
NEEDED: Error = (ValueError, "rule e4m3fn needs tensor_scale", {"rule": "e4m3fn"})


def in_order(function: Any, **given: Any) -> Any:
    arguments = {"x": X, "grid": "e4m3fn", "block": 32, "rule": "floor", "dim": -1, "tensor_scale": None, **given}
    return function(*arguments.values())


def assert_raises(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$") as raised:
        call()
    assert type(raised.value) is error


def test_errors() -> None:
    for error, message, given in (*ERRORS, *OF_TENSOR_SCALE, *OF_TYPES):
        assert_raises(error, f"block_scale: {message}", partial(in_order, block_scale, **given))
        for function, x in itertools.product((fake_quantize_blocks, of_class), (X, X.clone().requires_grad_())):
            call = partial(in_order, function, **{"x": x, **given})
            assert_raises(error, f"fake_quantize_blocks: {message}", call)


def test_errors_of_the_op() -> None:
    for error, message, given in (*ERRORS, *OF_TENSOR_SCALE, NEEDED):
        call = partial(in_order, torch.ops.ste.fake_quantize_blocks, **given)
        assert_raises(error, f"fake_quantize_blocks: {message}", call)


def test_errors_of_zero_points() -> None:
    errors: list[Error] = [*ERRORS, *OF_TYPES, (ValueError, OF_FORMAT, {"grid": "e4m3fn"})]
    for error, message, given in errors:
        if "rule" not in given:  # it has one
            arguments: dict[str, Any] = {"x": X, "grid": "int4", "block": 32, "rule": "minmax", "dim": -1, **given}
            assert_raises(error, f"block_zero_point: {message}", partial(block_zero_point, *arguments.values()))


def test_more_errors() -> None:
    assert_raises(NEEDED[0], f"fake_quantize_blocks: {NEEDED[1]}", partial(in_order, of_class, **NEEDED[2]))
    for function, name in ((fake_quantize_blocks, "fake_quantize_blocks"), (block_scale, "block_scale")):
        for x in (X.half(), X.bfloat16()):
            dtype = str(x.dtype).removeprefix("torch.")
            message = f"{name}: tensor_scale has dtype float64, but for x of {dtype} it must be {dtype} or float32"
            given = {"x": x, "rule": "e4m3fn", "tensor_scale": ONE.double()}
            assert_raises(TypeError, message, partial(in_order, function, **given))
    # Under transforms, errors are about the shapes that the caller sees.
    for call in (fake_quantize_blocks, of_class):
        message = "fake_quantize_blocks: dim=1, but x has 1 dimension(s)"
        assert_raises(ValueError, message, lambda: vmap(lambda t: call(t, "int4", 2, "floor", 1, None))(X))  # noqa: B023
        message = "fake_quantize_blocks: grid must be a string, got int"
        assert_raises(TypeError, message, lambda: grad(lambda t: call(t, 3, 2, "floor", -1, None).sum())(X))  # noqa: B023
