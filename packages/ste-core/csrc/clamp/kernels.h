#pragma once

#include "../memory/kernel.h"

namespace ste {

// For CPUs only, elsewhere ATen's is used. The numbers are the bounds.
struct ScalarClampKernel : Forward<0, Number, Number> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// For CPUs only, elsewhere ATen's is used. The arguments are the bounds, in x's dtype.
struct TensorClampKernel : Forward<2> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// The arguments are the bounds. All tensors have the same floating-point dtype.
struct ClampBackwardKernel : Backward<> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
