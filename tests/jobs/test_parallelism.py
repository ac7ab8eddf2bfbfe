"""Two processes."""

import fcntl
import os
from typing import Any

import processes
import pytest
import torch
from jobs_worker import RATE, STEPS, initialized, train
from quantizers import PAIRS, batch
from torch import Tensor

row = pytest.mark.row
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


@pytest.fixture
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process saved. The first test that asks starts them, once."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "jobs"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = folder / "log"
        if not log.exists():
            log.touch()
            start = "import jobs_worker; jobs_worker.main()"
            log.write_text(processes.run(start, folder, backend=os.environ.get("STE_BACKEND")))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def found(results: list[dict[str, Any]], job: str, name: str) -> list[dict[str, Any]]:
    of_job = [saved[f"{job}: {name}"] for saved in results]
    for result in of_job:
        if isinstance(result, str):
            raise RuntimeError(result)
    return of_job


def assert_close(one: Tensor, other: Tensor, name: str) -> None:
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-5), name


@row("`{job}`: what each process gives of its part, and the mean of their gradients || {name}")
@EVERY_PAIR
@pytest.mark.parametrize("job", ["DistributedDataParallel", "fully_shard"])
def test_parts(job: str, name: str, results: list[dict[str, Any]]) -> None:
    models = [initialized(name) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), RATE) for model in models]
    of_processes = found(results, job, name)
    for step in range(STEPS):
        if job == "DistributedDataParallel":  # which broadcasts the buffers of the first process
            for mine, theirs in zip(models[0].buffers(), models[1].buffers()):
                theirs.copy_(mine)
        for model, x, result in zip(models, batch(seed=step).chunk(2), of_processes):
            model.zero_grad()
            y = model(x)
            y.square().mean().backward()
            assert_close(result["outputs"][step], y, name)
        for parameters in zip(*(model.parameters() for model in models)):
            mean = sum(parameter.grad for parameter in parameters) / 2
            for parameter in parameters:
                parameter.grad = mean.clone()
        for optimizer in optimizers:
            optimizer.step()
    for model, result in zip(models, of_processes):
        for key, value in model.state_dict().items():
            assert_close(result["state"][key], value, key)


@row("`DTensor`, batches in parts: the values of one process || {name}")
@EVERY_PAIR
def test_dtensor(name: str, results: list[dict[str, Any]]) -> None:
    model = initialized(name)
    outputs = train(model, lambda x: x)
    for result in found(results, "DTensor", name):
        for mine, theirs in zip(result["outputs"], outputs):
            assert_close(mine, theirs, name)
        for key, value in model.state_dict().items():
            assert_close(result["state"][key], value, key)


@row("first values that each process would take from its own batch are refused, with the cure || {name}")
@EVERY_PAIR
def test_first_values(name: str, results: list[dict[str, Any]]) -> None:
    keeps = name in ("LSQ, 4 bits per channel", "LSQ+, 4 bits", "int8, absmax and EMA", "int8, percentile, asymmetric")
    for result in found(results, "first values", name):
        expected = "call ste.nn.initialize before" if keeps or name == "e4m3" else ""
        assert (expected in result["error"]) if expected else result["error"] == ""
