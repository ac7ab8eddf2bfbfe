"""Modules, autocast and memory formats."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from subjects import DISTINCT_OPS, OPS, Op, X
from torch import Tensor
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
AUTOCAST_DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
WEIGHT = torch.stack([X, X / 2])
SAMPLE = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
G = torch.tensor([1.0, -2.0, 3.0, 4.0])


# Autocast has no rule for our ops, nor for torch.round: they compute in the dtype of their input.
@row("`torch.autocast`: x's dtype is kept, whatever autocast's is")
@EVERY_OP
@AUTOCAST_DTYPES
@pytest.mark.parametrize("x_dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_dtype(op: Op, dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    values, g = X.to(x_dtype), G.to(x_dtype)
    x = values.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        assert torch.round(values).dtype == x_dtype
        y = op(x)
    assert y.dtype == x_dtype
    assert torch.equal(y, op.expected(values))
    (gradient,) = torch.autograd.grad(y, x, g)
    assert gradient.dtype == x_dtype
    assert torch.equal(gradient, op.gradient(values, g))


@row("`torch.autocast`: bounds in float32, x in autocast's dtype")
@pytest.mark.parametrize("op", [op for op in OPS if op.broadcasts and any(map(callable, op.arguments))], ids=str)
@AUTOCAST_DTYPES
def test_autocast_with_float32_bounds(op: Op, dtype: torch.dtype) -> None:
    weight, x = torch.eye(4), X.clone().requires_grad_()
    bounds = op.arguments_for(X)
    learned = [a.requires_grad_() for a in bounds if isinstance(a, Tensor)] if op.slopes else []
    with torch.autocast("cpu", dtype=dtype):
        linear = torch.nn.functional.linear(x, weight)
        y = op.function(linear, *bounds)
    assert linear.dtype == y.dtype == dtype
    assert torch.equal(y.float(), op.expected(X))
    gradients = torch.autograd.grad(y, [x, *learned], G.to(dtype))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    expected = [op.gradient(X, G), *(gradient.float() for gradient in op.parameter_gradients(X, G))]
    assert len(gradients) == len(expected)
    assert all(torch.equal(actual, wanted) for actual, wanted in zip(gradients, expected))


@row("`torch.autocast`: a step of training, on the weight and on the output of a linear layer")
@EVERY_OP
@AUTOCAST_DTYPES
def test_autocast_step(op: Op, dtype: torch.dtype) -> None:
    layer = parametrized(op)
    # The first is outside the bounds of the clamps. The second is partly within them, in the weight and in the output.
    samples = torch.cat([SAMPLE, torch.tensor([[0.0, 1.0, 1.0, 0.5]])])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.25)
    with torch.autocast("cpu", dtype=dtype):
        hidden = layer(samples)
        y = op.function(hidden, *op.arguments_for(hidden))
    assert hidden.dtype == y.dtype == dtype
    exact = samples @ op.expected(WEIGHT).T  # in autocast's dtypes too
    assert torch.equal(y.float(), op.expected(exact))
    y.sum().backward()
    optimizer.step()
    original = layer.parametrizations.weight.original
    assert original.dtype == original.grad.dtype == torch.float32
    gradient = op.slope(exact).T @ samples * op.slope(WEIGHT)
    assert torch.equal(original.grad, gradient)
    assert torch.equal(original, WEIGHT - 0.25 * gradient)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda t: t.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda t: t.reshape(1, 2, 3, 1, 4).to(memory_format=torch.channels_last_3d),
    "transposed": lambda t: t.reshape(4, 6).t(),
    "every second column": lambda t: t.reshape(4, 6)[:, ::2],
    "expanded": lambda t: t[6:10].expand(3, 4),
}


@row("strides as `torch.round` gives them, of the result and of the gradient: {layout}")
@EVERY_OP
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(op: Op, layout: str) -> None:
    values = LAYOUTS[layout](torch.arange(-12, 12) / 4 + 0.125)
    x = values.detach().requires_grad_()
    y = op.function(x, *op.arguments_for(values))
    assert torch.equal(y, op.expected(values))
    assert y.stride() == torch.round(values).stride()
    g = torch.empty_like(y).copy_(torch.arange(1.0, values.numel() + 1).reshape(values.shape))
    (gradient,) = torch.autograd.grad(y, x, g)
    assert torch.equal(gradient, op.gradient(values, g))
    assert gradient.stride() == y.stride()


class Quantizer(torch.nn.Module):
    """Holds the function itself, as quantizer modules do."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.function = function
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.arguments: list[Any] = list(arguments)
        for i, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                self.register_buffer(f"argument{i}", argument)
                self.arguments[i] = f"argument{i}"

    def forward(self, x: Tensor) -> Tensor:
        arguments = [getattr(self, a, a) if isinstance(a, str) else a for a in self.arguments]
        result: Tensor = self.function(x / self.scale, *arguments) * self.scale
        return result


