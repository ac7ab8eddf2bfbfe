#pragma once

#include "../memory/kernel.h"

namespace ste {

// What there is of a floating-point format, as numbers that float holds, and double.
struct FloatEnds {
  int mantissa_bits;
  double least;     // the smallest power of two that has all of those bits
  double max;       // the largest number
  double limit;     // a power of two beyond it
  double overflow;  // what a magnitude beyond it becomes
};

// The arguments are the scale, in float, or in double where x is, and once more the scale.
struct FakeQuantizeFloatKernel : Forward<2, FloatEnds> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// And a number from 0 to 1 for each element of x.
struct FakeQuantizeFloatAtRandomKernel : Forward<3, FloatEnds> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// The arguments are those of the first.
struct FakeQuantizeFloatBackwardKernel : Backward<FloatEnds> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
