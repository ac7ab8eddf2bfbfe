"""h of every surrogate in NumPy, from the formulas of the sources and not from the code, as precise as x."""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def where(mask: Array, yes: Any) -> Array:
    return np.where(mask, yes, 0.0)


def pi(x: Array) -> Any:
    return x.dtype.type("3.14159265358979323846")


def size(x: Array, alpha: Any) -> Array:
    """The magnitude of alpha x, limited to where cosh would overflow and h is smaller than any dtype's numbers."""
    limited: Array = np.minimum(np.abs(alpha * x), 700)
    return limited


SLOPES: dict[str, Callable[[Array, Any], Array]] = {
    "clipped": lambda x, a: where(np.abs(x) <= a, 1.0),
    "polynomial": lambda x, a: where(np.abs(x) <= a, 2 * (1 - np.abs(x) / a) / a),
    "swish": lambda x, a: a * (2 - size(x, a) * np.tanh(size(x, a) / 2)) / (1 + np.cosh(size(x, a))),
    "tanh": lambda x, a: np.maximum(1 / a, 1) * a / np.cosh(size(x, a)) ** 2,
    "sigmoid": lambda x, a: a / (2 + 2 * np.cosh(size(x, a))),
    "atan": lambda x, a: a / 2 / (1 + (pi(x) * a * x / 2) ** 2),
    "fast_sigmoid": lambda x, a: 1 / (1 + a * np.abs(x)) ** 2,
    "triangle": lambda x, a: np.maximum(0, a - a * a * np.abs(x)),
    "gaussian": lambda x, a: a / np.sqrt(pi(x)) * np.exp(-((a * x) ** 2)),
    # A power, limited to where it does not overflow.
    "reste": lambda x, a: where(
        np.abs(x) <= 1.5,
        np.where(np.abs(x) <= 0.1, 0.1 ** (1 / a - 1), np.clip(np.abs(x), 0.1, 1.5) ** (1 / a - 1) / a),
    ),
}
