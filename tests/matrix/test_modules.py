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


@row("`torch.autocast`: x's dtype is kept, whatever autocast's is")
@EVERY_OP
@AUTOCAST_DTYPES
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_dtype(op: Op, dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    x = X.to(x_dtype).requires_grad_()
    g = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=x_dtype)
    with torch.autocast("cpu", dtype=dtype):
        y = op(x)
    assert y.dtype == x_dtype
    assert torch.equal(y, op.expected(X.to(x_dtype)))
    (gradient,) = torch.autograd.grad(y, x, g)
    assert torch.equal(gradient, op.gradient(X.to(x_dtype), g))


@row("`torch.autocast`: between two linear layers, one training step")
@EVERY_OP
@AUTOCAST_DTYPES
def test_autocast_step(op: Op, dtype: torch.dtype) -> None:
    weight = WEIGHT.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        hidden = torch.nn.functional.linear(SAMPLE, op(weight))
        y = op.function(hidden.float(), *op.arguments_for(hidden.float()))
    assert hidden.dtype == dtype and y.dtype == torch.float32
    hidden_exact = SAMPLE @ op.expected(WEIGHT).T
    assert torch.equal(hidden.float(), hidden_exact)
    (gradient,) = torch.autograd.grad(y.sum(), weight)
    assert gradient.dtype == torch.float32
    assert torch.equal(gradient, op.slope(hidden_exact).T * SAMPLE * op.slope(WEIGHT))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda t: t.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda t: t.reshape(1, 2, 3, 1, 4).to(memory_format=torch.channels_last_3d),
    "transposed": lambda t: t.reshape(4, 6).t(),
    "every second column": lambda t: t.reshape(4, 6)[:, ::2],
    "expanded": lambda t: t[:4].expand(3, 4),
}


@row("strides as `torch.round` gives them: {layout}")
@EVERY_OP
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(op: Op, layout: str) -> None:
    x = LAYOUTS[layout]((torch.arange(-12, 12) / 4 + 0.125).requires_grad_())
    values = x.detach()
    y = op.function(x, *op.arguments_for(values))
    assert torch.equal(y, op.expected(values))
    assert y.stride() == torch.round(values).stride()
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(gradient, op.slope(values))


class Quantizer(torch.nn.Module):
    """Holds the function itself, as modules of quantizers do."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.function = function
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.numbers = [a for a in arguments if not isinstance(a, Tensor)]
        for i, tensor in enumerate(a for a in arguments if isinstance(a, Tensor)):
            self.register_buffer(f"bound{i}", tensor)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x / self.scale, *self.numbers, *self.buffers()) * self.scale
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
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    gradients = torch.func.grad(lambda p: torch.func.functional_call(layer, p, (SAMPLE,)).sum())(parameters)
    (gradient,) = gradients.values()
    assert torch.equal(gradient, op.gradient(WEIGHT, SAMPLE.expand(2, 4)))


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
    averaged.update_parameters(layer)
    assert torch.equal(averaged(SAMPLE), SAMPLE @ op.expected(WEIGHT).T)
