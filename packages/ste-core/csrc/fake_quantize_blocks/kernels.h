#pragma once

#include "../fake_quantize_float/kernels.h"
#include "../memory/kernel.h"

namespace ste {

// How the scale of a block follows from its largest magnitude, or from its ends.
enum class BlockRule { absmax, minmax, floor, ceil, even, rceil, e4m3fn };

// What is no tensor among the arguments. Integers of n bits have as ends a format's with as large a number, and n - 2
// bits of a mantissa.
struct BlockSettings {
  BlockRule rule;
  bool is_integer;
  FloatEnds ends;
};

// x as it lies in memory: outer rows of length * inner elements, with blocks along the length, the last of which may be
// shorter. A unit of work is kGroup blocks of a row, or, where inner is not 1, a block of kColumns neighbors.
struct BlockTask {
  static constexpr int64_t kGroup = 64;
  static constexpr int64_t kColumns = 256;

  BlockSettings settings;
  int64_t length;
  int64_t inner;
  int64_t block;
  int64_t outer;

  const void* x;
  const void* g;  // of a backward, else null
  void* y;

  // In what is computed in; null where the rule has none.
  const void* tensor_scale;
  int64_t tensor_scale_outer;  // its strides, in elements
  int64_t tensor_scale_inner;
};

// Of x, the forward; of x and g, the backward.
struct FakeQuantizeBlocksKernel {
  struct Loops {
    void (*of[kDtypes])(const BlockTask& task, int64_t begin, int64_t end);  // from unit to unit
  };
  using Cuda = void (*)(const at::Tensor& x, const BlockTask& task);
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
