"""The surrogate gradients of the signs: values, special values, higher derivatives, and alpha."""

import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits, values
from op_table import FLOATING
from surrogate_slopes import SLOPES
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import ste
from ste.surrogates import TABLE, Definition

Array = np.ndarray[Any, Any]

binary_sign: Callable[..., Any] = ste.binary_sign_ste
ternary_sign: Callable[..., Any] = ste.ternary_sign_ste

EVERY = pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.name)
EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATING, ids=str)


# The antiderivatives of SLOPES, as smooth torch functions.
SMOOTH: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "clipped": lambda x, a: x.clamp(-a, a),
    "polynomial": lambda x, a: torch.where(x.abs() <= a, 2 * x / a - x * x.abs() / a**2, x.sign()),
    "swish": lambda x, a: 2 * torch.sigmoid(a * x) * (1 + a * x * (1 - torch.sigmoid(a * x))) - 1,
    "tanh": lambda x, a: max(1 / a, 1) * torch.tanh(a * x),
    "sigmoid": lambda x, a: torch.sigmoid(a * x),
    "atan": lambda x, a: torch.atan(math.pi * a * x / 2) / math.pi,
    "fast_sigmoid": lambda x, a: x / (1 + a * x.abs()),
    "triangle": lambda x, a: torch.where(x.abs() * a <= 1, a * x - a * a * x * x.abs() / 2, x.sign() / 2),
    "gaussian": lambda x, a: torch.erf(a * x) / 2,
    "reste": lambda x, a: torch.where(
        x.abs() <= 0.1,
        x * 0.1 ** (1 / a - 1),
        torch.where(x.abs() <= 1.5, x.sign() * x.abs() ** (1 / a), x.detach()),
    ),
}

# Away from 0 and from the edge of a mask.
POINTS = torch.tensor([-1.31, -0.62, -0.23, 0.17, 0.45, 0.84], dtype=torch.float64)


def gradient_of(kind: Definition, x: Tensor, g: Tensor | None = None, alpha: Any = None) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(binary_sign(x, 0.0, kind.name, alpha), x, torch.ones_like(x) if g is None else g)[0]


def test_the_tests_know_all_kinds() -> None:
    assert list(SLOPES) == list(SMOOTH) == [kind.name for kind in TABLE]


@EVERY
@EVERY_DTYPE
@pytest.mark.parametrize("alpha", [None, 0.5, 1.7, 6.0])
def test_gradient_is_that_of_the_formula(
    kind: Definition, dtype: torch.dtype, alpha: float | None, device: str
) -> None:
    # Includes values with large exponents, where an error of the exponent matters most.
    x = torch.cat([torch.linspace(-3, 3, 4001), torch.linspace(-30, 30, 2001), 2.0 ** -torch.arange(0, 40)]).to(dtype)
    x = x[(x.double().abs() - 0.1).abs() > 1e-3]  # reste jumps there, and no dtype can represent 0.1
    used = np.longdouble(torch.tensor(kind.alpha if alpha is None else alpha).double().item())
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(
            SLOPES[kind.name](x.double().numpy().astype(np.longdouble), used).astype(np.float64)
        )
    given = alpha if alpha is None else torch.tensor(alpha, device=device)
    found = gradient_of(kind, x.to(device), alpha=given).cpu()
    info = torch.finfo(dtype)
    # Where the terms of a difference cancel, and where swish crosses 0, the error is that of the terms.
    size = expected.abs() + (expected.abs().max() if kind.name in ("polynomial", "triangle", "swish") else 0) * (
        1 if dtype == torch.float64 or not kind.is_transcendental else 0
    )
    # float64 has no wider dtype, so the error of the exponent remains.
    steepness = expected.clamp(min=info.tiny).log().abs() if kind.is_transcendental and dtype == torch.float64 else 0
    allowed = 4 * info.eps * size * (1 + steepness) + info.smallest_normal
    assert ((found.double() - expected).abs() <= allowed).all()


@EVERY
@EVERY_DTYPE
def test_special_values(kind: Definition, dtype: torch.dtype, device: str) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, torch.finfo(dtype).max], dtype=dtype, device=device)
    found = gradient_of(kind, x).tolist()
    assert found[0] == found[1] == 0
    assert found[2] == 0 if kind.name in ("clipped", "polynomial", "reste") else math.isnan(found[2])
    assert found[3] == found[4] > 0
    assert found[5] == 0


