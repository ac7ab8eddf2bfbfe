"""A pickle made under one backend loads and runs under the other."""

import copy
import pickle
from pathlib import Path

import pytest
from conftest import EXPECTED
from op_table import DISTINCT_OPS, Op
from processes import run

SAVE = """
import functools, sys, torch, ste
module = torch.nn.Identity()
module.quantize = ste.round_ste
module.clamp = functools.partial(ste.scalar_clamp_ste, min_val=-1.0, max_val=1.0)
module.function_class = ste.autograd_ops.round_ste_fn
torch.save(module, sys.argv[1])
print(ste.backend().name)
"""

LOAD = """
import sys, torch
module = torch.load(sys.argv[1], weights_only=False)
import ste
assert module.quantize is ste.round_ste
x = torch.tensor([0.4, 1.6], requires_grad=True)
y = module.clamp(module.quantize(x))
y.sum().backward()
print(ste.backend().name, y.tolist(), x.grad.tolist(), module.function_class.apply(x).tolist())
"""


@pytest.mark.parametrize(("saved_by", "loaded_by"), [("auto", "python"), ("python", "auto")])
def test_module_with_a_function_as_attribute(saved_by: str, loaded_by: str, tmp_path: Path) -> None:
    saved_under = run(SAVE, tmp_path / "module.pt", backend=saved_by).splitlines()[-1]
    loaded = run(LOAD, tmp_path / "module.pt", backend=loaded_by).splitlines()[-1]
    loaded_under, result = loaded.split(maxsplit=1)
    assert result == "[0.0, 1.0] [1.0, 1.0] [0.0, 2.0]"
    if EXPECTED == "native":
        assert {saved_under, loaded_under} == {"native", "python"}


@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_functions_and_classes_are_pickled_by_name(op: Op) -> None:
    assert pickle.loads(pickle.dumps(op.public)) is op.public
    assert copy.deepcopy(op.public) is op.public
    assert pickle.loads(pickle.dumps(op.autograd_class)) is op.autograd_class
