#pragma once

#include "../memory/kernel.h"

namespace ste {

// Which integer a number becomes.
enum class Integer { nearest, above, below, toward_zero };

// Of float and double, on CPUs; ATen has the rest.
struct ToIntegerKernel : Forward<0, Integer> {
  static const Loops DEFAULT, AVX2, AVX512;
};

}  // namespace ste
