"""Train a quantized network on handwritten digits, with the straight-through estimator and once without it.

    python examples/digits.py

The data are the 1,797 images of 8 x 8 pixels that scikit-learn ships. The same small convolutional network, from the
same initial weights and over the same batches, is trained at full precision, with integer weights and activations of 8,
4 and 2 bits, with 4 bits and learned scales, with ternary and with binary weights, with binary weights and activations,
and once more with 4 bits but with ``torch.round`` instead of ``ste.round_ste``. Every convolutional and linear layer is
quantized, including the first and the last.

It prints a table, draws a figure, and writes the numbers of both to a JSON file beside the figure. They are the same in
every run on a machine, with any number of cores: each network is trained on one thread, with one process per core.
(With the other backend a learned scale is not the same to the bit, because its gradient is summed in another order.)
The accuracy is that after the last epoch, over all images, each classified by a network that was trained without its
quarter of the data. (The number of epochs and the learning rates were chosen by looking at these accuracies.)
"""

if __name__ == "__main__":
    print("Importing torch and scikit-learn ...", flush=True)  # takes seconds if the cores are busy

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import ticker
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import ste

Quantizer = Callable[[Tensor], Tensor]

# The smallest scale. Weights that are all zero would get a scale of 0, and 0 / 0 is NaN, from which no weight recovers.
FLOOR = 1e-6

# Quantizers. Every scale comes from a detached tensor, so that the only path from the loss to a weight goes through the
# estimator. A gradient through the scale would move the weights even if rounding passes none, and hide what the
# estimator does.


def mean_magnitude(weight: Tensor) -> Tensor:
    """Mean absolute value in each output channel, as a constant, in a shape that broadcasts to the weight's."""
    rows = weight.detach().abs().view(ste.over_output_channels(weight))
    return rows.mean(1).clamp(min=FLOOR).view(-1, *[1] * (weight.dim() - 1))


def integer(x: Tensor, mean: Tensor | float, low: Tensor, high: Tensor, rounding: Quantizer) -> Tensor:
    """Nearest integer multiple of a scale, from low to high; the gradient is 1.

    LSQ (arXiv:1902.08153) starts with this scale: with few bits it sacrifices the largest values for the many small
    ones.
    """
    scale = 2 * mean / high.sqrt()
    return ste.tensor_clamp_ste(rounding(x / scale), low, high) * scale


def integer_weight(weight: Tensor, bits: int, rounding: Quantizer = ste.round_ste) -> Tensor:
    """Signed integers, with one scale per output channel."""
    return integer(weight, mean_magnitude(weight), ste.min_int(True, False, bits), ste.max_int(True, bits), rounding)


def integer_activation(x: Tensor, bits: int, rounding: Quantizer = ste.round_ste) -> Tensor:
    """Unsigned integers for the output of a ReLU after batch normalization, with a constant scale.

    The positive part of a standard normal variable has mean 1 / sqrt(2 pi); the learned gain of batch normalization
    does the rest.
    """
    mean = 1 / math.sqrt(2 * math.pi)
    return integer(F.relu(x), mean, ste.min_int(False, False, bits), ste.max_int(False, bits), rounding)


def ternary_weight(weight: Tensor) -> Tensor:
    """-1, 0 or 1 times a scale per output channel, which is the gradient: TWN (arXiv:1605.04711)."""
    sign = ste.ternary_sign_ste(weight, threshold=0.7 * mean_magnitude(weight))
    # The mean magnitude of the weights that are not 0.
    return sign * (mean_magnitude(sign * weight) / mean_magnitude(sign))


def binary_weight(weight: Tensor) -> Tensor:
    """-1 or 1 times a scale per output channel, which is the gradient: XNOR-Net's weights (arXiv:1603.05279)."""
    return ste.binary_sign_ste(weight, low=-1.0) * mean_magnitude(weight)


def clipped_binary_weight(weight: Tensor) -> Tensor:
    """The same, with a gradient of 0 where the magnitude exceeds 1, as in binarized networks."""
    return ste.binary_sign_ste(weight, low=-1.0, surrogate="clipped") * mean_magnitude(weight)


