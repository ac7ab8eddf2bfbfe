"""Brevitas, with the functions of ste instead of its own.

The model stays a Brevitas model, but its quantizers call :func:`ste.round_ste` and the others. They get the call cost
of these functions, forward mode and ``vmap``, and a single graph under ``torch.compile``.
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


# By the name of a Brevitas module, and of a function in it.
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

# Brevitas' function, by the one of ours that replaced it.
_replaced: dict[Callable[..., Any], Callable[..., Any]] = {}


def install() -> int:
    """Replace Brevitas' functions with those of ste, in every Brevitas module that is imported.

    Modules that are imported later get them too. ``dpu_round_ste``, ``abs_binary_sign_grad`` and the in-place functions
    stay Brevitas' own. One result differs: where the lower bound is above the upper one, a clamp between tensors gives
    the upper one, as :func:`torch.clamp` does.

    Returns:
        How many references to Brevitas' functions were replaced; 0 if called again.

    Raises:
        ImportError: Brevitas is not installed.
        RuntimeError: Brevitas runs with BREVITAS_JIT=1, and has compiled its quantizers with its own functions.

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
        How many references to Brevitas' functions were restored.

    Example:
        >>> ste.brevitas.uninstall()  # doctest: +SKIP
        57
    """
    places = _exchange({id(ours): theirs for ours, theirs in _replaced.items()})
    _replaced.clear()
    return places


def _exchange(replacements: dict[int, Callable[..., Any]]) -> int:
    """Replaces functions, found by their identity, wherever a Brevitas module has a name for one."""
    places = 0
    for module_name, module in list(sys.modules.items()):
        if module_name == "brevitas" or module_name.startswith("brevitas."):
            for name, value in list(vars(module).items()):
                if id(value) in replacements:
                    setattr(module, name, replacements[id(value)])
                    places += 1
    return places
