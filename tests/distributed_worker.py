"""The processes of matrix/test_distributed.py, which starts this once and compares what they save.

Usage: distributed_worker.py FOLDER WORLD. Each of WORLD processes saves the result of each check in FOLDER, or its
error.
"""

import datetime
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from subjects import OPS, WITH_PARAMETERS, Op
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

import ste

STEPS = 3
RATE = 2.0**-6

# No integers, and therefore no bounds, are among them. Their sums are exact in any order.
X = ((torch.arange(32, dtype=torch.float64) - 16) / 4 + 0.125).reshape(8, 4)
G = (torch.arange(32, dtype=torch.float64) % 7 - 3).reshape(8, 4)
# Five rows for two and for four processes: the last processes get fewer, or none.
UNEVEN = 5

# The placements of x, and of bounds that only have x's last dimension.
LAYOUTS: dict[str, tuple[list[Placement], list[Placement]]] = {
    "Shard(0)": ([Shard(0)], [Replicate()]),
    "Shard(1)": ([Shard(1)], [Shard(0)]),
    "Shard(0), uneven": ([Shard(0)], [Replicate()]),
    "Replicate()": ([Replicate()], [Replicate()]),
    "Shard(0), Shard(1)": ([Shard(0), Shard(1)], [Replicate(), Shard(0)]),
}


def sample(layout: str) -> tuple[Tensor, Tensor]:
    rows = UNEVEN if "uneven" in layout else len(X)
    return X[:rows], G[:rows]


def mesh_for(placements: list[Placement]) -> DeviceMesh:
    return mesh_of(len(placements))


