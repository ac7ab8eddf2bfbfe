"""Deployment."""

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from bits import assert_same_bits
from onnx_models import run, session_of, written
from quantizers import FEATURES, PAIRS, batch, trained
from torch import Tensor, nn
from torch.export import Dim, export

import ste

row = pytest.mark.row
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


@row("`torch.export`, a dynamic batch || {name}")
@EVERY_PAIR
def test_export(name: str) -> None:
    model = trained(name)
    program = export(model, (batch(),), dynamic_shapes=({0: Dim("batch", max=64)},))
    for size in (1, 5, 16, 64):
        assert_same_bits(program.module()(batch(size, 7)), model(batch(size, 7)))


class Quantizers(nn.Module):
    """The quantized tensors of a layer, without the product, whose sums differ between runtimes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layer: Any = self.layer
        return layer.input_quantizer(x), layer.weight


# Their scales are means, which a runtime sums in another order.
MEANS = ["binary, clipped", "ternary, threshold"]


@row("ONNX, to ONNX Runtime: the bits of what is quantized, in elementary operators || {name}")
@EVERY_PAIR
def test_onnx(name: str) -> None:
    model = trained(name)
    module = Quantizers(model.first)
    x = batch(seed=8)
    exported = written(module, x)
    for mine, theirs in zip(run(session_of(exported), x), module(x)):
        if name in MEANS:
            assert torch.equal(mine.sign(), theirs.sign())
            assert torch.allclose(mine, theirs, rtol=1e-6, atol=0)
        else:
            assert torch.equal(mine, theirs)  # the sign of a zero may differ
    whole = written(model, x, dynamic_shapes=({0: Dim("batch", max=64)},))
    session = session_of(whole)
    for size in (3, 16):
        x = batch(size, 7)
        assert torch.allclose(run(session, x)[0], model(x), rtol=1e-4, atol=1e-4)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # A runtime rounds biases to integers.
        self.first = nn.Conv2d(3, 8, 3, bias=False)
        self.second = nn.Conv2d(8, 8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(torch.relu(x))))
        return y


class Requantized(nn.Module):
    """With a quantized output too, which a runtime needs to compute in integers."""

    def __init__(self, model: nn.Module, quantizer: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.quantizer(torch.relu(self.model(x)))
        return y


@row("ONNX, QuantizeLinear and DequantizeLinear: the bits of what is quantized || {name}")
@EVERY_PAIR
@pytest.mark.refused(
    "QuantizeLinear has integers and formats of 8 bits, and in blocks the rules absmax and minmax",
    error="fake_quantize_blocks: the table has int4, int8",
    where=lambda parameters: parameters["name"] in ("mxfp4", "nvfp4"),
)
def test_quantize_dequantize(name: str) -> None:
    model = trained(name)
    module = Quantizers(model.first)
    x = batch(seed=8)
    table = ste.onnx.quantize_dequantize()
    exported = written(module, x, opset_version=21, custom_translation_table=table)
    kinds = [node.op_type for node in exported.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == (0 if name in MEANS else 2)
    for mine, theirs in zip(run(session_of(exported), x), module(x)):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=0) if name in MEANS else torch.equal(mine, theirs)


# The quantizers for which ONNX Runtime has an integer convolution.
UNSIGNED = {
    "LSQ, 4 bits per channel": "learned",
    "int8, absmax and EMA": "ema",
    "int8, percentile, asymmetric": "percentile",
}


@row("ONNX, QuantizeLinear and DequantizeLinear: ONNX Runtime makes QLinearConv of unsigned inputs || {name}")
@pytest.mark.parametrize("name", UNSIGNED)
def test_integer_convolution(name: str, tmp_path: Path) -> None:
    scale = UNSIGNED[name]
    torch.manual_seed(0)
    model = Convolution()
    activation = ste.nn.IntegerQuantizer(8, signed=False, scale=scale)
    weight = ste.nn.IntegerQuantizer(8, narrow_range=True, scale="learned", axis=0)
    ste.nn.quantize(model, weight, activation, verbose=False)
    whole = Requantized(model, ste.nn.IntegerQuantizer(8, signed=False, scale=scale))
    x = torch.rand(4, 3, 12, 12)
    ste.nn.initialize(whole, x)
    whole.eval()
    exported = written(whole, x, custom_translation_table=ste.onnx.quantize_dequantize())
    session = session_of(exported, tmp_path / "optimized.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2, kinds
    assert not {"Conv", "Clip", "Div", "Round"} & set(kinds), kinds
    (y,) = run(session, x)
    expected = whole(x)
    step = activation_step(whole)
    assert ((y - expected).abs() > step * 0.5).float().mean() < 0.01  # the other neighbor of a tie
    assert (y - expected).abs().max() <= step * 1.5


def activation_step(module: Any) -> float:
    return float(module.quantizer.scale_and_zero_point(torch.zeros(1))[0].detach())


@row("AOTInductor, a dynamic batch || {name}")
@EVERY_PAIR
@pytest.mark.slow
def test_aot_inductor(name: str, tmp_path: Path) -> None:
    model = trained(name)
    with torch.no_grad():
        program = export(model, (batch(),), dynamic_shapes=({0: Dim("batch", max=64)},))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for size in (5, 16):
            assert torch.allclose(loaded(batch(size, 7)), model(batch(size, 7)), rtol=1e-4, atol=1e-4)


@row("TorchScript, by tracing || {name}")
@EVERY_PAIR
def test_trace(name: str) -> None:
    model = trained(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, batch())
    for size in (16, 5):
        assert_same_bits(traced(batch(size, 7)), model(batch(size, 7)))


@row("the integers of a layer, with its scales, are its weight || {name}")
@EVERY_PAIR
def test_integers(name: str) -> None:
    model = trained(name)
    layer = model.first
    (quantizer,) = layer.parametrizations.weight
    weight = layer.weight.detach()
    q = quantizer.quantize(layer.parametrizations.weight.original)
    assert q.shape == (16, FEATURES)
    ratio = (weight / q).nan_to_num(0)
    if name in ("int4 groups", "mxfp4", "nvfp4"):
        ratio = ratio[:, : 4 if name == "int4 groups" else None]
    for line in ratio:
        scales = line[line != 0]
        assert scales.numel() == 0 or torch.allclose(scales, scales[:1], rtol=1e-5)
