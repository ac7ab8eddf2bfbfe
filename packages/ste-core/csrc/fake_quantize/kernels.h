#pragma once

#include "../memory/kernel.h"

namespace ste {

// What a gradient's mask tests: the integer, as PyTorch and Brevitas do, or x / scale + zero_point before it is
// rounded, as LSQ's equations do.
enum class Inside { rounded, scaled };

// The ends of a grid of integers, as values that the dtype of the computation holds exactly.
struct Ends {
  double quant_min;
  double quant_max;
  Inside inside = Inside::rounded;
};

// The arguments are the scale and the zero point, in float, or in double if x is.
struct FakeQuantizeKernel : Forward<2, Ends> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// The third argument is a random number for each element of x.
struct FakeQuantizeAtRandomKernel : Forward<3, Ends> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

// The arguments are those of FakeQuantizeKernel.
struct FakeQuantizeBackwardKernel : Backward<Ends> {
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
