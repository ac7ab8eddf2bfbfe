"""Problems that users ran into: parameters that are not finite, and NumPy numbers under a compiler."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from torch import Tensor

import ste

NUMBERS = [0.0, -0.0, 0.5, -0.5, 1.75, 3e38, -1e-40, math.inf, -math.inf, math.nan]
LOW, HIGH = -8, 7


def combinations(dtype: torch.dtype, *numbers: list[float]) -> list[Tensor]:
    return [t.flatten() for t in torch.meshgrid(*(torch.tensor(n).to(dtype) for n in numbers), indexing="ij")]


@pytest.mark.parametrize("inside", ["rounded", "scaled"])
@pytest.mark.parametrize("with_zero_point", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_one_rule_for_what_is_not_finite(dtype: torch.dtype, with_zero_point: bool, inside: str, device: str) -> None:
    """Eager mode, the Python backend and torch.func give the same bits, except for the sign of a gradient of 0."""
    shifts = [0.0, -100.0, math.inf, -math.inf, math.nan] if with_zero_point else [0.0]
    arguments = [t.to(device) for t in combinations(dtype, NUMBERS, NUMBERS, shifts)][: 3 if with_zero_point else 2]
    rest = (*([] if with_zero_point else [None]), LOW, HIGH, 0.5, inside)
    g = torch.full_like(arguments[0], 3)

    def by_autograd(function: Callable[..., Any], *tensors: Tensor) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in tensors]
        y = function(*leaves, *rest)
        return [y.detach(), *torch.autograd.grad(y, leaves, g.expand(y.shape))]

    def by_func(function: Callable[..., Any], *tensors: Tensor) -> list[Tensor]:
        derived: Any = torch.func.vjp(lambda *t: function(*t, *rest), *tensors)
        y, vjp = derived
        return [y, *vjp(g.expand(y.shape))]

    op, of_class = ste.fake_quantize, ste.autograd_ops.fake_quantize_fn.apply
    expected = by_autograd(of_class, *arguments)
    for found in (by_autograd(op, *arguments), by_func(op, *arguments), by_func(of_class, *arguments)):
        assert_same_bits(found[0], expected[0], arguments[0])
        for actual, wanted in zip(found[1:], expected[1:]):
            assert_same_bits(actual + 0.0, wanted + 0.0, arguments[0])

    # Parameters with one element use another loop: two of each x, whose sum is exact.
    for i in range(0, len(g), 7):
        x, *parameters = (t[i] for t in arguments)
        pair = x.expand(2)
        g = torch.full_like(pair, 3)
        expected = by_autograd(of_class, pair, *parameters)
        for found in (by_autograd(op, pair, *parameters), by_func(op, pair, *parameters)):
            for actual, wanted in zip(found, expected):
                assert_same_bits(actual + 0.0, wanted + 0.0)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, np.int8])
@pytest.mark.parametrize("dynamic", [None, True])
def test_numpy_numbers_compile(kind: Any, dynamic: bool | None, device: str) -> None:
    """Numbers that eager mode accepts; Dynamo treats a NumPy number as an array."""
    x = torch.linspace(-4, 4, 33, device=device)
    scale = torch.tensor(0.5, device=device, requires_grad=True)
    calls: dict[str, Callable[[Tensor, Any], Tensor]] = {
        "bounds": lambda x, n: ste.scalar_clamp_ste(x, -n, n),
        "low": lambda x, n: ste.binary_sign_ste(x, -n),
        "grad_scale": lambda x, n: ste.fake_quantize(x, scale, None, -8, 7, n),
        "scale": lambda x, n: ste.fake_quantize(x, n, None, -8, 7),
        "scale of quantize": lambda x, n: ste.quantize(x, n, None, -8, 7),
    }
    for call in calls.values():
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        for number in (2, 3):
            found: list[Any] = []
            for function in (call, compiled):
                y = function(x.clone().requires_grad_(), kind(number))
                scale.grad = None
                y.sum().backward()
                found.append((y, scale.grad))
            assert_same_bits(found[1][0], found[0][0], x)
            assert_same_bits(found[0][0], call(x, number), x)
            if found[0][1] is not None:
                torch.testing.assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("kind", [np.int64, np.int8])
def test_numpy_integers_are_ends_of_a_grid(kind: Any, device: str) -> None:
    x = torch.linspace(-4, 4, 33, device=device)
    call: Callable[..., Tensor]
    for call in (ste.fake_quantize, ste.quantize):
        assert_same_bits(call(x, 0.25, None, kind(-3), kind(5)), call(x, 0.25, None, -3, 5), x)


@pytest.mark.parametrize(
    ("function", "kind"), [(ste.fake_quantize, np.int64), (ste.fake_quantize, np.int8), (ste.quantize, np.int64)]
)
def test_numpy_integers_are_ends_of_a_compiled_grid(function: Callable[..., Tensor], kind: Any) -> None:
    x = torch.linspace(-4, 4, 33)
    low, high = kind(-3), kind(5)
    compiled = torch.compile(lambda x: function(x, 0.25, None, low, high), backend="aot_eager", fullgraph=True)
    assert_same_bits(compiled(x), function(x, 0.25, None, -3, 5), x)