def binary_activation(x: Tensor) -> Tensor:
    """-1 or 1 instead of a ReLU, with a gradient where x is within 1 of 0 (arXiv:1602.02830)."""
    return ste.binary_sign_ste(x, low=-1.0, surrogate="clipped")


def full_precision(x: Tensor) -> Tensor:
    return x


class LearnedScale(nn.Module):
    """Integers with the given number of bits times a scale that is a parameter, as in LSQ (arXiv:1902.08153)."""

    def __init__(self, mean: Tensor, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.low, self.high = int(low), int(high)
        self.scale = nn.Parameter(2 * mean / self.high**0.5)  # the fixed scales have the same value

    def forward(self, x: Tensor) -> Tensor:
        # Straight through the minimum, so that a scale that falls below it can rise again.
        scale = ste.scalar_clamp_ste(self.scale, FLOOR, math.inf)
        factor = ste.lsq_grad_scale(x, scale, self.high)
        return ste.fake_quantize(x, scale, None, self.low, self.high, factor, inside="scaled")


def learned_weight(weight: Tensor, bits: int) -> LearnedScale:
    return LearnedScale(mean_magnitude(weight), ste.min_int(True, False, bits), ste.max_int(True, bits))


def learned_activation(bits: int) -> nn.Sequential:
    mean = torch.tensor([1 / math.sqrt(2 * math.pi)])  # one dimension: fully_shard refuses parameters without one
    return nn.Sequential(nn.ReLU(), LearnedScale(mean, ste.min_int(False, False, bits), ste.max_int(False, bits)))


@dataclass(frozen=True)
class Configuration:
    """How one network is quantized, and how many bits store its values.

    The function that creates the quantizer of a weight gets the weight, which is not trained at that time.
    """

    name: str
    weight_bits: int
    activation_bits: int
    weight_quantizer: Callable[[Tensor], Quantizer]
    activation: Callable[[], Quantizer] = nn.ReLU


def integers(name: str, bits: int, rounding: Quantizer = ste.round_ste) -> Configuration:
    weight = partial(integer_weight, bits=bits, rounding=rounding)
    activation = partial(integer_activation, bits=bits, rounding=rounding)
    return Configuration(name, bits, bits, lambda _: weight, lambda: activation)


FULL = Configuration("full precision", 32, 32, lambda _: full_precision)
EIGHT = integers("8 bits", 8)
FOUR = integers("4 bits", 4)
LEARNED = Configuration("4 bits, learned", 4, 4, partial(learned_weight, bits=4), partial(learned_activation, bits=4))
TWO = integers("2 bits", 2)
TERNARY = Configuration("ternary weights", 2, 32, lambda _: ternary_weight)
BINARY = Configuration("binary weights", 1, 32, lambda _: binary_weight)
BOTH = Configuration("binary, both", 1, 1, lambda _: clipped_binary_weight, lambda: binary_activation)
WITHOUT = integers("4 bits, torch.round", 4, torch.round)
CONFIGURATIONS = [FULL, EIGHT, FOUR, LEARNED, TWO, TERNARY, BINARY, BOTH, WITHOUT]


# The network. Its parameters are floats, and are quantized whenever they are used.


class QuantConv2d(nn.Conv2d):
    def __init__(self, in_channels: int, out_channels: int, stride: int, c: Configuration) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.quantize = c.weight_quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.quantize(self.weight), None, self.stride, self.padding)


class QuantLinear(nn.Linear):
    def __init__(self, in_features: int, out_features: int, c: Configuration) -> None:
        super().__init__(in_features, out_features)
        self.quantize = c.weight_quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantize(self.weight), self.bias)


