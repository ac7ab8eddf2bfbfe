"""Quantizers in use."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import op_table
import pytest
import subjects
import torch
import torch.distributed as dist
from bits import assert_same_bits
from onnx_models import run, session_of, written
from subjects import OPS, WITH_PARAMETERS, Op, X
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.fsdp import fully_shard
from torch.export import Dim, export

import ste

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
# `torch.clamp(x, -t, t)` too.
FLOATS = "AOTAutograd makes a graph for each value of a float that is not an operand of plain arithmetic"
SIZES = (8, 3, 5, 2, 16, 7, 33, 12)  # of batches
LOW, HIGH = -4, 3


def function(name: str) -> Callable[..., Any]:
    return subjects.SUBJECTS[subjects.subject][name]


def grad_scale(x: Tensor, scale: Tensor) -> Any:
    """LSQ's factor: through ste's function, or as people write it."""
    if subjects.subject == "ste":
        return ste.lsq_grad_scale(x, scale, HIGH)
    return (x.numel() / scale.numel() * HIGH) ** -0.5


class Learned(torch.nn.Module):
    """LSQ's quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((1,), 0.5))

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.scale, 0.5)

    def forward(self, x: Tensor) -> Any:
        factor = grad_scale(x, self.scale)
        return function("fake_quantize")(x, self.scale, None, LOW, HIGH, factor, "scaled")


class Dynamic(torch.nn.Module):
    """A scale computed from each batch."""

    def forward(self, x: Tensor) -> Any:
        scale = (x.detach().abs().amax(-1, keepdim=True) / HIGH).clamp(min=2.0**-10)
        return function("fake_quantize")(x, scale, None, LOW, HIGH)


MODULES = pytest.mark.parametrize("module", [Learned, Dynamic])


def batch(size: int) -> Tensor:
    """Multiples of 1/8, none of them at a limit of the grid or halfway between two of its integers."""
    return (torch.arange(size * 4).reshape(size, 4) % 53 - 26) / 8 + 1 / 16


def check(quantizer: Callable[[Tensor], Any], module: torch.nn.Module, x: Tensor) -> None:
    """The values and the gradients to x and to the scale, according to the contract."""
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    g = torch.linspace(-1, 2, x.numel()).view_as(x)
    found = torch.autograd.grad(y, [leaf, *module.parameters()], g)
    learned = len(found) > 1
    scale = np.full(1, 0.5, np.float32) if learned else np.maximum(abs(x.numpy()).max(-1, keepdims=True) / 3, 2**-10)
    rest = (None, np.float32(LOW), np.float32(HIGH), 1, "scaled" if learned else "rounded")
    assert_same_bits(y, torch.from_numpy(op_table.fake_quantize(x.numpy(), scale, *rest)))
    passes = torch.from_numpy(op_table.fake_quantize_passes(x.numpy(), scale, *rest))
    assert torch.equal(found[0], torch.where(passes, g, 0))
    if learned:
        slope, _ = op_table.fake_quantize_slopes(x.numpy(), scale, *rest)
        expected = (g.double().numpy() * slope).sum() * (x.numel() * HIGH) ** -0.5
        torch.testing.assert_close(found[1].item(), float(expected), rtol=1e-5, atol=1e-6)


