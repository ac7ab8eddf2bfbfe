"""The casts of ml_dtypes, as fake_quantize_float has them."""

from typing import Any

import ml_dtypes
import numpy as np
from float_formats import FLOAT_FORMATS

Array = np.ndarray[Any, Any]

KINDS = {
    name: getattr(ml_dtypes, next(n for n in dir(ml_dtypes) if n.split("_")[-1] == name)) for name in FLOAT_FORMATS
}


def cast(v: Array, format: str, *, saturate: bool = True) -> Array:
    """Of float32. NaN stays in the formats that have none, and -0 in those of fnuz."""
    largest = np.float32(FLOAT_FORMATS[format][2])
    held = np.clip(v, -largest, largest) if saturate else v
    with np.errstate(all="ignore"):
        result = held.astype(KINDS[format]).astype(np.float32)
    return np.where(np.isnan(v), v, np.copysign(result, v))
