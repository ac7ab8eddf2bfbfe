#pragma once

#include "../memory/kernel.h"

namespace ste {

// Which integer a number becomes.
enum class Integer { nearest, above, below, toward_zero };

// Of float and double, on CPUs; ATen has the rest.
struct ToIntegerKernel : Forward<0, Integer> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// The argument is a number from 0 to 1 for each element, in float, or in double where x is.
struct StochasticRoundKernel : Forward<1> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
