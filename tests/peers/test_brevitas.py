"""ste.brevitas: Brevitas' quantizers, with ste's functions instead of Brevitas' own."""

import sys
from collections.abc import Iterator
from typing import Any

import brevitas.function.ops_ste
import brevitas.nn
import pytest
import torch
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from torch import Tensor

import ste
from ste.brevitas import REPLACEMENTS

WEIGHTS: dict[str, Any] = {
    "per tensor": Int8WeightPerTensorFloat,
    "per channel": Int8WeightPerChannelFloat,
    "binary": SignedBinaryWeightPerTensorConst,
    "ternary": SignedTernaryWeightPerTensorConst,
}
INPUTS: dict[str, Any] = {"none": None, "signed": Int8ActPerTensorFloat, "unsigned": Uint8ActPerTensorFloat}


@pytest.fixture(autouse=True)
def brevitas_as_it_was() -> Iterator[None]:
    yield
    ste.brevitas.uninstall()


def trained(weight: str, of_input: str) -> list[Tensor]:
    """The outputs and the gradients of three steps."""
    torch.manual_seed(0)
    options = {"weight_quant": WEIGHTS[weight], "input_quant": INPUTS[of_input]}
    layer: Any = brevitas.nn.QuantLinear(12, 5, bias=True, **options)
    found = []
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    for _ in range(3):
        y = layer(torch.randn(16, 12))
        optimizer.zero_grad()
        y.square().mean().backward()
        found += [y.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]
        optimizer.step()
    return found


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("of_input", INPUTS)
def test_quantizers_compute_the_same(weight: str, of_input: str) -> None:
    expected = trained(weight, of_input)
    assert ste.brevitas.install() > 0
    found = trained(weight, of_input)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected):
        assert torch.equal(mine, theirs)


def bound() -> dict[tuple[str, str], Any]:
    """The objects in all Brevitas modules under the replaced names."""
    names = {name for functions in REPLACEMENTS.values() for name in functions}
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "brevitas"}
    return {(module, name): vars(of)[name] for module, of in modules.items() for name in names if name in vars(of)}


def test_everywhere_and_back() -> None:
    before = bound()
    places = ste.brevitas.install()
    assert places >= sum(len(functions) for functions in REPLACEMENTS.values())
    assert ste.brevitas.install() == 0
    ours = {id(function) for functions in REPLACEMENTS.values() for function in functions.values()}
    assert all(id(value) in ours for value in bound().values())
    assert brevitas.function.ops_ste.round_ste is ste.round_ste
    assert ste.brevitas.uninstall() == places
    assert bound() == before


def test_a_model_that_is_there_already() -> None:
    torch.manual_seed(0)
    layer: Any = brevitas.nn.QuantLinear(12, 5, bias=False, weight_quant=Int8WeightPerTensorFloat)
    x = torch.randn(3, 12)
    expected = layer(x)
    ste.brevitas.install()
    assert torch.equal(layer(x), expected)
