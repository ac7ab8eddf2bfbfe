"""ste.nn: what happens to a model whose layers are quantized, and how to undo it."""

import copy
import math
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from quantizers import PAIRS, Model, batch, quantized, x_of
from torch import Tensor, nn
from torch.nn.utils import parametrize

import ste


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.up = nn.ConvTranspose1d(6, 4, 3)
        self.convolution = nn.Conv1d(4, 8, 3)
        self.head = nn.Linear(8, 2, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.convolution(self.up(self.embedding(tokens).mT)).mean(2))
        return y


def test_quantize_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    model = Layers()
    before = copy.deepcopy(model.state_dict())
    tokens = torch.arange(20).reshape(2, 10) % 10
    expected = model(tokens)
    done = ste.nn.quantize(model, ste.nn.IntegerQuantizer(4, axis=0), ste.nn.IntegerQuantizer(8))
    assert capsys.readouterr().out == f"{done}\n"
    assert [(layer.name, layer.layer) for layer in done] == [
        ("embedding", "Embedding(10, 6)"),
        ("up", "ConvTranspose1d(6, 4, (3,))"),
        ("convolution", "Conv1d(4, 8, (3,))"),
        ("head", "Linear(8, 2)"),
    ]
    scales: list[Any] = [layer.weight for layer in done]
    shapes = [tuple(quantizer.scale.shape) for quantizer in scales]
    assert shapes == [(10,), (4,), (8,), (2,)]
    assert done[0].input is None
    assert all(layer.input is not None for layer in done[1:])
    assert len(str(done).splitlines()) == 5
    assert not torch.equal(model(tokens), expected)
    with pytest.raises(ValueError, match="layer 'embedding' is quantized already"):
        ste.nn.quantize(model, ste.nn.IntegerQuantizer(4))
    ste.nn.unquantize(model)
    assert_same_bits(model(tokens), expected)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_quantized_weights_may_be_kept() -> None:
    model = Model()
    weight = model.first.weight.detach().clone()
    ste.nn.quantize(model, ste.nn.BlockQuantizer("mxfp4"), verbose=False)
    ste.nn.unquantize(model, keep="quantized")
    assert_same_bits(model.first.weight.detach(), ste.fake_quantize_blocks(weight, *ste.BLOCK_RECIPES["mxfp4"]))
    assert isinstance(model.first.weight, nn.Parameter)


def test_where() -> None:
    model = Model()
    done = ste.nn.quantize(model, ste.nn.BlockQuantizer("mxfp4"), where=lambda name, _: name == "second", verbose=False)
    assert [layer.name for layer in done] == ["second"]
    assert not parametrize.is_parametrized(model.first)


def test_a_weight_that_is_set_is_quantized() -> None:
    model = quantized(PAIRS["mxfp4"])
    weight = x_of(16, 8)
    model.first.weight = weight
    assert_same_bits(model.first.parametrizations.weight.original.detach(), weight)


def test_weights_that_two_layers_share() -> None:
    model: Any = nn.ModuleDict({"embedding": nn.Embedding(10, 8), "head": nn.Linear(8, 10, bias=False)})
    model["head"].weight = model["embedding"].weight
    ste.nn.quantize(model, ste.nn.BlockQuantizer("int4", 4), verbose=False)
    originals = [model[name].parametrizations.weight.original for name in ("embedding", "head")]
    assert originals[0] is originals[1]


def test_a_norm_of_the_weight_stays() -> None:
    layer: Any = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
    weight = layer.weight.detach().clone()
    for keep, expected in (("float", weight), ("quantized", ste.fake_quantize_blocks(weight, "int4", 4))):
        ste.nn.quantize(layer, ste.nn.BlockQuantizer("int4", 4), verbose=False)
        assert_same_bits(layer.weight.detach(), ste.fake_quantize_blocks(weight, "int4", 4))
        ste.nn.unquantize(layer, keep=keep)
        assert torch.allclose(layer.weight, expected)
        assert len(layer.parametrizations.weight) == 1


def test_a_quantizer_of_your_own() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return ste.round_ste(2 * x) / 2

    model = Model()
    before = copy.deepcopy(model.state_dict())
    ste.nn.quantize(model, Halves(), Halves(), verbose=False)
    assert_same_bits(model.first.weight, (2 * before["first.weight"]).round() / 2)
    with pytest.raises(ValueError, match="is quantized already"):
        ste.nn.quantize(model, Halves(), verbose=False)
    ste.nn.unquantize(model)
    assert model.state_dict().keys() == before.keys()


def test_an_input_by_keyword() -> None:
    model = nn.Linear(8, 4)
    x = x_of(3, 8)
    ste.nn.quantize(model, activation=ste.nn.BlockQuantizer("mxfp4"), verbose=False)
    assert_same_bits(model(input=x).detach(), model(x).detach())
    assert not torch.equal(model(x), nn.functional.linear(x, model.weight, model.bias))


def test_attention() -> None:
    """A model that reads the weight of one layer without calling it."""
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True)
    x = x_of(2, 5, 16)
    plain = model(x)
    done = ste.nn.quantize(
        model, ste.nn.BlockQuantizer("mxfp4"), ste.nn.IntegerQuantizer(8, scale="ema"), verbose=False
    )
    assert [(layer.name, layer.input is None) for layer in done] == [
        ("self_attn.out_proj", True),
        ("linear1", False),
        ("linear2", False),
    ]
    y = model(x)
    assert not torch.equal(y, plain)
    for call in (model.eval(), torch.no_grad()(model.eval())):
        assert torch.allclose(call(x), model(x))
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("scale", ["learned", "ema"])
def test_initialize_as_the_first_step_does(scale: str) -> None:
    """In evaluation mode, an untrained batch norm's output would give another scale."""
    models: list[Any] = []
    for _ in range(2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        ste.nn.quantize(model, activation=ste.nn.IntegerQuantizer(4, signed=False, scale=scale), verbose=False)
        models.append(model)
    before = copy.deepcopy(models[0][1].state_dict())
    ste.nn.initialize(models[0], 0.1 * batch())
    assert all(torch.equal(value, before[key]) for key, value in models[0][1].state_dict().items())
    models[1](0.1 * batch())
    for layer in (0, 3):
        kept, of_step = (model[layer].input_quantizer.state_dict() for model in models)
        assert all(torch.equal(value, of_step[key]) for key, value in kept.items())


def test_initialize_sets_weights_without_a_batch() -> None:
    model = quantized(PAIRS["LSQ, 4 bits per channel"])
    with torch.no_grad():
        model.first.parametrizations.weight.original.mul_(3)
    ste.nn.initialize(model)
    original = model.first.parametrizations.weight.original.detach()
    expected = 2 * original.abs().mean(1) / math.sqrt(7)
    assert_same_bits(model.first.parametrizations.weight[0].scale.detach(), expected)
