"""The ops as :class:`torch.autograd.Function` classes: the pure-Python backend.

You can call them with ``.apply``, whichever backend the functions of :mod:`ste` run on. They support ``torch.func``,
``vmap`` and forward-mode AD, and ``torch.compile`` sees the op instead of them. But prefer the functions
(:func:`ste.round_ste` and so on), which cost less to call and take keyword arguments.
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