@functools.cache
def mesh_of(dimensions: int) -> DeviceMesh:
    """One mesh for all checks.

    DTensor caches what it has found out about an operator, and returns it for an equal mesh too, together with the
    original mesh, for which the compiler fails: "Node tangents_2 was invalid, but is output".
    """
    world = dist.get_world_size()
    return init_device_mesh("cpu", (world,) if dimensions == 1 else (2, world // 2))


def distributed(
    op: Op, x: Tensor, mesh: DeviceMesh, for_x: list[Placement], for_bounds: list[Placement]
) -> tuple[Any, ...]:
    """The op's arguments after x, with its tensors distributed like x."""
    return tuple(
        distribute_tensor(argument, mesh, for_x if argument.shape == x.shape else for_bounds)
        if isinstance(argument, Tensor)
        else argument
        for argument in op.arguments_for(x)
    )


def layout(op: Op, name: str) -> dict[str, Any]:
    for_x, for_bounds = LAYOUTS[name]
    mesh = mesh_for(for_x)
    values, cotangent = sample(name)
    x = distribute_tensor(values, mesh, for_x).requires_grad_()
    g = distribute_tensor(cotangent, mesh, for_x)
    arguments = distributed(op, values, mesh, for_x, for_bounds)
    with CommDebugMode() as communication:
        y = op.function(x, *arguments)
        (gradient,) = torch.autograd.grad(y, x, g)
        (first,) = torch.autograd.grad(op.function(x, *arguments) ** 2, x, g, create_graph=True)
        (second,) = torch.autograd.grad(first, x, g)
    found: dict[str, Any] = {"y": y, "gradient": gradient, "first": first, "second": second}
    return {
        "communications": communication.get_total_counts(),
        "placements_kept": all(list(tensor.placements) == for_x for tensor in found.values()),
        **{name: tensor.full_tensor().detach() for name, tensor in found.items()},
    }


def partial(op: Op) -> dict[str, Any]:
    mesh = mesh_for([Partial()])
    rank, world = dist.get_rank(), dist.get_world_size()
    # They sum to X, but the steps of the parts do not sum to the step of X.
    part = X - 1.75 * sum(range(1, world)) if rank == 0 else torch.full_like(X, 1.75 * rank)
    part.requires_grad_()
    x = DTensor.from_local(part, mesh, [Partial()])
    y: Any = op.function(x, *distributed(op, X, mesh, [Replicate()], [Replicate()]))
    (gradient,) = torch.autograd.grad(y, part, distribute_tensor(G, mesh, y.placements))
    return {"y": y.full_tensor().detach(), "gradient": gradient}


def parameters(op: Op) -> dict[str, Any]:
    """Gradients to all tensors: those to a bound or a scale are sums over the processes."""
    mesh = mesh_for([Shard(0)])
    x = distribute_tensor(X, mesh, [Shard(0)]).requires_grad_()
    arguments = distributed(op, X, mesh, [Shard(0)], [Replicate()])
    learned = [a.requires_grad_() for a in arguments if isinstance(a, Tensor)]
    y: Any = op.function(x, *arguments)
    gradients: Any = torch.autograd.grad(y, [x, *learned], distribute_tensor(G, mesh, [Shard(0)]))
    gradient, *others = (each.full_tensor() for each in gradients)
    return {
        "y": y.full_tensor().detach(),
        "gradient": gradient,
        "parameters": others,
    }


# The size and the dimension of the blocks, which x's placement may split.
BLOCKS = [(16, -1), (16, 0), (4, 0), (-1, -1)]
IN_BLOCKS = torch.sin(torch.arange(512, dtype=torch.float64) ** 2).reshape(8, 64)


def blocks(block: int, dim: int, placement: Placement) -> dict[str, Any]:
    mesh = mesh_for([placement])
    x = distribute_tensor(IN_BLOCKS, mesh, [placement]).requires_grad_()
    y: Any = ste.fake_quantize_blocks(x, "e2m1fn", block, "floor", dim)
    (gradient,) = torch.autograd.grad(y, x, distribute_tensor(torch.ones_like(IN_BLOCKS), mesh, [placement]))
    return {"y": y.full_tensor().detach(), "gradient": gradient.full_tensor()}  # type: ignore[attr-defined]


def compiled() -> dict[str, Any]:
    """All ops in one function of DTensors, as in subjects.every_op."""
    mesh = mesh_for([Shard(0)])
    arguments = [distributed(op, X, mesh, [Shard(0)], [Replicate()]) for op in OPS]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(x: Tensor) -> Any:
        total = OPS[0].function(x, *arguments[0]) ** 2
        for op, rest in zip(OPS[1:], arguments[1:]):
            total = total + total + op.function(x, *rest) ** 2
        return total

    x = distribute_tensor(X, mesh, [Shard(0)]).requires_grad_()
    y = function(x)
    gradient: Any = torch.autograd.grad(y, x, distribute_tensor(G, mesh, [Shard(0)]))[0]
    return {"y": y.full_tensor().detach(), "gradient": gradient.full_tensor()}


class Quantized(torch.nn.Module):
    """A linear layer for each op, which quantizes its weights, with learned bounds for tensor_clamp."""

    def __init__(self) -> None:
        super().__init__()
        weights = ((torch.arange(12, dtype=torch.float64) * 5 % 12 - 6) / 2 + 0.125).reshape(3, 4)
        self.weights = torch.nn.ParameterList([weights.clone() for _ in OPS])
        self.bounds = torch.nn.ParameterList(
            [bound for op in OPS if op.name == "tensor_clamp" for bound in op.arguments_for(weights)]
        )

    def forward(self, x: Tensor) -> Tensor:
        learned = iter(self.bounds)
        y = torch.zeros(len(x), 3, dtype=x.dtype)
        for op, weight in zip(OPS, self.weights):
            arguments = (next(learned), next(learned)) if op.name == "tensor_clamp" else op.arguments_for(weight)
            y = y + torch.nn.functional.linear(x, op.function(weight, *arguments))
        return y


TARGET = (torch.arange(24, dtype=torch.float64) % 5 - 2).reshape(8, 3)


def train(model: torch.nn.Module, x: Tensor, target: Tensor) -> None:
    """Training steps with the mean over the batch; all factors are powers of two."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        loss = ((model(x) - target) ** 2).sum() / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def own_part(batch: Tensor) -> Tensor:
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def train_ddp() -> dict[str, Any]:
    model = Quantized()
    train(DistributedDataParallel(model), own_part(X), own_part(TARGET))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def train_fsdp() -> dict[str, Any]:
    model = Quantized()
    fully_shard(model, mesh=mesh_for([Shard(0)]))
    train(model, own_part(X), own_part(TARGET))
    return {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}  # type: ignore[attr-defined]


def attempt(check: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | str:
    try:
        return check(*arguments)
    except Exception:
        return traceback.format_exc()


def work(rank: int, world: int, folder: Path) -> None:
    # Before there are other threads: in a forked process, the first thread that asks for torch's pool replaces it, and
    # autograd's threads, which all ask at once, do so without a lock ("Invalid thread pool!").
    torch.set_num_threads(1)
    # torch's own warnings about what it deprecates in itself.
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    results: dict[str, dict[str, Any] | str] = {}
    for op in OPS:
        for name in LAYOUTS:
            results[f"{name}: {op}"] = attempt(layout, op, name)
        results[f"Partial(): {op}"] = attempt(partial, op)
        if op in WITH_PARAMETERS:
            results[f"parameters: {op}"] = attempt(parameters, op)
    for block, dim in BLOCKS:
        for placement in (Shard(0), Shard(1), Replicate()):
            results[f"blocks of {block} along {dim}: {placement}"] = attempt(blocks, block, dim, placement)
    results["DDP"] = attempt(train_ddp)
    results["FSDP2"] = attempt(train_fsdp)
    results["compiled"] = attempt(compiled)
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()  # no process disconnects while another still listens
    dist.destroy_process_group()


def main() -> None:
    folder, world = Path(sys.argv[1]), int(sys.argv[2])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's host name may not resolve
    # Forked, so that torch is imported only once.
    start_processes(work, (world, folder), nprocs=world, start_method="fork")


if __name__ == "__main__":
    main()
