"""Train quantized networks on handwritten digits, with the modules of ste.nn, and run one in ONNX Runtime.

    python examples/modules.py

The network, the data and the number of epochs are those of examples/digits.py, which writes its own quantizers. Here
each configuration is a pair of modules: one for the weights, one for the inputs of the layers. A quarter of the images
is the test set. The 4-bit network is exported with QuantizeLinear and DequantizeLinear; ONNX Runtime must predict the
same digit for every test image.
"""

import argparse
import sys
import time
import warnings
from typing import NamedTuple

import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import ste
from ste.nn import BinaryQuantizer, BlockQuantizer, FloatQuantizer, IntegerQuantizer, TernaryQuantizer


class Configuration(NamedTuple):
    weight: nn.Module | None = None
    activation: nn.Module | None = None


def integers(bits: int) -> Configuration:
    """Quantizers with learned scales; the images and the outputs of a ReLU are not negative."""
    return Configuration(IntegerQuantizer(bits, narrow_range=True, axis=0), IntegerQuantizer(bits, signed=False))


FOUR = "4 bits"
CONFIGURATIONS = {
    "full precision": Configuration(),
    "8 bits": integers(8),
    FOUR: integers(4),
    "2 bits": integers(2),
    "e4m3fn": Configuration(FloatQuantizer("e4m3fn", axis=0), FloatQuantizer("e4m3fn", scale="ema")),
    "mxfp4, blocks along the inputs": Configuration(BlockQuantizer("mxfp4", dim=1), BlockQuantizer("mxfp4", dim=1)),
    "ternary weights": Configuration(TernaryQuantizer(axis=0)),
    "binary weights": Configuration(BinaryQuantizer(scale="mean", axis=0)),
}


def build() -> nn.Sequential:
    """A network for images (N, 1, 8, 8)."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*block(1, 32, 1), *block(32, 32, 2), *block(32, 64, 2), nn.Flatten(), nn.Linear(256, 10))


def moved(images: Tensor) -> Tensor:
    """Move each image by up to one pixel."""
    padded = F.pad(images, (1, 1, 1, 1))
    places = torch.randint(3, (2, len(images), 1, 1))
    rows, columns = torch.arange(8).view(8, 1) + places[0], torch.arange(8) + places[1]
    return padded[torch.arange(len(images)).view(-1, 1, 1), 0, rows, columns].unsqueeze(1)


def train(configuration: Configuration, images: Tensor, labels: Tensor, epochs: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = build()
    if configuration.weight is not None:
        ste.nn.quantize(model, *configuration, verbose=False)
        ste.nn.initialize(model, images)
    # Adam's steps are as large as its learning rate, and scales are small.
    scales = [parameter for name, parameter in model.named_parameters() if name.endswith(".scale")]
    others = [parameter for name, parameter in model.named_parameters() if not name.endswith(".scale")]
    optimizer = torch.optim.Adam([{"params": others, "lr": 0.007}, {"params": scales, "lr": 0.0007}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(moved(images[index])), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def in_onnx_runtime(model: nn.Module, images: Tensor) -> Tensor:
    """The digits that ONNX Runtime predicts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        program = torch.onnx.export(
            model,
            (images[:2],),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: "batch"},),
            custom_translation_table=ste.onnx.quantize_dequantize(),
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(outputs).argmax(1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train quantized networks on handwritten digits with ste.nn.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--check", action="store_true", help="fail if the results do not support the claims")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(digits)
    training, test = map(torch.tensor, train_test_split(range(len(images)), test_size=0.25, random_state=0))
    start, accuracies, same = time.perf_counter(), {}, True
    for name, configuration in CONFIGURATIONS.items():
        model = train(configuration, images[training], labels[training], arguments.epochs)
        with torch.no_grad():
            found = model(images[test]).argmax(1)
        accuracies[name] = (found == labels[test]).float().mean().item()
        print(f"{name:32} {accuracies[name]:7.2%}", flush=True)
        if name == FOUR:
            same = torch.equal(in_onnx_runtime(model, images[test]), found)
            print(f"{'':32} in ONNX Runtime, {'the same digit' if same else 'ANOTHER digit'} in each image")
    print(f"Accuracy on {len(test)} test images; {time.perf_counter() - start:.0f} seconds.")
    worst = min(accuracies.values())
    if arguments.check and not (same and worst > 0.9 and accuracies[FOUR] > accuracies["full precision"] - 0.015):
        print(
            "The claim does not hold: 4 bits within 1.5 points of full precision, and all above 90%.", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
