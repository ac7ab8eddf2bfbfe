"""Training."""

import copy
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from quantizers import FEATURES, PAIRS, batch, quantized
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import ste

row = pytest.mark.row
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)
SIZES = (8, 3, 5, 2, 16, 7, 33, 12)  # of batches
TARGET = torch.randn(FEATURES, 4, generator=torch.Generator().manual_seed(3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, call: Any = None) -> float:
    y = model(x) if call is None else call(x)
    loss = F.mse_loss(y, torch.tanh(x @ TARGET))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def gradients(model: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """Compare what two models keep: a compiler or another backend may sum gradients in another order."""
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values()):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7), key


def assert_grid(model: Any, name: str) -> None:
    """The weight with which the layer computes is on a grid: its integers times a scale give that weight again."""
    layer = model.first
    (quantizer,) = layer.parametrizations.weight
    original = layer.parametrizations.weight.original
    weight = layer.weight.detach()
    steps = quantizer.quantize(original).double()
    assert steps.shape == weight.shape, name
    assert len(steps.unique()) <= 2**8
    # All of one sign, with the same ratio to each other in every row.
    assert torch.equal(weight == 0, steps == 0)
    assert torch.equal(weight.sign().double(), steps.sign())


@row("built on meta, given memory, and initialized || {name}")
@EVERY_PAIR
def test_meta(name: str) -> None:
    with torch.device("meta"):
        model = quantized(PAIRS[name])
    model.to_empty(device="cpu")
    reference = quantized(PAIRS[name])
    with torch.no_grad():
        for (key, mine), (_, theirs) in zip(model.named_parameters(), reference.named_parameters()):
            if not key.endswith((".scale", ".zero_point")):
                mine.copy_(theirs)
    ste.nn.initialize(model, batch())
    ste.nn.initialize(reference, batch())
    assert_same_bits(model(batch(seed=2)).detach(), reference(batch(seed=2)).detach())


@row("the first batch gives the first values, and no other does || {name}")
@EVERY_PAIR
def test_first_batch(name: str) -> None:
    model, reference = quantized(PAIRS[name]), quantized(PAIRS[name])
    ste.nn.initialize(reference, batch())
    model(batch())
    for (key, mine), theirs in zip(model.named_parameters(), reference.parameters()):
        assert torch.equal(mine, theirs), key
    before = copy.deepcopy(model)
    model(10 * batch(seed=2))
    for (key, mine), theirs in zip(model.named_parameters(), before.parameters()):
        assert torch.equal(mine, theirs), key


@row("training, eager: it learns, and what it computes with is on the grid || {name}")
@EVERY_PAIR
def test_eager(name: str) -> None:
    model = quantized(PAIRS[name])
    model(batch())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = [step(model, optimizer, batch(64, seed)) for seed in range(80)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10]), losses
    assert_grid(model, name)


