// Computes the gradients to x and to two arguments on a CUDA device.
#pragma once

#include "cuda_along.cuh"

#include <ATen/OpMathType.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <array>
#include <cstdint>

namespace ste::cuda {

// The gradients of one element.
template <typename W>
struct By {
  W x;
  W first;
  W second;
};

template <typename Reduction>
__global__ __launch_bounds__(kThreads) void reduce_kernel(Reduction reduction) {
  __shared__ Sums sums[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = reduction.of_thread(blockIdx.x, blockIdx.y, thread);
  for (int half = Reduction::height / 2; half >= 1; half /= 2) {
    __syncthreads();
    Reduction::add(sums, thread, half);
  }
  reduction.finish(blockIdx.x, blockIdx.y, thread, sums[thread]);
}

template <typename T, typename A, typename Gradient, int pack, Threads threads, int width>
at::Tensor launch_reduction(const Operands<T, A>& operands, const Gradient& gradient, const at::Tensor& x) {
  Reduction<T, A, at::opmath_type<T>, Gradient, pack, threads, width> reduction{operands, gradient};
  const int64_t groups = reduction.groups();
  const int64_t slices = number_of_slices(operands.sizes, groups, reduction.height, pack);
  auto partial = at::empty({slices, operands.sizes.middle, 2}, x.options().dtype(at::kDouble));
  reduction.operands.slices = slices;
  reduction.operands.partial = reinterpret_cast<Sums*>(partial.template mutable_data_ptr<double>());
  const dim3 grid(static_cast<unsigned int>(groups), static_cast<unsigned int>(slices));
  reduce_kernel<<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(reduction);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return partial;
}

template <typename T, typename A, typename Gradient>
auto choose_reduction(const Extent& sizes, bool in_packs) {
  if (sizes.inner == 1 && sizes.middle > 1) {
    return &launch_reduction<T, A, Gradient, 1, Threads::in_columns, 32>;
  }
  // A block per channel would have more threads than work.
  const bool are_short = sizes.outer * sizes.inner <= static_cast<int64_t>(kThreads) * (in_packs ? kPack<T> : 1);
  if (in_packs) {
    return are_short ? &launch_reduction<T, A, Gradient, kPack<T>, Threads::in_rows, 16>
                     : &launch_reduction<T, A, Gradient, kPack<T>, Threads::in_rows, 1>;
  }
  return are_short ? &launch_reduction<T, A, Gradient, 1, Threads::in_rows, 16>
                   : &launch_reduction<T, A, Gradient, 1, Threads::in_rows, 1>;
}

// The gradients to x and, times a factor, to two arguments. `gradient(g, x, first, second)` gives those of one element,
// as a By. x has dtype T, the arguments dtype A.
template <typename T, typename A, typename Gradient>
std::array<at::Tensor, 3> backward(
    const Gradient& gradient, const at::Tensor& original_g, const at::Tensor& original_x, const Arguments<2>& arguments,
    const std::array<bool, 3>& needed, double factor) {
  const c10::cuda::CUDAGuard guard(original_x.device());
  const at::Tensor& first = *arguments[0];
  const at::Tensor& second = *arguments[1];
  const auto format = format_of(original_x).value_or(at::MemoryFormat::Contiguous);
  const auto x = original_x.contiguous(format);
  const auto g = original_g.contiguous(format);
  // If the arguments lie along x in any other way, they are expanded to x's size, and their gradients have this size at
  // first.
  const auto found = along(x, arguments, format);
  const auto dense = found.value_or(Along{{1, x.numel(), 1}, true, true});
  const auto in_full = [&](const at::Tensor& t) { return found ? t : t.expand(x.sizes()).contiguous(format); };
  const at::Tensor first_along = in_full(first);
  const at::Tensor second_along = in_full(second);
  const auto& sizes = dense.extent;

  const auto to_x = needed[0] ? at::empty_like(x, x.options(), format) : at::Tensor();
  const Operands<T, A> operands{
      g.const_data_ptr<T>(),
      x.const_data_ptr<T>(),
      first_along.const_data_ptr<A>(),
      second_along.const_data_ptr<A>(),
      needed[0] ? to_x.mutable_data_ptr<T>() : nullptr,
      nullptr,
      sizes,
      1,
      dense.first_varies,
      dense.second_varies};
  const bool in_packs = sizes.inner % kPack<T> == 0 && is_aligned(operands.g) && is_aligned(operands.x) &&
                        (!needed[0] || is_aligned(operands.to_x));
  const auto launch = choose_reduction<T, A, Gradient>(sizes, in_packs);
  const auto sums = launch(operands, gradient, x).sum(0);

  std::array<at::Tensor, 3> result{to_x};
  const auto total = [&](const at::Tensor& argument, bool varies, int64_t which) {
    const auto of_channels = sums.select(1, which);
    auto sum = varies ? at::Tensor() : of_channels.sum().reshape(argument.sizes());
    if (varies) {
      const auto& like = found ? argument : x;
      const auto full = at::empty_strided(like.sizes(), like.strides(), of_channels.options());
      full.as_strided({sizes.middle}, {1}).copy_(of_channels);
      sum = full.sum_to_size(argument.sizes());
    }
    return (factor == 1 ? sum : sum.mul(factor)).to(argument.scalar_type());
  };
  if (needed[1]) {
    result[1] = total(first, dense.first_varies, 0);
  }
  if (needed[2]) {
    result[2] = total(second, dense.second_varies, 1);
  }
  return result;
}

}  // namespace ste::cuda
