"""What quantizers with a scale share: where the scale comes from."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ste.ops_ste import scalar_clamp_ste
from ste.quantization import lsq_grad_scale

__all__ = ["FLOOR", "SCALES", "Placement", "ScaledQuantizer"]

# The smallest scale. Zeros alone would have a scale of 0, and 0 / 0 is NaN, from which no parameter recovers.
FLOOR = 2.0**-40

SCALES = ("learned", "absmax", "ema", "percentile")

Placement = dict[str, Any]  # device and dtype, as torch.full takes them


def is_recomputed() -> bool:
    """Whether this is the second forward of a checkpoint, within a backward, which must repeat the first."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


# These two branch on a shape, which torch.fx does not know: its tracer records each as one operation.


@torch.fx.wrap
def largest_of(rows: Tensor, percentile: float) -> Tensor:
    """The largest number of each row, or the one at a percentile; 0 for an empty row."""
    count = rows.shape[1]
    if count == 0:
        return rows.new_zeros(rows.shape[0], dtype=torch.promote_types(rows.dtype, torch.float32))
    if percentile == 100:
        largest = rows.amax(1)
    else:
        largest = rows.kthvalue(max(1, math.ceil(count * percentile / 100)), 1).values
    return largest.to(torch.promote_types(rows.dtype, torch.float32))  # float16 holds no small scale


@torch.fx.wrap
def move_towards(average: Tensor, found: Tensor, momentum: float, x: Tensor) -> None:
    """Moves an average towards what was found in a batch, unless the batch is empty."""
    if x.numel() > 0:
        with torch.no_grad():
            average.lerp_(found.to(average.dtype), momentum)


class ScaledQuantizer(nn.Module):
    """A quantizer to a grid times a scale, which is learned, or computed from what is observed of x.

    Its parameters and buffers are NaN until they have first values: from the first batch in training, or by
    :meth:`initialize`.
    """

    scale: nn.Parameter
    observed: Tensor

    def __init__(
        self,
        largest: float,
        scale: str,
        axis: int | None,
        channels: int,
        momentum: float,
        percentile: float,
        placement: Placement,
        ends: int = 1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if scale not in SCALES:
            raise ValueError(f"{name}: scale must be one of {', '.join(SCALES)}, got {scale}")
        if channels < 1 or (channels > 1 and axis is None):
            raise ValueError(f"{name}: channels must be at least 1, and 1 where axis is None, got {channels}")
        if not 0 < momentum <= 1:
            raise ValueError(f"{name}: momentum must be more than 0 and at most 1, got {momentum}")
        if not 0 < percentile <= 100:
            raise ValueError(f"{name}: percentile must be more than 0 and at most 100, got {percentile}")
        self.largest = largest
        self.scale_kind = scale
        self.axis = axis
        self.momentum = momentum
        self.percentile = percentile
        if scale == "learned":
            self.scale = nn.Parameter(torch.full((channels,), math.nan, **placement))
        elif scale != "absmax":
            self.register_buffer(
                "observed", torch.full((channels,) if ends == 1 else (ends, channels), math.nan, **placement)
            )
        self.is_initialized = scale == "absmax"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget what was learned and observed, as after :meth:`torch.nn.Module.to_empty`."""
        for tensor in self._kept():
            tensor.fill_(math.nan)
        self.is_initialized = not self._kept()

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Take the first values from x, whatever they were before."""
        if self.scale_kind == "learned":
            self.scale.copy_(self._first_scale(x).clamp(min=FLOOR))
        elif self.scale_kind != "absmax":
            self.observed.copy_(self._observe(x))
        self.is_initialized = not (x.is_meta and self._kept())

    def resize(self, channels: int) -> None:
        """Change the number of channels, and forget what was learned and observed."""
        for kept in self._kept():
            kept.data = kept.new_full((*kept.shape[:-1], channels), math.nan)
        self.is_initialized = not self._kept()

    def _kept(self) -> list[Tensor]:
        return [*self.parameters(recurse=False), *self.buffers(recurse=False)]

    def _rows(self, x: Tensor) -> Tensor:
        """x, with a row for each scale."""
        x = x.detach()
        return x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1)

    def _first_scale(self, x: Tensor) -> Tensor:
        """As in LSQ, which at few bits gives up the largest values for the many small ones."""
        rows = self._rows(x).abs()
        return 2 * rows.mean(1, dtype=torch.promote_types(rows.dtype, torch.float32)) / math.sqrt(self.largest)

    def _highest(self, rows: Tensor) -> Tensor:
        return largest_of(rows, self.percentile if self.scale_kind == "percentile" else 100.0)

    def _observe(self, x: Tensor) -> Tensor:
        """What the scale is computed from, for one batch: the largest magnitudes."""
        return self._highest(self._rows(x).abs())

    def _follow(self, x: Tensor) -> Tensor:
        """What the scale is computed from now. In training, x is observed."""
        if not self.is_initialized:
            self._need_first_values(x)
        if self.scale_kind == "absmax":
            return self._observe(x)
        if self.training and not is_recomputed():
            move_towards(self.observed, self._observe(x), self.momentum, x)
        return self.observed

    def _scale(self, x: Tensor) -> Tensor:
        """One for each channel, all positive."""
        if self.scale_kind == "learned":
            if not self.is_initialized:
                self._need_first_values(x)
            # Straight through the floor, so that a scale that falls below it can rise again.
            return scalar_clamp_ste(self.scale, FLOOR, math.inf)
        return (self._follow(x) / self.largest).clamp(min=FLOOR)

    def _grad_scale(self, x: Tensor) -> float:
        # torch does not export this function to type checkers, nor annotate it.
        if self.scale_kind != "learned" or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return 1.0  # a trace has no gradient, and its sizes are tensors
        return lsq_grad_scale(x, self.scale, math.ceil(self.largest))

    def _need_first_values(self, x: Tensor) -> None:
        name = type(self).__name__
        if not self.training:
            raise RuntimeError(f"{name}: it has no first values yet: train it with a batch, or call ste.nn.initialize")
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise RuntimeError(
                f"{name}: each process would take its first values from its own batch: call ste.nn.initialize before "
                "the model is given to DistributedDataParallel or fully_shard"
            )
        self.initialize(x)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        kept = self._kept()
        if not any(tensor.is_meta for tensor in kept):
            self.is_initialized = not any(bool(tensor.isnan().any()) for tensor in kept)

    def right_inverse(self, x: Tensor) -> Tensor:
        """The value that a parametrized weight is set to is the one that is quantized from then on."""
        return x

    def extra_repr(self) -> str:
        parts = [f"scale={self.scale_kind!r}"]
        if self.axis is not None:
            parts.append(f"axis={self.axis}")
        if self.scale_kind in ("ema", "percentile"):
            parts.append(f"momentum={self.momentum}")
        if self.scale_kind == "percentile":
            parts.append(f"percentile={self.percentile}")
        return ", ".join(parts)