@row("training, compiled, eight batch sizes: the eager values, two graphs at most || {name}")
@EVERY_PAIR
def test_compiled(name: str) -> None:
    counted = quantized(PAIRS[name])
    counter = CompileCounterWithBackend("eager")  # AOTAutograd may restart, which would count
    compiled: Any = torch.compile(counted, backend=counter, dynamic=True, fullgraph=True)
    for seed, size in enumerate(SIZES):
        compiled(batch(size, seed)).sum().backward()
    assert counter.frame_count <= 2

    model, eager = quantized(PAIRS[name]), quantized(PAIRS[name])
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (model, eager)]
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=True)
    for seed, size in enumerate(SIZES):
        x = batch(size, seed)
        losses = [step(model, optimizers[0], x, compiled), step(eager, optimizers[1], x)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert_same(model, eager)


@row("training, compiled by inductor || {name}")
@EVERY_PAIR
@pytest.mark.slow
def test_inductor(name: str) -> None:
    model, eager = quantized(PAIRS[name]), quantized(PAIRS[name])
    for m in (model, eager):
        ste.nn.initialize(m, batch())
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    for seed, size in enumerate(SIZES[:3]):
        outputs: list[Tensor] = [call(batch(size, seed)) for call in (compiled, eager)]
        assert torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
        for y in outputs:
            y.square().sum().backward()
        for one, other in zip(gradients(model), gradients(eager)):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@row("autocast to bfloat16 || {name}")
@EVERY_PAIR
def test_autocast(name: str) -> None:
    model, reference = quantized(PAIRS[name]), quantized(PAIRS[name])
    for m in (model, reference):
        ste.nn.initialize(m, batch())
    with torch.autocast("cpu", torch.bfloat16):
        y = model(batch())
        y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    reference(batch()).square().sum().backward()
    assert torch.nn.functional.cosine_similarity(y.float().flatten(), reference(batch()).flatten(), 0) > 0.9
    for one, other in zip(gradients(model), gradients(reference)):
        assert one.dtype == other.dtype
        assert one.isfinite().all()


@row("gradients of two batches are those of both, added || {name}")
@EVERY_PAIR
def test_accumulation(name: str) -> None:
    models = [quantized(PAIRS[name]) for _ in range(3)]
    for model in models:
        ste.nn.initialize(model, batch())
        model.eval()  # no moving average changes
    halves = [batch(8, 1), batch(8, 2)]
    for model, xs in zip(models, (halves, halves[:1], halves[1:])):
        for x in xs:
            model(x).square().sum().backward()
    for total, first, second in zip(*map(gradients, models)):
        assert torch.allclose(total, first + second, rtol=1e-5, atol=1e-6)


@row("two calls before a backward || {name}")
@EVERY_PAIR
def test_two_calls(name: str) -> None:
    model, reference = quantized(PAIRS[name]), quantized(PAIRS[name])
    for m in (model, reference):
        ste.nn.initialize(m, batch())
    (model(batch(8, 1)).square().sum() + model(batch(8, 2)).square().sum()).backward()
    for seed in (1, 2):
        reference(batch(8, seed)).square().sum().backward()
    for one, other in zip(gradients(model), gradients(reference)):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


@row("`torch.utils.checkpoint`, use_reentrant={use_reentrant} || {name}")
@EVERY_PAIR
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(name: str, use_reentrant: bool) -> None:
    models = [quantized(PAIRS[name]) for _ in range(2)]
    for seed in range(3):
        plain, checkpointed = (batch(seed=seed).requires_grad_() for _ in models)
        models[0](plain).square().sum().backward()
        checkpoint(models[1], checkpointed, use_reentrant=use_reentrant).square().sum().backward()
        assert plain.grad is not None
        assert checkpointed.grad is not None
        assert_same_bits(checkpointed.grad, plain.grad)
    for one, other in zip(*([*m.state_dict().values(), *gradients(m)] for m in models)):
        assert_same_bits(one, other)


@row("weights and inputs that are all 0 stay 0, with gradients that are finite || {name}")
@EVERY_PAIR
def test_zeros(name: str) -> None:
    model = quantized(PAIRS[name])
    with torch.no_grad():
        model.first.parametrizations.weight.original.zero_()
    ste.nn.initialize(model)
    x = torch.zeros(4, FEATURES, requires_grad=True)
    model(x).sum().backward()
    assert model(x).isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = [step(model, optimizer, batch(64, seed)) for seed in range(10)]
    assert all(loss == loss for loss in losses)


@row("a scale that falls below its floor rises again || LSQ, 4 bits per channel")
def test_a_scale_rises() -> None:
    quantizer = ste.nn.IntegerQuantizer(4)
    quantizer.initialize(torch.ones(1))
    with torch.no_grad():
        quantizer.scale.fill_(-0.01)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.01)
    x = torch.linspace(-1, 1, 40)
    for _ in range(40):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    assert quantizer.scale.item() > 0.05


@row("what memory holds before there are first values is not taken for them || {name}")
@EVERY_PAIR
def test_no_memory_is_taken_for_values(name: str) -> None:
    with torch.device("meta"):
        model = quantized(PAIRS[name])
    model.to_empty(device="cpu")
    for quantizer in model.modules():
        if hasattr(quantizer, "is_initialized"):
            quantizer.reset_parameters()
            assert quantizer.is_initialized == (not quantizer.state_dict())
    with torch.device("meta"):
        weights = [m for m in quantized(PAIRS[name]).modules() if hasattr(m, "is_initialized")]
    assert all(quantizer.is_initialized == (not quantizer.state_dict()) for quantizer in weights)


@row("deepcopy: the copy computes the same, and trains by itself || {name}")
@EVERY_PAIR
def test_deepcopy(name: str) -> None:
    model = quantized(PAIRS[name])
    model(batch())
    other = copy.deepcopy(model)
    assert_same_bits(other.eval()(batch()), model.eval()(batch()))
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    for seed in range(2):
        step(other.train(), optimizer, batch(seed=seed))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert parametrize.is_parametrized(other.first)
