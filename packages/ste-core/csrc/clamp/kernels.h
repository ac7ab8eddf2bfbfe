#pragma once

#include "../memory/kernel.h"

namespace ste {

// On CPUs; ATen has the rest. The numbers are the bounds.
struct ScalarClampKernel : Forward<0, Number, Number> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// On CPUs; ATen has the rest. The arguments are the bounds, in x's dtype.
struct TensorClampKernel : Forward<2> {
  static const Loops DEFAULT, AVX2, AVX512;
};

// The arguments are the bounds; all is of one floating dtype.
struct ClampBackwardKernel : Backward<> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
