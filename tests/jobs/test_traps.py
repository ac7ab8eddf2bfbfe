"""Each trap has a cure, and a job that fails without it."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from jobs import test_deployment, test_state, test_training
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ste
from ste.nn import _integer, _scaled, _signs
from ste.nn._scaled import ScaledQuantizer

LSQ = "LSQ, 4 bits per channel"
OBSERVED = "int8, absmax and EMA"

Patch = Callable[[pytest.MonkeyPatch], None]


def without_a_floor(patch: pytest.MonkeyPatch) -> None:
    for module in (_integer, _scaled, _signs):
        patch.setattr(module, "FLOOR", 0.0)


def floor_by_clamp(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_scaled, "scalar_clamp_ste", torch.clamp)


def factor_of_the_first_batch(patch: pytest.MonkeyPatch) -> None:
    def factor(self: ScaledQuantizer, x: Tensor) -> float:
        return float(f"{x.shape[0]}") / self.largest

    patch.setattr(ScaledQuantizer, "_grad_scale", factor)


def the_buffer_is_the_scale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ScaledQuantizer, "_scale", ScaledQuantizer._follow)


def recomputed_batches_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_scaled, "is_recomputed", lambda: False)


def observed_in_evaluation(patch: pytest.MonkeyPatch) -> None:
    follow = ScaledQuantizer._follow

    def follow_always(self: ScaledQuantizer, x: Tensor) -> Tensor:
        training, self.training = self.training, True
        try:
            return follow(self, x)
        finally:
            self.training = training

    patch.setattr(ScaledQuantizer, "_follow", follow_always)


def first_values_are_not_in_the_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ScaledQuantizer, "_load_from_state_dict", nn.Module._load_from_state_dict)


def memory_counts_as_first_values(patch: pytest.MonkeyPatch) -> None:
    initialize = ScaledQuantizer.initialize

    def initialize_anything(self: ScaledQuantizer, x: Tensor) -> None:
        initialize(self, x)
        self.is_initialized = True

    patch.setattr(ScaledQuantizer, "initialize", initialize_anything)


TRAPS: dict[str, tuple[Patch, Callable[[], object]]] = {
    "NaN of weights that are all 0": (without_a_floor, lambda: test_training.test_zeros(OBSERVED)),
    "a scale below its floor stays there": (floor_by_clamp, lambda: test_training.test_a_scale_rises()),
    "a graph for each size of a batch": (factor_of_the_first_batch, lambda: test_training.test_compiled(LSQ)),
    "one size of a batch is exported": (factor_of_the_first_batch, lambda: test_deployment.test_export(LSQ)),
    "an observer writes to what a backward needs": (
        the_buffer_is_the_scale,
        lambda: test_training.test_two_calls(OBSERVED),
    ),
    "a checkpoint counts a batch twice": (
        recomputed_batches_count,
        lambda: test_training.test_checkpoint(OBSERVED, False),
    ),
    "evaluation changes the state": (observed_in_evaluation, lambda: test_state.test_evaluation(OBSERVED)),
    "a model that is loaded knows no first values": (
        first_values_are_not_in_the_state,
        lambda: test_state.test_state_dict(OBSERVED),
    ),
    "what lies in memory counts as first values": (
        memory_counts_as_first_values,
        lambda: test_training.test_no_memory_is_taken_for_values(LSQ),
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_job_fails_without_the_cure(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out, job = TRAPS[trap]
    job()
    torch._dynamo.reset()
    take_out(monkeypatch)
    with pytest.raises((Exception, pytest.fail.Exception)):  # each fails in its own way
        job()


def test_a_scale_without_dimensions_is_refused_by_fully_shard() -> None:
    # HashStore is defined in C++.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(ste.nn.IntegerQuantizer(4), mesh=mesh)
        quantizer = ste.nn.IntegerQuantizer(4)
        quantizer.scale = nn.Parameter(quantizer.scale.detach()[0])
        with pytest.raises(ValueError, match="scalar"):
            fully_shard(quantizer, mesh=mesh)
    finally:
        dist.destroy_process_group()
