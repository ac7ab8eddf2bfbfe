"""The processes of jobs/test_parallelism.py, which starts this once and compares what they save.

Usage: jobs_worker.py FOLDER. Each of two processes saves the result of each job in FOLDER, or its error.
"""

import datetime
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from quantizers import PAIRS, batch, quantized
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

import ste

WORLD = 2
STEPS = 3
RATE = 0.05


def train(model: nn.Module, parts: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The outputs of each step, for this process's part of each batch."""
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    outputs = []
    for seed in range(STEPS):
        y = model(parts(batch(seed=seed)))
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
        outputs.append(y.detach())
    return outputs


def initialized(name: str) -> Any:
    model = quantized(PAIRS[name])
    ste.nn.initialize(model, batch(seed=9))
    return model


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(x: Tensor) -> Tensor:
    return x.chunk(WORLD)[dist.get_rank()]


def data_parallel(name: str, _: DeviceMesh) -> dict[str, Any]:
    model = DistributedDataParallel(initialized(name))
    outputs = train(model, part)
    return {"outputs": outputs, "state": model.module.state_dict()}


def fully_sharded(name: str, mesh: DeviceMesh) -> dict[str, Any]:
    model = initialized(name)
    for layer in (model.first, model.second):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    outputs = train(model, part)
    return {"outputs": outputs, "state": {key: whole(value) for key, value in model.state_dict().items()}}


def distributed_tensors(name: str, mesh: DeviceMesh) -> dict[str, Any]:
    model = distribute_module(initialized(name), mesh)
    outputs = train(model, lambda x: distribute_tensor(x, mesh, [Shard(0)]))
    return {
        "outputs": [whole(y) for y in outputs],
        "state": {key: whole(value) for key, value in model.state_dict().items()},
    }


def without_first_values(name: str, _: DeviceMesh) -> dict[str, Any]:
    """Each process would take its own first values."""
    try:
        DistributedDataParallel(quantized(PAIRS[name]))(part(batch()))
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": ""}


JOBS = {
    "DistributedDataParallel": data_parallel,
    "fully_shard": fully_sharded,
    "DTensor": distributed_tensors,
    "first values": without_first_values,
}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(folder / "store"), WORLD),  # type: ignore[attr-defined]  # defined in C++
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=60),
    )
    mesh = init_device_mesh("cpu", (WORLD,))
    found: dict[str, Any] = {}
    for job, function in JOBS.items():
        for name in PAIRS:
            try:
                found[f"{job}: {name}"] = function(name, mesh)
            except Exception:  # of any kind: the job's test shows it
                found[f"{job}: {name}"] = traceback.format_exc()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    start_processes(work, (Path(sys.argv[1]),), WORLD, start_method="fork")


if __name__ == "__main__":
    main()
