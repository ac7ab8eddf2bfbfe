"""Quantizers as modules, built on the public ops, and one call that puts them on a model's layers."""

from ste.nn._float import BlockQuantizer, FloatQuantizer
from ste.nn._integer import IntegerQuantizer
from ste.nn._model import Quantized, QuantizedLayer, initialize, quantize, unquantize
from ste.nn._signs import BinaryQuantizer, TernaryQuantizer

__all__ = ["BinaryQuantizer", "BlockQuantizer", "FloatQuantizer", "IntegerQuantizer", "Quantized", "QuantizedLayer"]
__all__ += ["TernaryQuantizer", "initialize", "quantize", "unquantize"]
