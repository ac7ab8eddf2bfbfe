"""What the ops to a grid and back are compared with."""

import sys
from pathlib import Path
from typing import Any

import torch
from bench_calls import Call, number
from subjects import IDIOM  # one of the tests, which bench_calls finds
from torch import Tensor

import ste

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "extensions"))

# What the guides compare values with. The libraries are imported when they are called.
import differences


def learnable(x: Tensor, scale: Tensor) -> Call:
    """Torch's own op, per tensor or along the second dimension."""
    op: Any = torch._fake_quantize_learnable_per_channel_affine
    axis: tuple[int, ...] = (1,)
    if scale.dim() == 0:
        op, axis = torch._fake_quantize_learnable_per_tensor_affine, ()
    flat = scale.detach().flatten().requires_grad_()
    return Call(op, (x, flat, torch.zeros_like(flat), *axis, -8, 7, 1.0), inputs=2)


def float_formats(x: Tensor, ours: str, *, peers: bool) -> dict[str, Call]:
    """To 8 bits: of a format, and of integers."""
    arguments = (x, number(x, 0.05))
    composition = IDIOM["fake_quantize_float"]
    of_peers = {"torchao": differences.fp8_of_torchao, "Brevitas": differences.fp8_of_brevitas} if peers else {}
    return {
        "clone": Call(torch.clone, (x,)),
        ours: Call(ste.fake_quantize_float, (*arguments, "e4m3fn"), inputs=2),
        "fake_quantize": Call(ste.fake_quantize, arguments, inputs=2),
        "composition": Call(composition, (*arguments, "e4m3fn"), inputs=2),
        "torch.compile": Call(torch.compile(composition), (*arguments, "e4m3fn"), inputs=2),
        **{name: Call(make()[0].run, (x,)) for name, make in of_peers.items()},
    }


def block_formats(recipe: str, x: Tensor, ours: str, *, peers: bool) -> dict[str, Call]:
    """With a scale for each block, computed from it."""
    x = x.reshape(-1, 128)
    of_peers = {}
    if peers and recipe == "mxfp4":
        calls = {"torchao": differences.mxfp4_of_torchao(), "Brevitas": differences.mxfp4_of_brevitas()}
        of_peers = {name: Call(found[0].run, (x,)) for name, found in calls.items()}
    elif peers:
        of_peers["torchao"] = Call(differences.int4_of_torchao()[0].run, (x,))
        of_peers["Brevitas"] = Call(differences.int4_layer_of_brevitas(x).quant_weight, ())
    arguments = (x, *ste.BLOCK_RECIPES[recipe])
    composition = IDIOM["fake_quantize_blocks"] if recipe.startswith("mx") else in_groups
    return {
        "clone": Call(torch.clone, (x,)),
        ours: Call(ste.fake_quantize_blocks, arguments),
        "composition": Call(composition, arguments),
        "torch.compile": Call(torch.compile(composition), arguments),
        **of_peers,
    }


def in_groups(x: Tensor, grid: str, block: int, rule: str) -> Tensor:
    """4-bit integers with the rule absmax, as people write it."""
    groups = x.reshape(-1, block)
    scale = groups.detach().abs().amax(-1, keepdim=True) / 7
    scaled = groups / scale
    q = scaled + (scaled.round() - scaled).detach()
    return (q.clamp(-7, 7) * scale).reshape(x.shape)
