"""Straight-through estimators for PyTorch: exact, fast, and right under every transform."""

from ste import autograd_ops, ops, ops_ste, shape
from ste._backend import Backend, __version__, backend
from ste.ops import max_int, max_uint, min_int, tensor_clamp
from ste.ops_ste import (
    binary_sign_ste,
    ceil_ste,
    floor_ste,
    round_ste,
    scalar_clamp_ste,
    tensor_clamp_ste,
    ternary_sign_ste,
)
from ste.shape import (
    over_batch_over_output_channels,
    over_batch_over_tensor,
    over_output_channels,
    over_output_features,
    over_tensor,
)

__all__ = [
    "Backend",
    "__version__",
    "autograd_ops",
    "backend",
    "binary_sign_ste",
    "ceil_ste",
    "floor_ste",
    "max_int",
    "max_uint",
    "min_int",
    "ops",
    "ops_ste",
    "over_batch_over_output_channels",
    "over_batch_over_tensor",
    "over_output_channels",
    "over_output_features",
    "over_tensor",
    "round_ste",
    "scalar_clamp_ste",
    "shape",
    "tensor_clamp",
    "tensor_clamp_ste",
    "ternary_sign_ste",
]