@EVERY
@EVERY_DTYPE
def test_both_signs_have_the_gradient_and_their_own_values(kind: Definition, dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device)
    g = torch.linspace(-3, 3, x.numel(), device=device).to(dtype)
    assert_same_bits(binary_sign(x, -1.0, kind.name), ste.binary_sign_ste(x, -1.0))
    assert_same_bits(ternary_sign(x, None, kind.name), ste.ternary_sign_ste(x))
    expected = gradient_of(kind, x, g)
    leaf = x.clone().requires_grad_()
    for y in (ternary_sign(leaf, None, kind.name), ternary_sign(leaf, 0.25, kind.name)):
        assert_same_bits(torch.autograd.grad(y, leaf, g)[0], expected)


def assert_within_2_ulp(actual: Tensor, expected: Tensor, kind: Definition) -> None:
    """To the bit without transcendental functions, of which torch has several versions, by shape and device."""
    if kind.is_transcendental:
        rtol = 2 * torch.finfo(actual.dtype).eps
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-40, equal_nan=True)
    else:
        assert_same_bits(actual, expected)


@EVERY
@EVERY_DTYPE
def test_alpha_may_be_a_number_or_a_tensor(kind: Definition, dtype: torch.dtype, device: str) -> None:
    x = (torch.randn(3, 4, 37, generator=torch.Generator().manual_seed(0)) * 2).to(device, dtype)
    g = torch.randn(3, 4, 37, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    expected = gradient_of(kind, x, g, alpha=1.5)
    for shape in ((), (1,), (37,), (4, 1), (3, 1, 1), (3, 4, 37), (1, 1, 1, 1)):
        for alpha_dtype in {dtype, torch.float32}:
            alpha = torch.full(shape, 1.5, dtype=alpha_dtype, device=device)
            assert_within_2_ulp(gradient_of(kind, x, g, alpha), expected, kind)
    assert_same_bits(gradient_of(kind, x, g, np.float32(1.5)), expected)
    assert_same_bits(gradient_of(kind, x, g), gradient_of(kind, x, g, kind.alpha))
    # One for each channel.
    each = torch.tensor([0.5, 1.0, 1.5, 2.0], device=device)
    found = gradient_of(kind, x, g, each[:, None])
    for i, alpha in enumerate(each.tolist()):
        assert_within_2_ulp(found[:, i], gradient_of(kind, x, g, alpha)[:, i], kind)


@EVERY
@EVERY_DTYPE
def test_any_layout(kind: Definition, dtype: torch.dtype, device: str) -> None:
    x, g = (torch.randn(5, 6, 70, generator=torch.Generator().manual_seed(i)).to(device, dtype) for i in (0, 1))
    expected = gradient_of(kind, x, g)
    for change in (
        lambda t: t.transpose(0, 2).contiguous().transpose(0, 2),
        lambda t: torch.stack([t, t], -1)[..., 0],
        lambda t: t.clone(),
    ):
        assert_same_bits(gradient_of(kind, change(x), g), expected)
        assert_same_bits(gradient_of(kind, x, change(g)), expected)
    for size in (0, 1, 7, 15, 16, 17, 33, 255, 256, 257, 300):
        part = gradient_of(kind, x.flatten()[:size], g.flatten()[:size])
        assert_same_bits(part, expected.flatten()[:size])
    assert_same_bits(gradient_of(kind, x[0, 0, 0], g[0, 0, 0]), expected[0, 0, 0])


@EVERY
def test_alpha_and_threshold_get_no_gradient(kind: Definition, device: str) -> None:
    x = torch.randn(4, device=device)
    alpha, threshold = (torch.tensor(v, device=device, requires_grad=True) for v in (1.0, 0.5))
    assert not binary_sign(x, 0.0, kind.name, alpha).requires_grad
    assert not ternary_sign(x, threshold, kind.name, alpha).requires_grad
    x.requires_grad_()
    y = ternary_sign(x, threshold, kind.name, alpha)
    _, *others = torch.autograd.grad(y.sum(), (x, alpha, threshold), allow_unused=True)
    assert others == [None, None]


def sign(kind: Definition, alpha: Any = None) -> Callable[[Tensor], Any]:
    return lambda x: binary_sign(x, 0.0, kind.name, alpha)


def smooth(kind: Definition) -> Callable[[Tensor], Tensor]:
    return lambda x: SMOOTH[kind.name](x, kind.alpha)


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@EVERY
def test_derivatives_are_those_of_the_smooth_function(kind: Definition, device: str) -> None:
    """Derivatives up to the third order, in every nesting; a sign that is a factor has its value, a constant."""
    points = POINTS.to(device)
    ours, theirs = sign(kind), smooth(kind)
    direction = torch.linspace(0.5, 2, len(points), dtype=torch.float64, device=device)

    def each(function: Callable[[Tensor], Any]) -> Any:
        return lambda x: function(x).sum()

    close(grad(each(ours))(points), grad(each(theirs))(points))
    close(grad(each(grad(each(ours))))(points), grad(each(grad(each(theirs))))(points))
    close(grad(each(grad(each(grad(each(ours))))))(points), grad(each(grad(each(grad(each(theirs))))))(points))
    close(jvp(ours, (points,), (direction,))[1], jvp(theirs, (points,), (direction,))[1])
    for outer in (jacrev, jacfwd):
        for inner in (jacrev, jacfwd):
            close(outer(inner(ours))(points), outer(inner(theirs))(points))
    close(hessian(each(ours))(points), hessian(each(theirs))(points))
    close(vmap(grad(ours))(points), vmap(grad(theirs))(points))
    close(grad(each(vmap(ours)))(points), grad(each(theirs))(points))
    x = points.clone().requires_grad_()
    (first,) = torch.autograd.grad(ours(x), x, direction, create_graph=True)
    # The clipped one is piecewise constant, so its gradient does not depend on x.
    second = torch.autograd.grad(first.sum(), x)[0] if first.requires_grad else torch.zeros_like(x)
    close(second, direction * grad(each(grad(each(theirs))))(points))
    with fwAD.dual_level():
        dual = fwAD.make_dual(points, direction)
        close(fwAD.unpack_dual(ours(dual)).tangent, direction * grad(each(theirs))(points))


@EVERY
@pytest.mark.parametrize(
    "change",
    [Tensor.double, Tensor.bfloat16, lambda t: t.t().contiguous().t()],
    ids=["float64", "bfloat16", "transposed"],
)
def test_saved_tensors_that_hooks_change(kind: Definition, change: Callable[[Tensor], Tensor], device: str) -> None:
    """Neither a crash nor another gradient, for numbers that every dtype can represent."""
    x = torch.tensor([[0.5, -0.25, 2.0], [0.0, -1.0, 0.75]], device=device)
    expected = gradient_of(kind, x, alpha=1.0)
    leaf = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: change(t) if t.dim() else t):
        y = binary_sign(leaf, -1.0, kind.name, 1.0)
    (found,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    # Autograd casts a gradient whose dtype is that of the hook's tensor.
    torch.testing.assert_close(found, expected, rtol=2**-7 if change is Tensor.bfloat16 else 1e-6, atol=0)


@EVERY
def test_vmap_over_alpha(kind: Definition, device: str) -> None:
    points, alphas = POINTS.to(device), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, device=device)

    def slope(x: Tensor, alpha: Tensor) -> Any:
        return grad(lambda t: binary_sign(t, 0.0, kind.name, alpha).sum())(x)

    expected = torch.stack([gradient_of(kind, points, alpha=alpha) for alpha in alphas])
    close(vmap(slope, (None, 0))(points, alphas), expected)
    close(vmap(slope, (0, 0))(points.expand(3, -1), alphas), expected)


