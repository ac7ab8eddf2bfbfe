"""Stochastic rounding, straight through."""

import torch

import ste  # loads the library on which the op is built

if ste.backend().name != "native":
    raise ImportError(f"stochastic_ops needs the native backend of ste: {ste.backend().reason}")

from stochastic_ops import _C  # noqa: F401  (registers the op)

stochastic_round = torch.ops.stochastic_ops.stochastic_round
