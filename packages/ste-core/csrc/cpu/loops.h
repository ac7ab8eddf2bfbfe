// The loops over elements: compiled once for each instruction set, so that nothing here may include what another
// file compiles too (an inline function of this file, chosen by the linker for all, would not run everywhere).
#pragma once

#include "../ends.h"

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace ste::cpu {

// What becomes of an output of a backward. `sum` adds to doubles, which several elements may share.
enum class Output { none, store, sum };

// Which integer a number becomes.
enum class Integer { nearest, above, below, toward_zero };

// A number in x's dtype: an integer where that is an integer dtype.
struct Number {
  double real;
  int64_t integer;
};

// Each takes what TensorIterator passes to a loop of two dimensions.
struct Loops {
  // y, x
  void (*binary_sign)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Number low);
  void (*ternary_sign)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1);
  // Of float and double alone.
  void (*to_integer)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Integer which);
  void (*scalar_clamp)(
      char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Number min_val, Number max_val);
  // y, x, min_val, max_val
  void (*clamp)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1);
  // Gradients to x, min_val and max_val, which are `outputs`; g, x, min_val, max_val. None for integers.
  void (*clamp_backward)(
      char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs);
  // y, x; the scale and the zero point, which are of float, or of double where x is. None for integers.
  void (*fake_quantize)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Ends ends);
  // Gradients to x, to the scale and to the zero point, which are `outputs`; g, x, scale, zero point. None for
  // integers.
  void (*fake_quantize_backward)(
      char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs, Ends ends);
};

// Those for the processor that this runs on, as torch itself chooses (ATEN_CPU_CAPABILITY included).
Loops loops(at::ScalarType dtype);

namespace DEFAULT {
Loops loops(at::ScalarType dtype);
}
namespace AVX2 {
Loops loops(at::ScalarType dtype);
}
namespace AVX512 {
Loops loops(at::ScalarType dtype);
}

}  // namespace ste::cpu
