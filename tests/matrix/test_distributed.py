"""`torch.distributed`, two and four processes."""

import fcntl
import functools
import os
from pathlib import Path
from typing import Any

import op_table
import processes
import pytest
import subjects
import torch
from bits import assert_same_bits
from distributed_worker import BLOCKS, IN_BLOCKS, LAYOUTS, RATE, STEPS, TARGET, G, Quantized, X, sample, train
from subjects import OPS, WITH_PARAMETERS, Op
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard

import ste

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
WORLD = pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
BEFORE_CUSTOM_POINTWISE_OPS = pytest.mark.refused(
    "this torch's `DTensor` knows torch's own operators only",
    error=r"Operator (ste\.\w+\.default|aten\.\w+\.\w+) does not have a sharding strategy registered",
    torch="<2.13",
)


@functools.cache
def results_of(subject: str, world: int, folder: Path) -> list[dict[str, Any]]:
    """What each process saved. The first test that asks starts them, once."""
    backend = os.environ.get("STE_BACKEND")
    folder = folder / f"{world}-{subject}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = folder / "log"
        if not log.exists():
            try:
                log.write_text(processes.run(START, folder, world, backend=backend))
            except RuntimeError as error:
                log.write_text(str(error))
    saved = [folder / f"{rank}.pt" for rank in range(world)]
    if not all(file.exists() for file in saved):
        raise RuntimeError(log.read_text())
    return [torch.load(file) for file in saved]


START = "import distributed_worker; distributed_worker.main()"


class Results:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, world: int, check: str) -> list[dict[str, Any]]:
        """The result of the check in each process."""
        found = [saved[check] for saved in results_of(subjects.subject, world, self.folder)]
        for result in found:
            if isinstance(result, str):
                raise RuntimeError(result)
        return found


@pytest.fixture
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.getbasetemp()
    # All xdist workers share one run.
    return Results(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


def assert_contract(found: dict[str, Any], op: Op, x: Tensor, g: Tensor) -> None:
    assert torch.equal(found["y"], op.expected(x))
    assert torch.equal(found["gradient"], op.gradient(x, g))


@row("`DTensor`, `{layout}`: values, two derivatives, the placement kept, no communication")
@EVERY_OP
@WORLD
@pytest.mark.parametrize("layout", LAYOUTS)
@BEFORE_CUSTOM_POINTWISE_OPS
def test_dtensor(op: Op, world: int, layout: str, results: Results) -> None:
    x, g = sample(layout)
    for found in results(world, f"{layout}: {op}"):
        assert_contract(found, op, x, g)
        assert torch.equal(found["first"], 2 * op.expected(x) * op.gradient(x, g))
        assert torch.equal(found["second"], 2 * op.slope(x) * op.gradient(x, g * g))
        assert found["placements_kept"]
        assert found["communications"] == 0


@row("`DTensor`, `Partial()`: summed before the step")
@EVERY_OP
@WORLD
@BEFORE_CUSTOM_POINTWISE_OPS
def test_partial(op: Op, world: int, results: Results) -> None:
    for found in results(world, f"Partial(): {op}"):
        assert_contract(found, op, X, G)


@row("`DTensor`: gradients to bounds, scales and zero points, which are distributed too")
@pytest.mark.parametrize("op", WITH_PARAMETERS, ids=str)
@WORLD
@BEFORE_CUSTOM_POINTWISE_OPS
def test_parameters(op: Op, world: int, results: Results) -> None:
    for found in results(world, f"parameters: {op}"):
        assert_contract(found, op, X, G)
        expected = op.parameter_gradients(X, G)
        assert len(found["parameters"]) == len(expected)
        assert all(torch.equal(actual, wanted) for actual, wanted in zip(found["parameters"], expected))


@pytest.mark.skipif(subjects.subject != "ste", reason="of our op alone")
@pytest.mark.parametrize(("block", "dim"), BLOCKS)
@WORLD
def test_blocks(block: int, dim: int, world: int, results: Results) -> None:
    """fake_quantize_blocks, with x distributed along the blocks and across them."""
    leaf = IN_BLOCKS.clone().requires_grad_()
    y = ste.fake_quantize_blocks(leaf, "e2m1fn", block, "floor", dim)
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    assert not gradient.all()
    for placement in (Shard(0), Shard(1), Replicate()):
        check = f"blocks of {block} along {dim}: {placement}"
        if placement == Shard(dim % 2) and 1 < IN_BLOCKS.shape[dim] // block < world:
            # Two blocks for four processes. (Of one, the largest magnitude is communicated.)
            with pytest.raises(RuntimeError, match="Cannot unflatten unevenly sharded tensor"):
                results(world, check)
            continue
        for found in results(world, check):
            assert_same_bits(found["y"], y)
            assert_same_bits(found["gradient"], gradient)


@row("`DTensor`: all of the ops in one compiled function")
@WORLD
@BEFORE_CUSTOM_POINTWISE_OPS
def test_compiled(world: int, results: Results) -> None:
    for found in results(world, "compiled"):
        assert torch.equal(found["y"], subjects.expected_of_every_op(2, 0, X))
        assert torch.equal(found["gradient"], subjects.expected_of_every_op(2, 1, X) * G)


@functools.cache
def trained_by_hand() -> dict[str, Tensor]:
    """The parameters after the training, by the contract and without autograd."""
    state = {name: parameter.detach().clone() for name, parameter in Quantized().named_parameters()}
    for _ in range(STEPS):
        layers = []
        learned = iter([tensor for name, tensor in state.items() if name.startswith("bounds")])
        for op, weight in zip(OPS, [tensor for name, tensor in state.items() if name.startswith("weights")]):
            arguments = (next(learned), next(learned)) if op.name == "tensor_clamp" else op.arguments_for(weight)
            values = [op_table.in_float64(a) if isinstance(a, Tensor) else a for a in arguments]
            quantized = torch.from_numpy(op.reference(op_table.in_float64(weight), *values))
            layers.append((op, weight, arguments, values, quantized))
        error = sum(X @ quantized.T for *_, quantized in layers) - TARGET
        to_weights = (error * 2 / len(X)).T @ X
        for op, weight, arguments, values, _ in layers:
            if op.name == "tensor_clamp":
                masks = op_table.clamp_gradient(op_table.in_float64(weight), *values)
                for tensor, mask in zip((weight, *arguments), masks):
                    gradient = torch.where(torch.from_numpy(mask), to_weights, 0)
                    tensor -= RATE * gradient.sum_to_size(tensor.shape)
            else:
                weight -= RATE * op.gradient(weight, to_weights)
    return state


@row("{framework}: training steps equal to one process's, to the bit")
@WORLD
@pytest.mark.parametrize("framework", ["DDP", "FSDP2"])
@pytest.mark.refused(
    "this torch's FSDP2 asks the CPU for what only an accelerator's streams have",
    error="'Stream' object has no attribute 'record_event'",
    torch="<2.13",
    where=lambda p: p["framework"] == "FSDP2",
)
def test_training(framework: str, world: int, results: Results) -> None:
    by_hand = trained_by_hand()
    alone = Quantized()
    train(alone, X, TARGET)
    for found in [
        {name: parameter.detach() for name, parameter in alone.named_parameters()},
        *results(world, framework),
    ]:
        assert found.keys() == by_hand.keys()
        for name, parameter in found.items():
            assert_same_bits(parameter, by_hand[name])
