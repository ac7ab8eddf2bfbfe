// Runs an elementwise function of x and two arguments on a CUDA device.
#pragma once

#include "cuda_along.cuh"
#include "cuda_iterator.cuh"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>

#include <cstdint>

namespace ste::cuda {

// Whether each pack has one channel, or one for each of its elements, and all elements are in packs.
inline bool fits_packs(const Extent& sizes, int pack) {
  return sizes.inner % pack == 0 || (sizes.inner == 1 && sizes.middle % pack == 0);
}

// In 32 bits if they suffice: a GPU has no instruction for a division, and one of 64 bits takes three times as long.
C10_DEVICE inline int64_t channel_of(int64_t element, const Extent& sizes) {
  if (((element | sizes.inner | sizes.middle) >> 32) == 0) {
    const auto row = static_cast<uint32_t>(element) / static_cast<uint32_t>(sizes.inner);
    return row % static_cast<uint32_t>(sizes.middle);
  }
  return element / sizes.inner % sizes.middle;
}

template <typename T, typename A, int pack, typename Function>
__global__ __launch_bounds__(kThreads) void forward_kernel(
    T* y, const T* x, const A* first, const A* second, Along along, int64_t size, Function function) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * pack;
  if (begin >= size) {
    return;
  }
  const auto& sizes = along.extent;
  const int64_t channel = sizes.middle == 1 ? 0 : channel_of(begin, sizes);
  const int step = sizes.inner == 1 ? 1 : 0;
  const auto from = load<T, pack>(x + begin);
  Pack<T, pack> to;
#pragma unroll
  for (int k = 0; k < pack; ++k) {
    to.values[k] = function(
        from.values[k], first[along.first_varies ? channel + k * step : 0],
        second[along.second_varies ? channel + k * step : 0]);
  }
  store<T, pack>(to, y + begin);
}

template <typename T, typename A, int pack, typename Function>
void launch_forward(
    const at::Tensor& y, const at::Tensor& x, const Arguments<2>& arguments, const Along& along,
    const Function& function) {
  const int64_t per_block = static_cast<int64_t>(kThreads) * pack;
  const auto blocks = static_cast<unsigned int>((x.numel() + per_block - 1) / per_block);
  forward_kernel<T, A, pack><<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      y.mutable_data_ptr<T>(), x.const_data_ptr<T>(), arguments[0]->const_data_ptr<A>(),
      arguments[1]->const_data_ptr<A>(), along, x.numel(), function);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// `function(x, first, second)` for each element. x has dtype T, the arguments dtype A.
template <typename T, typename A, typename Function>
at::Tensor forward(const at::Tensor& x, const Arguments<2>& arguments, const Function& function) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto format = format_of(x);
  const auto dense = format ? along(x, arguments, *format) : std::nullopt;
  if (dense && x.numel() > 0) {
    const auto y = at::empty_like(x, x.options(), *format);
    const bool in_packs =
        is_aligned(x.const_data_ptr()) && is_aligned(y.const_data_ptr()) && fits_packs(dense->extent, kPack<T>);
    const auto launch = in_packs ? &launch_forward<T, A, kPack<T>, Function> : &launch_forward<T, A, 1, Function>;
    launch(y, x, arguments, *dense, function);
    return y;
  }
  auto iterator = iterator_of(x, *arguments[0], *arguments[1]);
  at::native::gpu_kernel_nocast(iterator, function);
  return iterator.output();
}

}  // namespace ste::cuda
