"""Train a small transformer, character by character, with 4-bit weights and activations.

    python examples/characters.py

The text is the reference that Python's `help` prints, which every Python installation has (pydoc_data.topics). The same
network is trained in full precision, with 4-bit weights that share a scale in groups of 32, and with weights and
activations in MXFP4 and in NVFP4. As usual, the embedding and the last layer are not quantized.
"""

import argparse
import math
import sys
import time
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ste
from ste.nn import BlockQuantizer

CONTEXT = 64  # characters


class Configuration(NamedTuple):
    weight: nn.Module | None = None
    activation: nn.Module | None = None


FULL = "full precision"
CONFIGURATIONS = {
    FULL: Configuration(),
    "int4 weights, in groups of 32": Configuration(BlockQuantizer("int4_32")),
    "mxfp4 weights and activations": Configuration(BlockQuantizer("mxfp4"), BlockQuantizer("mxfp4")),
    "nvfp4 weights and activations": Configuration(BlockQuantizer("nvfp4"), BlockQuantizer("nvfp4")),
}


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + y


class Transformer(nn.Module):
    """The logits of the next character, at each position of a line."""

    def __init__(self, characters: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(torch.randn(CONTEXT, width) / 10)
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, characters: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.blocks(self.embedding(characters) + self.position)))
        return y


def bits(model: nn.Module, lines: Tensor) -> Tensor:
    """The mean over characters."""
    return F.cross_entropy(model(lines[:, :-1]).flatten(0, 1), lines[:, 1:].flatten()) / math.log(2)


def train(configuration: Configuration, text: Tensor, characters: int, steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = Transformer(characters)
    if configuration.weight is not None:
        in_blocks = {f"blocks.{name}" for name, layer in model.blocks.named_modules() if isinstance(layer, nn.Linear)}
        ste.nn.quantize(model, *configuration, where=lambda name, _: name in in_blocks, verbose=False)
    optimizer = torch.optim.AdamW(model.parameters(), 0.004)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, steps)
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (16, 1))
        loss = bits(model, text[starts + torch.arange(CONTEXT + 1)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a transformer on Python's own reference, in 4 bits.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--check", action="store_true", help="fail if the results do not support the claims")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # a network this small gains little from a second one
    text = "\n".join(topics[name] for name in sorted(topics))
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    coded = torch.tensor([number[character] for character in text])
    split = len(coded) * 9 // 10
    test = coded[split:]
    lines = test[: len(test) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    start, found = time.perf_counter(), {}
    for name, configuration in CONFIGURATIONS.items():
        model = train(configuration, coded[:split], len(characters), arguments.steps)
        with torch.no_grad():
            found[name] = torch.stack([bits(model, part) for part in lines.split(64)[:8]]).mean().item()
        print(f"{name:32} {found[name]:6.3f} bits per character", flush=True)
    print(f"On text that no network was trained on; {time.perf_counter() - start:.0f} seconds.")
    if arguments.check and max(found.values()) > found[FULL] + 0.25:
        print("The claim does not hold: all within a quarter of a bit of full precision.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