@EVERY
@EVERY_DTYPE
def test_compiled(kind: Definition, dtype: torch.dtype, device: str) -> None:
    torch._dynamo.reset()
    x = values(dtype, device)[:512].clone().requires_grad_()
    g = torch.linspace(-3, 3, x.numel(), device=device).to(dtype)
    compiled = torch.compile(sign(kind), fullgraph=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(function(x), x, g)[0] for function in (compiled, sign(kind)))
    assert_within_2_ulp(found, expected, kind)


@pytest.mark.parametrize("as_tensor", [True, False])
def test_an_annealed_alpha_needs_at_most_two_graphs(as_tensor: bool) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step(x: Tensor, alpha: Any) -> Any:
        return ste.binary_sign_ste(x, -1.0, "tanh", alpha)

    kind = next(kind for kind in TABLE if kind.name == "tanh")
    for i in range(50):
        number = 10 ** (-3 + 4 * i / 49)
        alpha = torch.tensor(number) if as_tensor else number
        x = torch.linspace(-2, 2, 9, requires_grad=True)
        (found,) = torch.autograd.grad(step(x, alpha).sum(), x)
        torch.testing.assert_close(found, gradient_of(kind, x, alpha=number), rtol=1e-6, atol=1e-12)
    assert counter.frame_count <= 2


