"""`vmap`."""

import warnings
from typing import Any

import pytest
import torch
from subjects import DISTINCT_OPS, OPS, Op, X
from torch import Tensor, vmap
from torch.func import functional_call, grad, jacrev

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
CLAMPS = [op for op in {op.name: op for op in OPS}.values() if op.name.startswith("tensor_clamp")]

ROWS = torch.stack([X, X / 2, X * 2 + 0.25])


def cube(dim: int) -> Tensor:
    """ROWS with one more dimension, the mapped one at `dim`."""
    return torch.stack([ROWS, -ROWS]).movedim(0, dim)


@row("over x, any `in_dims` and `out_dims`")
@EVERY_OP
@pytest.mark.parametrize("out_dim", [0, 1, -1])
@pytest.mark.parametrize("in_dim", [0, 1, 2, -1, -2])
def test_over_x(op: Op, in_dim: int, out_dim: int) -> None:
    x = cube(in_dim)
    expected = torch.stack([op.expected(x.select(in_dim, i)) for i in range(2)], out_dim)
    assert torch.equal(vmap(op, in_dim, out_dim)(x), expected)


@row("nested, over different dimensions")
@EVERY_OP
def test_nested(op: Op) -> None:
    x = cube(0)
    assert torch.equal(vmap(vmap(op))(x), op.expected(x))
    assert torch.equal(vmap(vmap(op), in_dims=1, out_dims=1)(x), op.expected(x))


@row("`vmap(grad(f))` and `grad(vmap(f))`, any `in_dims`")
@EVERY_OP
@pytest.mark.parametrize("in_dim", [0, 1, -1])
def test_gradients(op: Op, in_dim: int) -> None:
    x = cube(in_dim)

    def f(t: Tensor) -> Any:
        return (op(t) ** 2).sum()

    def gradient(t: Tensor) -> Tensor:
        return 2 * op.expected(t) * op.slope(t)

    rows = [x.select(in_dim, i) for i in range(2)]
    assert torch.equal(vmap(grad(f), in_dim, in_dim)(x), torch.stack([gradient(r) for r in rows], in_dim))
    total = grad(lambda t: vmap(f, in_dim)(t).sum())
    assert torch.equal(total(x), torch.stack([gradient(r) for r in rows], in_dim))


@row("`chunk_size`, `randomness`")
@EVERY_OP
def test_options(op: Op) -> None:
    assert torch.equal(vmap(op, chunk_size=2)(ROWS), op.expected(ROWS))
    assert torch.equal(vmap(lambda t: op(t + torch.rand(()) * 0), randomness="different")(ROWS), op.expected(ROWS))


@row("without falling to the slow path")
@EVERY_OP
def test_no_slow_path(op: Op) -> None:
    torch._C._functorch._set_vmap_fallback_enabled(False)  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(vmap(op)(ROWS), op.expected(ROWS))
            x = ROWS.clone().requires_grad_()
            (first,) = torch.autograd.grad(vmap(lambda t: op(t) ** 2)(x).sum(), x)
            assert torch.equal(first, 2 * op.expected(ROWS) * op.slope(ROWS))
            assert torch.equal(jacrev(op)(X), torch.diag(op.slope(X)))
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(True)  # type: ignore[attr-defined]


IN_DIMS = [
    *[(0, 0, 0), (0, None, None), (0, 0, None), (None, 0, None), (None, None, 0), (None, 0, 0)],
    *[(1, 0, None), (-1, 1, 0), (2, None, 1)],
]