class Activation(nn.Module):
    def __init__(self, c: Configuration) -> None:
        super().__init__()
        self.function = c.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def build(c: Configuration) -> nn.Sequential:
    """A network for images (N, 1, 8, 8), which are not quantized: their pixels already are integers from 0 to 16."""

    def block(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        return [QuantConv2d(in_channels, out_channels, stride, c), nn.BatchNorm2d(out_channels), Activation(c)]

    blocks = [*block(1, 32, stride=1), *block(32, 32, stride=2), *block(32, 64, stride=2)]
    return nn.Sequential(*blocks, nn.Flatten(), QuantLinear(64 * 2 * 2, 10, c))


# Training.


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) in [0, 1], and their labels (N,)."""

    images: Tensor
    labels: Tensor


def quarters(seed: int) -> Iterator[tuple[Digits, Digits]]:
    """Four splits into three quarters to train on and one to test on, each with the same share of each digit."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    for parts in StratifiedKFold(4, shuffle=True, random_state=seed).split(images, labels):
        training, test = (Digits(torch.from_numpy(images[part]), torch.from_numpy(labels[part])) for part in parts)
        yield training, test


def batches(digits: Digits, generator: torch.Generator, size: int = 64) -> Iterator[Digits]:
    """All images once, in random order, each moved by up to one pixel."""
    padded = F.pad(digits.images, (1, 1, 1, 1))
    moved = torch.stack([padded[..., top : top + 8, left : left + 8] for top in range(3) for left in range(3)])
    for index in torch.randperm(len(padded), generator=generator).split(size):
        yield Digits(moved[torch.randint(9, index.shape, generator=generator), index], digits.labels[index])


@dataclass(frozen=True)
class Trained:
    """One network."""

    losses: list[float]  # mean of each epoch
    right: int  # of the test images
    loss: float  # of the test images, the sum
    moved: float  # |trained - initial| / |initial|, over all quantized weights
    size: float  # of the quantized weights and their scales, in KiB


