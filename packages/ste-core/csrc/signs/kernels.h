#pragma once

#include "../memory/kernel.h"

namespace ste {

// The number is `low`.
struct BinarySignKernel : Forward<0, Number> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// On CPUs; ATen has the rest.
struct TernarySignKernel : Forward<0> {
  static const Loops DEFAULT, AVX2, AVX512;
};

}  // namespace ste