def check_quantizer(module: torch.nn.Module, op: Op) -> None:
    x = (X / 2).requires_grad_()
    y = module(x)
    assert torch.equal(y, op.expected(X) / 2)
    gradient, to_scale = torch.autograd.grad(y.sum(), (x, *module.parameters()))
    assert torch.equal(gradient, op.slope(X))
    assert torch.equal(to_scale, (op.expected(X) - X * op.slope(X)).sum())


@row("`copy.deepcopy` of a module that holds the function")
@EVERY_OP
def test_deepcopy(op: Op) -> None:
    check_quantizer(copy.deepcopy(Quantizer(op.function, op.arguments_for(X))), op)


@row("`pickle` and `torch.save` of a module that holds the function")
@EVERY_OP
def test_pickle(op: Op) -> None:
    module = Quantizer(op.function, op.arguments_for(X))
    check_quantizer(pickle.loads(pickle.dumps(module)), op)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    check_quantizer(torch.load(buffer, weights_only=False), op)


@row("`state_dict`")
@EVERY_OP
def test_state_dict(op: Op) -> None:
    module = Quantizer(op.function, op.arguments_for(X))
    other = Quantizer(
        op.function, tuple(torch.zeros_like(a) if isinstance(a, Tensor) else a for a in op.arguments_for(X))
    )
    other.scale.data.zero_()
    other.load_state_dict(module.state_dict())
    check_quantizer(other, op)


class Quantize(torch.nn.Module):
    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op

    def forward(self, weight: Tensor) -> Tensor:
        return self.op(weight)


def parametrized(op: Op) -> Any:
    layer = torch.nn.Linear(4, 2, bias=False)
    layer.weight.data = WEIGHT.clone()
    parametrize.register_parametrization(layer, "weight", Quantize(op), unsafe=True)
    return layer


@row("`torch.nn.utils.parametrize` with a quantizer on a weight: training, and removal")
@EVERY_OP
def test_parametrize(op: Op) -> None:
    layer = parametrized(op)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.25)
    layer(SAMPLE).sum().backward()
    optimizer.step()
    trained = WEIGHT - 0.25 * op.gradient(WEIGHT, SAMPLE.expand(2, 4))
    assert torch.equal(layer.parametrizations.weight.original, trained)
    assert torch.equal(layer.weight, op.expected(trained))
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    assert torch.equal(layer.weight, op.expected(trained))


@row("`torch.func.functional_call` of a parametrized module, under `grad`")
@EVERY_OP
def test_functional_call(op: Op) -> None:
    layer = parametrized(op)
    parameters = {name: -p.detach() for name, p in layer.named_parameters()}
    function = torch.func.grad_and_value(lambda p: torch.func.functional_call(layer, p, (SAMPLE,)).sum())
    gradients, value = function(parameters)
    assert torch.equal(value, (SAMPLE @ op.expected(-WEIGHT).T).sum())
    (gradient,) = gradients.values()
    assert torch.equal(gradient, op.gradient(-WEIGHT, SAMPLE.expand(2, 4)))


@row("`AveragedModel` and gradient accumulation")
@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_averaged_model(op: Op) -> None:
    layer = parametrized(op)
    averaged = AveragedModel(layer)
    for _ in range(2):
        layer(SAMPLE).sum().backward()
    gradient = layer.parametrizations.weight.original.grad
    assert isinstance(gradient, Tensor)
    assert torch.equal(gradient, 2 * op.gradient(WEIGHT, SAMPLE.expand(2, 4)))
    for factor in (1, 3):
        layer.parametrizations.weight.original.data = factor * WEIGHT
        averaged.update_parameters(layer)
    assert torch.equal(averaged(SAMPLE), SAMPLE @ op.expected(2 * WEIGHT).T)