def train(c: Configuration, training: Digits, test: Digits, epochs: int, seed: int) -> Trained:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = build(c)
    weights = [module.weight for module in net if isinstance(module, (QuantConv2d, QuantLinear))]
    initial = torch.cat([weight.detach().flatten() for weight in weights])
    # No weight decay: it would move weights whose gradient is zero. Scales are small, and Adam's steps are as large as
    # its learning rate whatever the gradient, so theirs is a tenth.
    scales = [module.scale for module in net.modules() if isinstance(module, LearnedScale)]
    others = [parameter for parameter in net.parameters() if all(parameter is not scale for scale in scales)]
    groups = [{"params": others, "lr": 0.007}, {"params": scales, "lr": 0.0007}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for images, labels in batches(training, generator):
            loss = F.cross_entropy(net(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        schedule.step()
        losses.append(total / len(training.labels))
    net.eval()
    with torch.no_grad():
        outputs = net(test.images)
        right = int((outputs.argmax(1) == test.labels).sum())
        test_loss = F.cross_entropy(outputs, test.labels, label_smoothing=0.1, reduction="sum").item()
    moved = torch.cat([weight.detach().flatten() for weight in weights]) - initial
    # One scale per output channel, in float32; full precision has none.
    count = 0 if c is FULL else sum(len(weight) for weight in weights)
    size = (c.weight_bits * len(initial) + 32 * count) / 8 / 1024
    return Trained(losses, right, test_loss, (moved.norm() / initial.norm()).item(), size)


@dataclass(frozen=True)
class Result:
    """The four networks of a configuration together: means, and the accuracy and the loss over all images."""

    configuration: Configuration
    losses: list[float]
    accuracy: float
    loss: float
    moved: float
    size: float


def take_one_core() -> None:
    """Set up each process."""
    torch.use_deterministic_algorithms(True)
    # The order of sums, and with it the table, depends on the number of threads. A network this small gains 10% from a
    # second thread, and waits for it if the cores are busy: one that takes 4 seconds alone then took 96.
    torch.set_num_threads(1)


def train_in_process(name: str, quarter: int, epochs: int, seed: int) -> Trained:
    """Train one network. The argument is the name of its configuration, because lambdas cannot be sent to a process."""
    c = next(c for c in CONFIGURATIONS if c.name == name)
    training, test = list(quarters(seed))[quarter]
    return train(c, training, test, epochs, seed)


def train_all(epochs: int, seed: int, workers: int) -> list[Result]:
    """Train all networks in parallel."""
    # Read by OpenMP and BLAS when they are loaded, before take_one_core runs.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    counts = [len(test.labels) for _, test in quarters(seed)]
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, spawn, take_one_core) as pool:
        futures = {
            pool.submit(train_in_process, c.name, quarter, epochs, seed): (c, quarter)
            for c in CONFIGURATIONS
            for quarter in range(len(counts))
        }
        # If the output is not a terminal, every update of a progress bar adds a line to the log.
        interval = 0.1 if sys.stderr.isatty() else 10
        trained = {}
        for future in tqdm(as_completed(futures), "networks", len(futures), mininterval=interval):
            trained[futures[future]] = future.result()
    results = []
    for c in CONFIGURATIONS:
        nets = [trained[c, quarter] for quarter in range(len(counts))]
        results.append(
            Result(
                c,
                [statistics.mean(losses) for losses in zip(*(net.losses for net in nets))],
                sum(net.right for net in nets) / sum(counts),
                sum(net.loss for net in nets) / sum(counts),
                statistics.mean(net.moved for net in nets),
                nets[0].size,
            )
        )
    return results


# The report.


COLUMNS = [
    ("", "", 20),
    ("bits of", "weights", 8),
    ("bits of", "activations", 12),
    ("test", "accuracy", 9),
    ("test", "loss", 7),
    ("weights", "moved", 8),
    ("size of", "weights", 11),
]


def print_table(results: list[Result]) -> None:
    print()
    print(" ".join(first.rjust(width) for first, _, width in COLUMNS).rstrip())
    print(" ".join(second.rjust(width) for _, second, width in COLUMNS))
    for r in results:
        c = r.configuration
        row = f"{c.name:20} {c.weight_bits:8} {c.activation_bits:12} {r.accuracy:9.2%} {r.loss:7.3f} {r.moved:8.1%}"
        print(f"{row} {r.size:7.1f} KiB")
    print("\nThe weights are those of the convolutions and the linear layer. Moved: |trained - initial| / |initial|.")
    print("Size: includes a 32-bit scale per output channel; a ternary weight takes 2 bits.")
    print("Accuracy: over all images, each classified by a network that was trained without its quarter of the data.")
    print("With torch.round, only the bias of the last layer has a nonzero gradient.\n")


def draw(results: list[Result], path: Path) -> None:
    # Okabe and Ito's palette, which color-blind people can tell apart.
    palette = ["#000000", "#0072B2", "#56B4E9", "#999999", "#009E73", "#CC79A7", "#E69F00", "#8C510A", "#D55E00"]
    colors = dict(zip(CONFIGURATIONS, palette))
    # From the fewest bits to the most; those with 4 bits are together.
    places = {BOTH: 0, BINARY: 1, TERNARY: 2, TWO: 3, FOUR: 3.8, LEARNED: 4.2, WITHOUT: 4, EIGHT: 5, FULL: 6}
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for r in results:
        c, color = r.configuration, colors[r.configuration]
        dashes, marker = ("--", "X") if c is WITHOUT else ("-", "o")
        left.plot(range(1, len(r.losses) + 1), r.losses, dashes, color=color, linewidth=2, label=c.name)
        point = places[c], min(r.accuracy, 0.9985)  # the scale ends before 100 %
        right.plot(*point, marker, color=color, markersize=11)
        text = f"torch.round: {r.accuracy:.1%},\nweights moved {r.moved:.0%}" if c is WITHOUT else f"{r.accuracy:.1%}"
        # One label goes below its point, because another is beside it.
        right.annotate(text, point, (0, -19 if c is FOUR else 10), textcoords="offset points", ha="center")
        if c is FULL:
            right.hlines(r.accuracy - 0.01, 3.4, 6.4, color="gray", linestyle=":")
            right.annotate("1 point below full precision", (6.4, r.accuracy - 0.01), (0, -6),
                textcoords="offset points", ha="right", va="top", color="dimgray", fontsize=9)  # fmt: skip
    left.set(title="Training loss", xlabel="epoch", ylabel="cross entropy, labels smoothed by 0.1", yscale="log")
    left.set_yticks(losses := [0.5, 0.6, 0.8, 1, 1.5, 2, 2.5], [f"{loss:g}" for loss in losses])
    left.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9))
    right.set(title="Test accuracy", xlabel="bits of a weight / of an activation", yscale="logit")
    right.set(xlim=(-0.5, 6.5), ylim=(0.04, 0.9993))
    names = ["1 / 1\nbinary", "1 / 32\nbinary", "2 / 32\nternary", "2 / 2", "4 / 4", "8 / 8", "32 / 32"]
    right.set_xticks(range(len(names)), names)
    ticks = {0.1: "chance 10%", 0.5: "50%", 0.9: "90%", 0.95: "95%", 0.98: "98%", 0.99: "99%", 0.995: "99.5%"}
    right.set_yticks(list(ticks), list(ticks.values()))
    for axes in (left, right):
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def write(results: list[Result], path: Path) -> None:
    """Write the numbers, from which the plots of the documentation's front page are drawn."""
    networks = [
        {
            "name": r.configuration.name,
            "weight_bits": r.configuration.weight_bits,
            "activation_bits": r.configuration.activation_bits,
            "losses": [round(loss, 4) for loss in r.losses],
            "accuracy": round(r.accuracy, 4),
            "moved": round(r.moved, 4),
        }
        for r in results
    ]
    path.write_text(json.dumps({"torch": torch.__version__, "networks": networks}, indent=1) + "\n")