@EVERY
def test_exported_with_alpha_as_an_input(kind: Definition) -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, alpha: Tensor) -> Any:
            return ste.binary_sign_ste(x, -1.0, kind.name, alpha)

    x = torch.randn(3, 4)
    program = torch.export.export(Layer(), (x, torch.tensor(1.0)))
    for number in (0.5, 2.0):
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(program.module()(leaf, torch.tensor(number)).sum(), leaf)
        torch.testing.assert_close(found, gradient_of(kind, x, alpha=number), rtol=1e-6, atol=1e-12)


def test_ternary_threshold(device: str) -> None:
    for dtype in FLOATING:
        x = torch.tensor([-math.inf, -0.5, -0.25, -0.0, math.nan, 0.25, 0.26, 2.0], dtype=dtype, device=device)
        expected = torch.tensor([-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0], dtype=dtype, device=device)
        for threshold in (0.25, torch.tensor(0.25, device=device), torch.full_like(x, 0.25)):
            assert_same_bits(ternary_sign(x, threshold), expected)
        # A threshold that x's dtype cannot represent is not rounded to it.
        one = torch.tensor([1.0], dtype=dtype, device=device)
        for above, y in ((1 + 2**-20, 0.0), (1 - 2**-20, 1.0)):
            assert ternary_sign(one, above).item() == y


@EVERY
def test_callables(kind: Definition, device: str) -> None:
    function = getattr(ste.surrogates, kind.name)
    spike = function()
    assert inspect.signature(function).parameters["alpha"].default == kind.alpha
    assert spike == pickle.loads(pickle.dumps(spike)) == function(alpha=kind.alpha)
    assert "Surrogate" in repr(spike) and function.__doc__
    x = torch.randn(8, device=device, requires_grad=True)
    assert_same_bits(spike(x), ste.binary_sign_ste(x))
    assert_same_bits(torch.autograd.grad(spike(x).sum(), x)[0], gradient_of(kind, x))
    signs = function(alpha=0.5, low=-1.0)
    assert_same_bits(signs(x), ste.binary_sign_ste(x, -1.0))
    assert_same_bits(torch.autograd.grad(signs(x).sum(), x)[0], gradient_of(kind, x, alpha=0.5))


BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "surrogate must be a string, got int", {"surrogate": 3}),
    (ValueError, "surrogate must be one of identity, clipped, .*, reste, got soft", {"surrogate": "soft"}),
    (ValueError, "the surrogate identity has no alpha", {"alpha": 1.0}),
    (TypeError, "alpha must be a Tensor, got str", {"surrogate": "atan", "alpha": "1"}),
    (
        TypeError,
        "alpha has dtype float64, but for x of float32 it must be float32",
        {"surrogate": "atan", "alpha": torch.tensor(1.0, dtype=torch.float64)},
    ),
    (
        RuntimeError,
        r"alpha of shape \[2\] does not broadcast to x's shape \[3\]",
        {"surrogate": "atan", "alpha": torch.ones(2)},
    ),
]


@pytest.mark.parametrize(("error", "message", "arguments"), BAD, ids=str)
@pytest.mark.parametrize("op", [binary_sign, ternary_sign], ids=lambda op: op.__name__)
def test_errors(op: Any, error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    for x in (torch.zeros(3), torch.zeros(3, requires_grad=True)):
        with pytest.raises(error, match=f"^{op.__name__}: {message}"):
            op(x, **arguments)
    with pytest.raises(error, match=f"{op.__name__}: {message}"):
        grad(lambda x: op(x, **arguments).sum())(torch.zeros(3))


@pytest.mark.parametrize(
    ("op", "arguments"), [(binary_sign, (0, "atan")), (ternary_sign, (None, "atan")), (ternary_sign, (0.5,))]
)
def test_integers_have_no_surrogate(op: Any, arguments: Any) -> None:
    with pytest.raises(TypeError, match="x has dtype int64; supported are float64, float32, float16 and bfloat16"):
        op(torch.arange(3), *arguments)
