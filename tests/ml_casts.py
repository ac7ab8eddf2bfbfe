"""The casts of ml_dtypes, with the conventions of fake_quantize_float."""

from typing import Any

import ml_dtypes
import numpy as np
from float_formats import FLOAT_FORMATS

Array = np.ndarray[Any, Any]

KINDS = {
    name: getattr(ml_dtypes, next(n for n in dir(ml_dtypes) if n.split("_")[-1] == name)) for name in FLOAT_FORMATS
}


def cast(v: Array, format: str, *, saturate: bool = True) -> Array:
    """A cast of float32. NaN stays NaN in the formats without NaN, and -0 stays -0 in the fnuz formats."""
    largest = np.float32(FLOAT_FORMATS[format][2])
    held = np.clip(v, -largest, largest) if saturate else v
    with np.errstate(all="ignore"):
        result = held.astype(KINDS[format]).astype(np.float32)
    return np.where(np.isnan(v), v, np.copysign(result, v))
