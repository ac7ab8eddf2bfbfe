"""Straight-through estimators for PyTorch: exact, fast, and right under every transform."""

from ste import autograd_ops, ops, ops_ste, shape
from ste._backend import Backend, __version__, backend
from ste.ops import *  # noqa: F403
from ste.ops_ste import *  # noqa: F403
from ste.shape import *  # noqa: F403

__all__ = ["Backend", "__version__", "autograd_ops", "backend", "ops", "ops_ste", "shape"]
__all__ += ops.__all__
__all__ += ops_ste.__all__
__all__ += shape.__all__
