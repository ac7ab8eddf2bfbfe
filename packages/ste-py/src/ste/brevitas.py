"""Brevitas, with the functions of ste in the place of its own.

A model of Brevitas stays what it is: its quantizers call :func:`ste.round_ste` and the others, and have what these
have, their call cost, their forward mode and ``vmap``, and one graph with ``torch.compile``.
"""

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ste import ops, ops_ste

__all__ = ["install", "uninstall"]


def binary_sign_ste(x: Tensor) -> Tensor:
    return ops_ste.binary_sign_ste(x, -1.0)


def scalar_clamp_min_ste(x: Tensor, min_val: float) -> Tensor:
    return ops_ste.scalar_clamp_ste(x, min_val, math.inf)


# By the name of the module of Brevitas, and of the function in it.
REPLACEMENTS: dict[str, dict[str, Callable[..., Any]]] = {
    "brevitas.function.ops": {"tensor_clamp": ops.tensor_clamp},
    "brevitas.function.ops_ste": {
        "binary_sign_ste": binary_sign_ste,
        "ceil_ste": ops_ste.ceil_ste,
        "floor_ste": ops_ste.floor_ste,
        "round_ste": ops_ste.round_ste,
        "round_to_zero_ste": ops_ste.trunc_ste,
        "scalar_clamp_min_ste": scalar_clamp_min_ste,
        "scalar_clamp_ste": ops_ste.scalar_clamp_ste,
        "tensor_clamp_ste": ops_ste.tensor_clamp_ste,
        "ternary_sign_ste": ops_ste.ternary_sign_ste,
    },
}

# What stood where a function of ours stands now.
_replaced: dict[Callable[..., Any], Callable[..., Any]] = {}


def install() -> int:
    """Put the functions of ste where Brevitas has its own, in every module of it that is imported.

    Modules that are imported later take them from there. ``dpu_round_ste``, ``abs_binary_sign_grad`` and what works in
    place stay Brevitas' own. One thing differs: a clamp whose lower bound is above its
    upper one is an error between numbers, and between tensors gives the upper one, as :func:`torch.clamp` does.

    Returns:
        In how many places a function of Brevitas was replaced. Again, 0.

    Raises:
        ImportError: Brevitas is not installed.
        RuntimeError: Brevitas runs with BREVITAS_JIT=1, where its quantizers are compiled with its own functions.

    Example:
        >>> import brevitas.nn  # doctest: +SKIP
        >>> ste.brevitas.install()  # doctest: +SKIP
        57
    """
    import brevitas

    if brevitas.config.JIT_ENABLED:
        raise RuntimeError("ste.brevitas.install: with BREVITAS_JIT=1, Brevitas has compiled its own functions")
    for module, functions in REPLACEMENTS.items():
        for name, ours in functions.items():
            theirs = getattr(importlib.import_module(module), name)
            if theirs is not ours:
                _replaced[ours] = theirs
    return _exchange({id(theirs): ours for ours, theirs in _replaced.items()})


def uninstall() -> int:
    """Undo :func:`install`.

    Returns:
        In how many places a function of Brevitas is back.

    Example:
        >>> ste.brevitas.uninstall()  # doctest: +SKIP
        57
    """
    places = _exchange({id(ours): theirs for ours, theirs in _replaced.items()})
    _replaced.clear()
    return places


def _exchange(replacements: dict[int, Callable[..., Any]]) -> int:
    """Of functions by their identity, wherever a module of Brevitas has a name for one."""
    places = 0
    for module_name, module in list(sys.modules.items()):
        if module_name == "brevitas" or module_name.startswith("brevitas."):
            for name, value in list(vars(module).items()):
                if id(value) in replacements:
                    setattr(module, name, replacements[id(value)])
                    places += 1
    return places
