"""The formats of few bits that the tests use."""

# The bits of the mantissa, the bias, and the largest number.
FLOAT_FORMATS = {
    "e4m3fn": (3, 7, 448.0),
    "e5m2": (2, 15, 57344.0),
    "e4m3fnuz": (3, 8, 240.0),
    "e5m2fnuz": (2, 16, 57344.0),
    "e3m2fn": (2, 3, 28.0),
    "e2m3fn": (3, 1, 7.5),
    "e2m1fn": (1, 1, 6.0),
}
