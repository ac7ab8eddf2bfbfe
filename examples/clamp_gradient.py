"""Train ternary weights with torch's clamp and with that of ste, whose gradients at a bound differ since torch 2.14.

    python examples/clamp_gradient.py

A network of two layers classifies handwritten digits. Its weights are rounded and then clamped to -1, 0 and 1, times a
constant scale, and clipped to that range after each step, as in BinaryConnect and BNN. So most of them are at a bound.
The loss is an average over about 50 steps; the other number is the share of the weights that get no gradient, of which
a fifth belongs to pixels that are 0. The contract's page has what both versions of torch print.
"""

from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import ste

SCALE = 0.1
SHOWN = (100, 500, 1000, 2000, 4000)
LOW, HIGH = torch.tensor(-1.0), torch.tensor(1.0)
CLAMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.clamp, numbers": lambda x: torch.clamp(x, -1, 1),
    "torch.clamp, tensors": lambda x: torch.clamp(x, LOW, HIGH),
    "ste.tensor_clamp": lambda x: ste.tensor_clamp(x, LOW, HIGH),
}


class TernaryLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, clamp: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inputs, outputs)
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.clamp(ste.round_ste(self.weight / SCALE)) * SCALE, self.bias)


def train(clamp: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
    torch.manual_seed(0)
    layers = [TernaryLinear(64, 128, clamp), TernaryLinear(128, 10, clamp)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    average = 0.0
    for step in range(1, SHOWN[-1] + 1):
        index = torch.randint(len(images), (64,))
        loss = F.cross_entropy(model(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = loss.item() if step == 1 else 0.98 * average + 0.02 * loss.item()
        if step in SHOWN:
            gradients = torch.cat([layer.weight.grad.flatten() for layer in layers if layer.weight.grad is not None])
            without = (gradients == 0).float().mean().item()
            print(f"    step {step}: loss {average:.2f}, {without:.1%} of the weights without a gradient")
        with torch.no_grad():
            for layer in layers:
                layer.weight.clamp_(-SCALE, SCALE)


def main() -> None:
    torch.set_num_threads(1)  # the tensors are small
    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(pixels).float() / 16, torch.from_numpy(digits)
    print(f"torch {torch.__version__}")
    for name, clamp in CLAMPS.items():
        print(name)
        train(clamp, images[:1500], labels[:1500])


if __name__ == "__main__":
    main()
