#pragma once

#include "../memory/kernel.h"

#include <tuple>

namespace ste {

// A floating-point format, as numbers that both float and double hold.
struct FloatEnds {
  auto fields() { return std::tie(mantissa_bits, least, max, limit, overflow); }
  auto fields() const { return std::tie(mantissa_bits, least, max, limit, overflow); }

  int mantissa_bits;
  double least;     // the smallest power of two that has all of those bits
  double max;       // the largest number
  double limit;     // a power of two beyond it
  double overflow;  // what a magnitude beyond it becomes
};

// The arguments are the scale, in float, or in double if x is, and the scale once more.
struct FakeQuantizeFloatKernel : Forward<2, FloatEnds> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// The third argument is a random number for each element of x.
struct FakeQuantizeFloatAtRandomKernel : Forward<3, FloatEnds> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// The arguments are those of FakeQuantizeFloatKernel.
struct FakeQuantizeFloatBackwardKernel : Backward<FloatEnds> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
