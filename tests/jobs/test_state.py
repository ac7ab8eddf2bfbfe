"""What is kept."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from bits import assert_same_bits
from quantizers import PAIRS, batch, quantized, trained

import ste

row = pytest.mark.row
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


@row("`state_dict`: into another model, and into one without memory || {name}")
@EVERY_PAIR
def test_state_dict(name: str) -> None:
    model = trained(name)
    expected = model(batch())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file)
    other = quantized(PAIRS[name], seed=5)
    other.load_state_dict(state)
    assert_same_bits(other.eval()(batch()), expected)
    with torch.device("meta"):
        without_memory = quantized(PAIRS[name])
    without_memory.load_state_dict(state, assign=True)
    assert_same_bits(without_memory.eval()(batch()), expected)


OTHER_BACKEND = """
import sys, torch, ste
from quantizers import PAIRS, batch, quantized
torch.set_num_threads(1)
state, outputs = torch.load(sys.argv[1]), {}
for name, of_model in state.items():
    model = quantized(PAIRS[name], seed=5)
    model.load_state_dict(of_model)
    outputs[name] = model.eval()(batch()).detach()
torch.save(outputs, sys.argv[2])
"""


@row("`state_dict`: read by the Python backend, which computes the same bits || {name}")
@EVERY_PAIR
def test_other_backend(name: str, tmp_path: Path) -> None:
    model = quantized(PAIRS[name])
    model(batch(seed=4))
    expected = model.eval()(batch()).detach()
    torch.save({name: model.state_dict()}, tmp_path / "state")
    processes.run(OTHER_BACKEND, tmp_path / "state", tmp_path / "outputs", backend="python")
    assert_same_bits(torch.load(tmp_path / "outputs")[name], expected)


@row("`pickle` of a quantizer, and `torch.save` of a model without parametrizations || {name}")
@EVERY_PAIR
def test_pickle(name: str) -> None:
    x = batch()
    for make in PAIRS[name]:
        quantizer: Any = make()
        if hasattr(quantizer, "resize") and quantizer.axis is not None:
            quantizer.resize(x.shape[quantizer.axis])
        quantizer(x)
        other = pickle.loads(pickle.dumps(quantizer))
        assert repr(other) == repr(quantizer)
        assert_same_bits(other.eval()(x), quantizer.eval()(x))
    model = quantized(PAIRS[name])
    model(batch())
    with pytest.raises(RuntimeError, match="only supported through state_dict"):  # by PyTorch, for all parametrizations
        pickle.dumps(model)
    for layer in (model.first, model.second):
        torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    expected = model.eval()(batch())
    assert_same_bits(pickle.loads(pickle.dumps(model))(batch()), expected)


@row("`torch.fx.symbolic_trace` || {name}")
@EVERY_PAIR
def test_fx(name: str) -> None:
    model = quantized(PAIRS[name])
    model(batch())
    for training in (True, False):
        model.train(training)
        traced = torch.fx.symbolic_trace(copy.deepcopy(model))
        expected = copy.deepcopy(model)
        for seed in (1, 2):
            assert_same_bits(traced(batch(7, seed)).detach(), expected(batch(7, seed)).detach())


@row("evaluation: no state changes, and without first values there is an error || {name}")
@EVERY_PAIR
def test_evaluation(name: str) -> None:
    model = quantized(PAIRS[name])
    if any(not getattr(module, "is_initialized", True) for module in model.modules()):
        with pytest.raises(RuntimeError, match="it has no first values yet"):
            model.eval()(batch())
    ste.nn.initialize(model, batch())
    model.eval()
    state = copy.deepcopy(model.state_dict())
    outputs = [model(batch(seed=seed)) for seed in (2, 3, 2)]
    assert_same_bits(outputs[0], outputs[2])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
