"""The ops as :class:`torch.autograd.Function` classes: the pure-Python backend.

They are always importable and usable through ``.apply``, whatever backend the functions of :mod:`ste` run on, and they
support ``torch.func``, ``vmap`` and forward-mode AD. ``torch.compile`` sees the op in their place. The functions
(:func:`ste.round_ste` and so on) are what to call: they are cheaper, and take keyword arguments.
"""

from ste import _blocks, _clamp, _fake_quantize, _fake_quantize_float, _rounding, _signs, _straight_through
from ste._blocks import *
from ste._clamp import *
from ste._fake_quantize import *
from ste._fake_quantize_float import *
from ste._rounding import *
from ste._signs import *
from ste._straight_through import *

__all__ = sorted(
    _blocks.__all__
    + _clamp.__all__
    + _fake_quantize.__all__
    + _fake_quantize_float.__all__
    + _rounding.__all__
    + _signs.__all__
    + _straight_through.__all__
)
