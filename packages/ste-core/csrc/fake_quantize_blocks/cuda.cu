#include "elements.h"
#include "kernels.h"

#include "../memory/cuda_reduce.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/bit_cast.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace ste::cuda {
namespace {

// The larger of two numbers that are not negative. Compared by its bits, NaN is the largest.
template <typename W>
C10_DEVICE W larger(W a, W b) {
  using Bits = std::conditional_t<sizeof(W) == 8, int64_t, int32_t>;
  return c10::bit_cast<W>(std::max(c10::bit_cast<Bits>(a), c10::bit_cast<Bits>(b)));
}

// What a scale is computed from: the largest magnitude, or both ends.
template <typename W>
struct Largest {
  C10_DEVICE void add(W x) { high = larger(high, element::absolute(x)); }

  C10_DEVICE void add_lane(int lane) { high = larger(high, __shfl_xor_sync(0xFFFFFFFF, high, lane)); }

  C10_DEVICE element::BlockScale<W> scale(const element::BlockScales<W>& scales, W tensor_scale) const {
    return scales.of_largest(high, tensor_scale);
  }

  W high = 0;
};

template <typename W>
struct BothEnds {
  C10_DEVICE void add(W x) {
    low = low < x || low != low ? low : x;
    high = high > x || high != high ? high : x;
  }

  C10_DEVICE void add_lane(int lane) {
    const W other_low = __shfl_xor_sync(0xFFFFFFFF, low, lane);
    const W other_high = __shfl_xor_sync(0xFFFFFFFF, high, lane);
    add(other_low);
    add(other_high);
  }

  C10_DEVICE element::BlockScale<W> scale(const element::BlockScales<W>& scales, W /*tensor_scale*/) const {
    return scales.of_ends(low, high);
  }

  W low = 0;
  W high = 0;
};

// `lanes` neighboring threads share a block. For columns it is one thread, whose neighbors have the columns beside it.
template <typename T, typename Kind, bool is_backward>
__global__ __launch_bounds__(kThreads) void blocks_kernel(
    BlockTask task, Kind kind, element::BlockScales<at::opmath_type<T>> scales, int lanes, int64_t blocks) {
  using W = at::opmath_type<T>;
  using Of = std::conditional_t<Kind::has_zero_point, BothEnds<W>, Largest<W>>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t index = thread / lanes;
  // All threads of a warp must take part in the exchange between its lanes.
  const bool is_one = index < blocks;
  const int64_t in_a_row = (task.length + task.block - 1) / task.block;
  const int64_t column = is_one ? index % task.inner : 0;
  const int64_t row = is_one ? index / task.inner : 0;
  const int64_t outer = row / in_a_row;
  const int64_t begin = row % in_a_row * task.block;
  const int64_t size = is_one ? std::min(task.block, task.length - begin) : 0;
  const int64_t first = (outer * task.length + begin) * task.inner + column;
  const auto* const x = static_cast<const T*>(task.x) + first;
  const auto* const g = static_cast<const T*>(task.g) + first;
  auto* const y = static_cast<T*>(task.y) + first;

  const int lane = static_cast<int>(thread % lanes);
  Of statistic;
  for (int64_t i = lane; i < size; i += lanes) {
    statistic.add(static_cast<W>(x[i * task.inner]));
  }
  for (int other = lanes / 2; other > 0; other /= 2) {
    statistic.add_lane(other);
  }
  const auto* const tensor_scale = static_cast<const W*>(task.tensor_scale);
  const auto scale = statistic.scale(
      scales, tensor_scale == nullptr
                  ? W(0)
                  : tensor_scale[outer * task.tensor_scale_outer + column * task.tensor_scale_inner]);
  const auto grid = kind.grid(scale.scale, scale.zero_point);
  const W divisor = Kind::divisor(scale.divisor);
  // (A division of doubles is a call. With several in a loop, registers spill to memory on sm_80.)
#pragma unroll(sizeof(W) == 8 ? 1 : 4)
  for (int64_t i = lane; i < size; i += lanes) {
    const int64_t at = i * task.inner;
    const W scaled = Kind::scaled(static_cast<W>(x[at]), divisor);
    if constexpr (is_backward) {
      y[at] = static_cast<T>(element::fake_quantize_backward_scaled(static_cast<W>(g[at]), scaled, grid).x);
    } else {
      y[at] = static_cast<T>(element::fake_quantize_scaled(scaled, grid));
    }
  }
}

template <typename T, typename Kind, bool is_backward>
void launch(const BlockTask& task) {
  const int64_t blocks = task.outer * task.inner * ((task.length + task.block - 1) / task.block);
  int lanes = 1;
  while (task.inner == 1 && lanes < 32 && lanes < task.block) {
    lanes *= 2;
  }
  const auto grid = static_cast<unsigned int>((blocks * lanes + kThreads - 1) / kThreads);
  blocks_kernel<T, Kind, is_backward><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      task, Kind(task.settings), element::BlockScales<at::opmath_type<T>>(task.settings), lanes, blocks);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void fake_quantize_blocks(const at::Tensor& x, const BlockTask& task) {
  const c10::cuda::CUDAGuard guard(x.device());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_blocks", [&] {
    element::with_blocks<at::opmath_type<scalar_t>>(task.settings, [&]<typename Kind>() {
      if (task.g == nullptr) {
        launch<scalar_t, Kind, false>(task);
      } else {
        launch<scalar_t, Kind, true>(task);
      }
    });
  });
}

[[maybe_unused]] const bool entered = (FakeQuantizeBlocksKernel::cuda = &fake_quantize_blocks, true);

}  // namespace
}  // namespace ste::cuda
