"""Eager autograd."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits, values
from subjects import OPS, STRAIGHT_THROUGH_OPS, WITH_PARAMETERS, Op, X
from torch import Tensor
from torch.utils.checkpoint import checkpoint

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
G = torch.tensor([1.0, -2.0, 3.0, 4.0])


@row("values, to the bit, of every value of 16 bits and the special values of float32 and float64")
@EVERY_OP
@DTYPES
def test_values(op: Op, dtype: torch.dtype) -> None:
    x = values(dtype)
    assert_same_bits(op(x), op.expected(x), x)


@row("backward, to the bit, at all of these values")
@EVERY_OP
@DTYPES
def test_backward_at_every_value(op: Op, dtype: torch.dtype) -> None:
    x = values(dtype).requires_grad_()
    g = torch.linspace(-3, 3, x.numel(), dtype=torch.float64).to(dtype)
    (gradient,) = torch.autograd.grad(op(x), x, g)
    assert_same_bits(gradient, op.gradient(x, g), x)


@row("backward at the bounds of a clamp")
@pytest.mark.parametrize("op", [op for op in OPS if "clamp" in op.name], ids=str)
def test_backward_at_a_bound(op: Op) -> None:
    for bound in op.arguments_for(X):
        x = (torch.zeros(4) + bound).requires_grad_()
        (gradient,) = torch.autograd.grad(op(x), x, G)
        assert torch.equal(gradient, G)


@row("backward")
@EVERY_OP
def test_backward(op: Op) -> None:
    x = X.clone().requires_grad_()
    y = op(x * 2)
    assert y.requires_grad
    y.backward(G)
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * op.gradient(X * 2, G))


@row("`retain_graph`: backward twice through one graph")
@EVERY_OP
def test_retain_graph(op: Op) -> None:
    x = X.clone().requires_grad_()
    y = op(x * 2)
    y.backward(G, retain_graph=True)
    y.backward(G)
    assert x.grad is not None
    assert torch.equal(x.grad, 4 * op.gradient(X * 2, G))


@row("double backward (`create_graph`)")
@EVERY_OP
def test_double_backward(op: Op) -> None:
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad((op(x) ** 2).sum(), x, create_graph=True)
    assert torch.equal(first, 2 * op.expected(X) * op.slope(X))
    (second,) = torch.autograd.grad(first, x, G)
    assert torch.equal(second, 2 * op.slope(X) * G)


@row("third derivative")
@EVERY_OP
def test_third_derivative(op: Op) -> None:
    x = X.clone().requires_grad_()
    y = (op(x) ** 3).sum()
    for factor in (3, 2, 1):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert torch.equal(y, {3: 3, 2: 6, 1: 6}[factor] * op.expected(X) ** (factor - 1) * op.slope(X))


@row("`torch.autograd.grad(is_grads_batched=True)`")
@EVERY_OP
def test_batched_gradients(op: Op) -> None:
    x = X.clone().requires_grad_()
    g = torch.stack([G, -G, 2 * G])
    (gradient,) = torch.autograd.grad(op(x), x, g, is_grads_batched=True)
    assert torch.equal(gradient, torch.stack([op.gradient(X, each) for each in g]))


@row("`torch.autograd.functional.{function}`")
@EVERY_OP
@pytest.mark.parametrize("options", [{}, {"vectorize": True}], ids=["", "vectorize"])
@pytest.mark.parametrize("function", ["jacobian", "hessian"])
def test_functional(op: Op, function: str, options: dict[str, Any]) -> None:
    if function == "jacobian":
        assert torch.equal(torch.autograd.functional.jacobian(op, X, **options), torch.diag(op.slope(X)))
    else:
        hessian = torch.autograd.functional.hessian(lambda t: (op(t) ** 2).sum(), X, **options)
        assert torch.equal(hessian, torch.diag(2 * op.slope(X)))


@row("`torch.autograd.functional.jacobian(strategy='forward-mode')`")
@EVERY_OP
def test_functional_forward_mode(op: Op) -> None:
    jacobian = torch.autograd.functional.jacobian(op, X, strategy="forward-mode", vectorize=True)
    assert torch.equal(jacobian, torch.diag(op.slope(X)))


@row("`torch.utils.checkpoint(use_reentrant={use_reentrant})`")
@EVERY_OP
@pytest.mark.parametrize("use_reentrant", [True, False], ids=str)
def test_checkpoint(op: Op, use_reentrant: bool) -> None:
    x = X.clone().requires_grad_()
    y = checkpoint(lambda t: op(t * 2) ** 2, x, use_reentrant=use_reentrant)
    assert isinstance(y, Tensor)
    (gradient,) = torch.autograd.grad(y, x, G) if not use_reentrant else (_by_backward(y, x, G),)
    assert torch.equal(gradient, 4 * op.expected(X * 2) * op.gradient(X * 2, G))


def _by_backward(y: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """The reentrant checkpoint supports only .backward()."""
    y.backward(g)
    assert x.grad is not None
    return x.grad


@row("saved-tensor hooks (pack and unpack, `save_on_cpu`)")
@EVERY_OP
@pytest.mark.parametrize(
    "hooks",
    [
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(), torch.from_numpy),
        torch.autograd.graph.save_on_cpu,
    ],
    ids=["numpy", "save_on_cpu"],
)
def test_saved_tensor_hooks(op: Op, hooks: Callable[[], Any]) -> None:
    x = X.clone().requires_grad_()
    with hooks():
        y = op(x * 2)
    (gradient,) = torch.autograd.grad(y, x, G)
    assert torch.equal(gradient, 2 * op.gradient(X * 2, G))


@row("nothing saved for the backward")
@pytest.mark.parametrize("op", STRAIGHT_THROUGH_OPS, ids=str)
def test_nothing_is_saved(op: Op) -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        op(x)
    assert not saved


@row("gradient hooks on the input, the output and the node")
@EVERY_OP
def test_gradient_hooks(op: Op) -> None:
    seen: list[Tensor] = []
    x = X.clone().requires_grad_()
    x.register_hook(lambda g: seen.append(g))
    y = op(x)
    y.register_hook(lambda g: g * 2)
    assert y.grad_fn is not None
    y.grad_fn.register_hook(lambda inputs, outputs: seen.extend(g for g in inputs if g is not None))
    y.backward(G)
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * op.gradient(X, G))
    assert all(torch.equal(x.grad, g) for g in seen) and len(seen) == 2


@row("anomaly mode, `no_grad`, `inference_mode`")
@EVERY_OP
def test_grad_modes(op: Op) -> None:
    x = X.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
        with torch.autograd.detect_anomaly(check_nan=True):
            (gradient,) = torch.autograd.grad(op(x), x, G)
    assert torch.equal(gradient, op.gradient(X, G))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = op(x)
        assert not y.requires_grad
        assert torch.equal(y, op.expected(X))


@row("forward mode (`torch.autograd.forward_ad`)")
@EVERY_OP
def test_forward_mode(op: Op) -> None:
    with fwAD.dual_level():
        y = fwAD.unpack_dual(op(fwAD.make_dual(X, G)))
    assert torch.equal(y.primal, op.expected(X))
    assert y.tangent is not None
    assert torch.equal(y.tangent, op.gradient(X, G))


@row("forward over backward (`forward_ad` over `create_graph`)")
@EVERY_OP
def test_forward_over_backward(op: Op) -> None:
    x = X.clone().requires_grad_()
    with fwAD.dual_level():
        dual = fwAD.make_dual(x, G)
        (first,) = torch.autograd.grad((op(dual) ** 2).sum(), dual, create_graph=True)
        tangent = fwAD.unpack_dual(first).tangent
    assert tangent is not None
    assert torch.equal(tangent, 2 * op.slope(X) * G)


@row("gradients to bounds, scales and zero points")
@pytest.mark.parametrize("op", WITH_PARAMETERS, ids=str)
def test_gradients_to_parameters(op: Op) -> None:
    x, arguments = X.clone().requires_grad_(), op.arguments_for(X)
    learned = [a.requires_grad_() for a in arguments if isinstance(a, Tensor)]
    gradient, *others = torch.autograd.grad(op.function(x, *arguments), [x, *learned], G)
    assert torch.equal(gradient, op.gradient(X, G))
    expected = op.parameter_gradients(X, G)
    assert len(others) == len(expected)
    assert all(torch.equal(actual, wanted.float()) for actual, wanted in zip(others, expected))
