#pragma once

#include "../fake_quantize_float/kernels.h"
#include "../memory/kernel.h"

namespace ste {

// How the scale of a block is computed from its largest magnitude, or from its ends.
enum class BlockRule { absmax, minmax, floor, ceil, even, rceil, e4m3fn };

// The arguments that are not tensors. Integers of n bits have the ends of a format with the same largest number and n -
// 2 mantissa bits.
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
  const void* g;  // null for a forward
  void* y;

  // In the dtype of the computation; null if the rule has none.
  const void* tensor_scale;
  int64_t tensor_scale_outer;  // its strides, in elements
  int64_t tensor_scale_inner;
};

// The forward, or, with a g, the backward.
struct FakeQuantizeBlocksKernel {
  struct Loops {
    void (*of[kDtypes])(const BlockTask& task, int64_t begin, int64_t end);  // from unit to unit
  };
  using Cuda = void (*)(const at::Tensor& x, const BlockTask& task);
  static const Loops DEFAULT, AVX2, AVX512;
  static Cuda cuda;
};

}  // namespace ste