def bounds_arguments(in_dims: tuple[int | None, ...]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """x, min_val and max_val, batched as given, and those of each of the two calls."""
    generator = torch.Generator().manual_seed(0)
    batched: list[Tensor] = []
    for shape, dim in zip([(4, 3), (4, 3), (3,)], in_dims):
        size = list(shape)
        if dim is not None:
            size.insert(dim if dim >= 0 else len(size) + 1 + dim, 2)
        # Odd multiples of 1/8 for x, even for the bounds: none is at a bound.
        whole = torch.randint(-12, 12, size, generator=generator)
        batched.append((2 * whole + (1 if len(batched) == 0 else 0)) / 8)
    calls = [[t if d is None else t.select(d, i) for t, d in zip(batched, in_dims)] for i in range(2)]
    return batched, calls


def expected_clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


@row("over x, `min_val` and `max_val` of `{op}`, any `in_dims`")
@pytest.mark.parametrize("op", CLAMPS, ids=lambda op: op.name)
@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
def test_over_bounds(op: Op, in_dims: tuple[int | None, ...]) -> None:
    batched, calls = bounds_arguments(in_dims)
    expected = torch.stack([expected_clamp(*call) for call in calls])
    assert torch.equal(vmap(op.function, in_dims)(*batched), expected)

    def loss(*arguments: Tensor) -> Any:
        return (op.function(*arguments) ** 2).sum()

    for i, gradients in enumerate(
        zip(*vmap(grad(loss, argnums=(0, 1, 2) if not op.straight_through else (0,)), in_dims)(*batched))
    ):
        x, low, high = calls[i]
        y = 2 * expected_clamp(x, low, high)
        if op.straight_through:
            assert torch.equal(gradients[0], y)
            continue
        to_high = (x > high) | (low > high)
        to_low = (x < low) & ~to_high
        for gradient, mask, argument in zip(gradients, (~to_low & ~to_high, to_low, to_high), (x, low, high)):
            assert torch.equal(gradient, torch.where(mask, y, 0).sum_to_size(argument.shape))


@row("over x, over the other tensor, and over both, where they have to be of one shape")
@pytest.mark.parametrize("op", [op for op in DISTINCT_OPS if not op.broadcasts], ids=str)
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 0), (None, -1)], ids=str)
def test_over_tensors_of_one_shape(op: Op, in_dims: tuple[int | None, int | None]) -> None:
    other = torch.stack([X + 1, -X])
    batched = [t[0] if dim is None else t.movedim(0, dim) for t, dim in zip((ROWS[:2], other), in_dims)]
    pairs = zip(*(t[:1].expand(2, 4) if dim is None else t for t, dim in zip((ROWS[:2], other), in_dims)))
    expected = torch.stack([op.function(*pair) for pair in pairs])
    assert torch.equal(vmap(op.function, in_dims)(*batched), expected)
    gradients = vmap(grad(lambda x, y: (op.function(x, y) ** 2).sum()), in_dims)(*batched)
    assert torch.equal(gradients, 2 * expected)
    (total,) = torch.func.vjp(lambda x: vmap(op.function, in_dims)(x, batched[1]), batched[0])[1](expected)
    assert torch.equal(total, expected.sum(0) if in_dims[0] is None else expected.movedim(0, in_dims[0]))


@row("nested, each level over another argument of `{op}`")
@pytest.mark.parametrize("op", CLAMPS, ids=lambda op: op.name)
def test_nested_over_arguments(op: Op) -> None:
    x, low, high = torch.tensor([-3.0, 0.5, 3.0]), torch.tensor([-2.0, -1.0, 0.0, 0.25]), torch.tensor([1.0, 2.0])
    nested = vmap(vmap(vmap(op.function, (0, None, None)), (None, 0, None)), (None, None, 0))
    expected = expected_clamp(x.expand(2, 4, 3), low[:, None], high[:, None, None])
    assert torch.equal(nested(x, low, high), expected)


@row("gradients of each sample, of a module by `functional_call`")
@EVERY_OP
def test_per_sample_gradients(op: Op) -> None:
    layer = torch.nn.Linear(4, 2, bias=False)
    weight = torch.stack([X, X / 2])
    samples, targets = torch.tensor([[1.0, 2, -1, 0], [0, 1, 1, -2], [2, 0, 0, 1]]), torch.eye(3, 2)

    def loss(parameters: dict[str, Tensor], sample: Tensor, target: Tensor) -> Any:
        quantized = {name: op(parameter) for name, parameter in parameters.items()}
        return ((functional_call(layer, quantized, (sample,)) - target) ** 2).sum()

    (gradients,) = vmap(grad(loss), in_dims=(None, 0, 0))({"weight": weight}, samples, targets).values()
    for gradient, sample, target in zip(gradients, samples, targets):
        error = 2 * (op.expected(weight) @ sample - target)
        assert torch.equal(gradient, torch.outer(error, sample) * op.slope(weight))


@row("ensembles: `stack_module_state` and `vmap` over models")
@EVERY_OP
def test_ensemble(op: Op) -> None:
    models = [torch.nn.Linear(4, 2, bias=False) for _ in range(3)]
    for i, model in enumerate(models):
        model.weight.data = torch.stack([X, X / 2]) * (i + 1)
    parameters, _ = torch.func.stack_module_state(models)
    sample = torch.tensor([1.0, 2.0, -1.0, 0.5])

    def call(weights: dict[str, Tensor]) -> Any:
        return functional_call(models[0], {name: op(weight) for name, weight in weights.items()}, (sample,))

    y = vmap(call)(parameters)
    weight = parameters["weight"].detach()
    assert torch.equal(y.detach(), op_of_each(op, weight) @ sample)
    (gradient,) = torch.autograd.grad(y.sum(), parameters["weight"])
    slope = torch.stack([op.slope(w) for w in weight])
    assert torch.equal(gradient, sample * slope)


def op_of_each(op: Op, weights: Tensor) -> Tensor:
    return torch.stack([op.expected(weight) for weight in weights])