def broken_claims(results: list[Result]) -> list[str]:
    """The claims of this demo that the results do not support."""
    of = {r.configuration: r for r in results}
    claims = {
        "full precision reaches 97%": of[FULL].accuracy >= 0.97,
        "8 bits are within 1 point of full precision": of[EIGHT].accuracy >= of[FULL].accuracy - 0.01,
        "4 bits are within 1 point of full precision": of[FOUR].accuracy >= of[FULL].accuracy - 0.01,
        # A few images of 1,797 are right or wrong by chance; the loss is not.
        "learned scales are as accurate as fixed ones, to 0.2 points": of[LEARNED].accuracy
        >= of[FOUR].accuracy - 0.002,
        "learned scales have a lower test loss than fixed ones": of[LEARNED].loss < of[FOUR].loss,
        "binary weights and activations reach 85%": of[BOTH].accuracy >= 0.85,
        "the estimator trains the quantized weights": all(r.moved > 0.1 for r in results if r is not of[WITHOUT]),
        "torch.round does not move them": of[WITHOUT].moved == 0,
        "a network with torch.round learns nothing": of[WITHOUT].accuracy < 0.3,
    }
    return [claim for claim, holds in claims.items() if not holds]


def cores() -> int:
    """The number of cores that this process may use, possibly fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Train quantized networks on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits, the initial weights and the batches")
    parser.add_argument("--workers", type=int, default=cores(), help="processes; by default, as many as cores")
    parser.add_argument("--output", type=Path, default=Path("demo_results/digits.png"), help="the figure")
    parser.add_argument("--check", action="store_true", help="fail if the results do not support the claims")
    arguments = parser.parse_args()

    print(f"backend  {ste.backend()}\ntorch    {torch.__version__}", flush=True)
    start = time.perf_counter()
    results = train_all(arguments.epochs, arguments.seed, arguments.workers)
    seconds = time.perf_counter() - start
    print_table(results)
    draw(results, arguments.output)
    write(results, numbers := arguments.output.with_suffix(".json"))
    print(f"Wrote {arguments.output} and {numbers}.")
    print(f"{seconds:.0f} seconds, in {arguments.workers} processes with one thread each.")
    broken = broken_claims(results) if arguments.check else []
    for claim in broken:
        print(f"This claim does not hold: {claim}.", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
