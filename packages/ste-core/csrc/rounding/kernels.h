#pragma once

#include "../memory/kernel.h"

namespace ste {

// Which integer a number becomes.
enum class Integer { nearest, above, below, toward_zero };

// For float and double on CPUs; elsewhere ATen's is used.
struct ToIntegerKernel : Forward<0, Integer> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// The argument is a random number for each element, in float, or in double if x is.
struct StochasticRoundKernel : Forward<1> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