@contextmanager
def without_warnings() -> Iterator[None]:
    """The exporters' warnings about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@row("`{module}` scale, `compile(dynamic=True)`: 8 batch sizes in at most two graphs")
@MODULES
def test_compiled(module: type[torch.nn.Module]) -> None:
    quantizer = module()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(quantizer, dynamic=True, fullgraph=True, backend=counter)
    for size in SIZES:
        check(compiled, quantizer, batch(size))
    assert counter.frame_count <= 2


@row("`{module}` scale, `torch.export` with a dynamic batch")
@MODULES
@pytest.mark.parametrize("strict", [False, True])
def test_exported(module: type[torch.nn.Module], strict: bool) -> None:
    quantizer = module()
    with without_warnings():
        program = export(quantizer, (batch(8),), dynamic_shapes=({0: Dim("batch", max=64)},), strict=strict)
    exported = program.module()
    for size in SIZES:
        check(exported, exported, batch(size))


@row("`{module}` scale, ONNX with a dynamic batch: the same bits in ONNX Runtime")
@MODULES
def test_onnx(module: type[torch.nn.Module]) -> None:
    quantizer = module()
    model = written(quantizer, batch(8), dynamic_shapes=({0: Dim("batch", max=64)},))
    onnx.checker.check_model(model, full_check=True)
    session = session_of(model)
    for size in SIZES:
        x = batch(size)
        assert_same_bits(run(session, x)[0], quantizer(x).detach(), x)


NUMBERS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "scalar_clamp_ste's bounds": (
        lambda x, t, _: function("scalar_clamp_ste")(x, -t, t + 0.25),
        lambda x, t: x.clamp(-t, t + 0.25),
    ),
    "binary_sign_ste's low": (
        lambda x, t, _: function("binary_sign_ste")(x, -t),
        lambda x, t: torch.where(x >= 0, 1.0, -t),
    ),
    "fake_quantize's scale": (
        lambda x, t, _: function("fake_quantize")(x, t, None, LOW, HIGH),
        lambda x, t: (x / t).round().clamp(LOW, HIGH) * t,
    ),
    "fake_quantize's grad_scale": (
        lambda x, t, scale: function("fake_quantize")(x, scale, None, LOW, HIGH, t),
        lambda x, t: (x / 0.5).round().clamp(LOW, HIGH) * 0.5,
    ),
}


@row("numbers that change each step, `backend='{backend}'`: 8 values of {number} in at most two graphs")
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.refused(
    FLOATS,
    error=r"^RuntimeError: [3-9] graphs$",
    where=lambda p: (
        p["backend"] == "aot_eager" and p["number"] in ("scalar_clamp_ste's bounds", "binary_sign_ste's low")
    ),
)
@pytest.mark.refused(
    FLOATS,
    error=r"^RuntimeError: [3-9] graphs$",
    backend="native",
    where=lambda p: p["backend"] == "aot_eager" and p["number"] == "fake_quantize's grad_scale",
)
def test_numbers_that_change(number: str, backend: str) -> None:
    call, expected = NUMBERS[number]
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    x, scale = batch(4), torch.tensor(0.5, requires_grad=True)
    for t in (0.5, 0.75, 1.25, 1.5, 2.5, 0.25, 3.0, 1.0):
        y = compiled(x.clone().requires_grad_(), t, scale)
        assert torch.equal(y, expected(x, t))
        assert y.requires_grad
    if counter.frame_count > 2:
        raise RuntimeError(f"{counter.frame_count} graphs")


@row("a factor that changes each step is that of the gradient, compiled")
def test_grad_scale_that_changes() -> None:
    call = torch.compile(function("fake_quantize"), fullgraph=True, backend="aot_eager")
    x, scale = batch(4), torch.tensor(0.5, requires_grad=True)
    gradients = [
        torch.autograd.grad(call(x, scale, None, LOW, HIGH, t).sum(), scale)[0].item() for t in (1.0, 0.5, 0.25, -2.0)
    ]
    assert gradients[0] != 0
    assert gradients == [gradients[0] * t for t in (1.0, 0.5, 0.25, -2.0)]


@row("built on the meta device, and materialized")
@MODULES
def test_meta_device(module: type[torch.nn.Module]) -> None:
    with torch.device("meta"):
        quantizer = module()
        assert quantizer(torch.empty(3, 4)).shape == (3, 4)
    quantizer.to_empty(device="cpu")
    if isinstance(quantizer, Learned):
        quantizer.reset_parameters()
    check(quantizer, quantizer, batch(8))


@row("`torch.fx.symbolic_trace`, values and gradients")
@EVERY_OP
def test_symbolic_trace(op: Op) -> None:
    arguments = op.arguments_for(X)

    class Called(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return op.function(x * 2, *arguments)

    traced = torch.fx.symbolic_trace(Called())
    leaf = X.clone().requires_grad_()
    y = traced(leaf)
    assert torch.equal(y, op.expected(X * 2))
    g = torch.tensor([1.0, -2.0, 3.0, 4.0])
    assert torch.equal(torch.autograd.grad(y, leaf, g)[0], 2 * op.gradient(X * 2, g))


@row("`torch.fx.symbolic_trace` with parameters that are arguments of the graph")
@pytest.mark.parametrize("op", WITH_PARAMETERS, ids=str)
def test_symbolic_trace_of_parameters(op: Op) -> None:
    arguments = op.arguments_for(X)
    tensors = [a for a in arguments if isinstance(a, Tensor)]

    def call(x: Tensor, first: Tensor, second: Tensor) -> Any:
        given = iter((first, second))
        return op.function(x, *(next(given) if isinstance(a, Tensor) else a for a in arguments))

    traced = torch.fx.symbolic_trace(call)
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = traced(X, *leaves, *[None] * (2 - len(leaves)))
    assert torch.equal(y, op.expected(X))
    for found, wanted in zip(torch.autograd.grad(y.sum(), leaves), op.parameter_gradients(X, torch.ones_like(X))):
        assert torch.equal(found.double(), wanted)


@row("a quantizer that follows the batch, in `torch.fx.symbolic_trace`")
@MODULES
def test_symbolic_trace_of_a_quantizer(module: type[torch.nn.Module]) -> None:
    traced = torch.fx.symbolic_trace(module())
    for size in (8, 3):
        check(traced, traced, batch(size))


@row("`fully_shard` of LSQ's quantizer, one process: training as without it")
@pytest.mark.isolated
@pytest.mark.refused(
    "this torch's FSDP2 asks the CPU for what only an accelerator's streams have",
    error="'Stream' object has no attribute 'record_event'",
    torch="<2.13",
)
def test_fully_shard() -> None:
    alone, sharded = Learned(), Learned()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (1,)))  # type: ignore[attr-defined]
    for size in (8, 3, 5):
        for model in (alone, sharded):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            model(batch(size)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    (scale,) = sharded.parameters()
    assert not torch.equal(alone.scale, torch.full((1,), 0.5))
    assert torch.equal(scale.full_tensor(), alone.scale)  # type: ignore[attr-defined]
    dist.destroy_process_group()
