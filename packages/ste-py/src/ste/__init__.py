"""Straight-through estimators for PyTorch: exact, fast, and correct under every transform."""

from ste import autograd_ops, blocks, brevitas, nn, onnx, ops, ops_ste, quantization, shape, surrogates
from ste._backend import Backend, __version__, backend
from ste.blocks import *  # noqa: F403
from ste.ops import *  # noqa: F403
from ste.ops_ste import *  # noqa: F403
from ste.quantization import *  # noqa: F403
from ste.shape import *  # noqa: F403

__all__ = ["Backend", "__version__", "autograd_ops", "backend", "blocks", "brevitas", "nn", "onnx", "ops"]
__all__ += ["ops_ste", "quantization", "shape", "surrogates"]
__all__ += blocks.__all__
__all__ += ops.__all__
__all__ += ops_ste.__all__
__all__ += quantization.__all__
__all__ += shape.__all__
