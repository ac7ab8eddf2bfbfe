#include "kernels.h"

#include "../elements.h"
#include "../extent.h"
#include "reduce.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/TensorIterator.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <ATen/native/cuda/Loops.cuh>

#include <array>
#include <cstdint>
#include <optional>

namespace ste::cuda {

bool is_dense(const at::Tensor& tensor) {
  using c10::DispatchKey;
  return is_dense_on<DispatchKey::CUDA, DispatchKey::AutogradCUDA, DispatchKey::AutocastCUDA>(tensor);
}

namespace {

at::Tensor binary_sign(const at::Tensor& x, const at::Scalar& low) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto iterator = at::TensorIteratorConfig().add_owned_output(at::Tensor()).add_borrowed_const_input(x).build();
  AT_DISPATCH_ALL_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "binary_sign", [&] {
    const auto below = low.to<scalar_t>();
    at::native::gpu_kernel_nocast(
        iterator, [below] GPU_LAMBDA(scalar_t value) -> scalar_t { return element::binary_sign(value, below); });
  });
  return iterator.output();
}

// As many neighbors as one load of 128 bits takes.
template <typename T>
constexpr int kPack = 16 / sizeof(T);

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Two arguments along x: where they have one extent, or are numbers beside it.
struct Along {
  Extent extent;
  bool first_varies = false;
  bool second_varies = false;
};

std::optional<Along> along(
    const at::Tensor& x, const at::Tensor& first, const at::Tensor& second, at::MemoryFormat format) {
  const auto order = order_of(x, format);
  const auto of_first = extent_along(x, first, order);
  const auto of_second = extent_along(x, second, order);
  if (!of_first || !of_second) {
    return std::nullopt;
  }
  Along result{{1, 1, x.numel()}, of_first->middle > 1, of_second->middle > 1};
  if (result.first_varies && result.second_varies && *of_first != *of_second) {
    return std::nullopt;
  }
  if (result.first_varies || result.second_varies) {
    result.extent = result.first_varies ? *of_first : *of_second;
  }
  return result;
}

std::optional<at::MemoryFormat> format_of(const at::Tensor& x) {
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    if (x.is_contiguous(format)) {
      return format;
    }
  }
  return std::nullopt;
}

template <typename W>
struct EndsIn {
  explicit EndsIn(const Ends& ends)
      : quant_min(static_cast<W>(ends.quant_min)), quant_max(static_cast<W>(ends.quant_max)), inside(ends.inside) {}

  W quant_min;
  W quant_max;
  Inside inside;
};

// A pack has one channel, or one for each of its elements; and all elements are in packs.
bool fits_packs(const Extent& sizes, int pack) {
  return sizes.inner % pack == 0 || (sizes.inner == 1 && sizes.middle % pack == 0);
}

// In 32 bits where they suffice: a GPU has no instruction for a division, and takes three times as long for 64.
C10_DEVICE int64_t channel_of(int64_t element, const Extent& sizes) {
  if (((element | sizes.inner | sizes.middle) >> 32) == 0) {
    const auto row = static_cast<uint32_t>(element) / static_cast<uint32_t>(sizes.inner);
    return row % static_cast<uint32_t>(sizes.middle);
  }
  return element / sizes.inner % sizes.middle;
}

template <typename T, typename W, int pack>
__global__ __launch_bounds__(kThreads) void fake_quantize_kernel(
    T* y, const T* x, const W* scale, const W* zero_point, Along along, int64_t size, EndsIn<W> ends) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * pack;
  if (first >= size) {
    return;
  }
  const auto& sizes = along.extent;
  const int64_t channel = sizes.middle == 1 ? 0 : channel_of(first, sizes);
  const int step = sizes.inner == 1 ? 1 : 0;
  const auto one = [&](T value, int k) {
    const element::Grid<W> grid{
        scale[along.first_varies ? channel + k * step : 0], zero_point[along.second_varies ? channel + k * step : 0],
        ends.quant_min, ends.quant_max};
    return static_cast<T>(element::fake_quantize(static_cast<W>(value), grid));
  };
  const auto from = load<T, pack>(x + first);
  Pack<T, pack> to;
#pragma unroll
  for (int k = 0; k < pack; ++k) {
    to.values[k] = one(from.values[k], k);
  }
  store<T, pack>(to, y + first);
}

template <typename T, int pack>
void launch_fake_quantize(
    const at::Tensor& y, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Along& along,
    const Ends& ends) {
  using W = at::opmath_type<T>;
  const int64_t per_block = static_cast<int64_t>(kThreads) * pack;
  const auto blocks = static_cast<unsigned int>((x.numel() + per_block - 1) / per_block);
  fake_quantize_kernel<T, W, pack><<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      y.mutable_data_ptr<T>(), x.const_data_ptr<T>(), scale.const_data_ptr<W>(), zero_point.const_data_ptr<W>(), along,
      x.numel(), EndsIn<W>(ends));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor fake_quantize(
    const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Ends& original_ends) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto format = format_of(x);
  const auto dense = format ? along(x, scale, zero_point, *format) : std::nullopt;
  if (dense && x.numel() > 0) {
    const auto y = at::empty_like(x, x.options(), *format);
    const bool are_aligned = is_aligned(x.const_data_ptr()) && is_aligned(y.const_data_ptr());
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize", [&] {
      constexpr int pack = kPack<scalar_t>;
      const bool in_packs = are_aligned && fits_packs(dense->extent, pack);
      const auto launch = in_packs ? &launch_fake_quantize<scalar_t, pack> : &launch_fake_quantize<scalar_t, 1>;
      launch(y, x, scale, zero_point, *dense, original_ends);
    });
    return y;
  }
  auto iterator = at::TensorIteratorConfig()
                      .check_all_same_dtype(false)
                      .declare_static_dtype(x.scalar_type())
                      .add_owned_output(at::Tensor())
                      .add_borrowed_const_input(x)
                      .add_borrowed_const_input(scale)
                      .add_borrowed_const_input(zero_point)
                      .build();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize", [&] {
    using W = at::opmath_type<scalar_t>;
    const EndsIn<W> ends(original_ends);
    at::native::gpu_kernel_nocast(iterator, [ends] GPU_LAMBDA(scalar_t value, W step, W shift) -> scalar_t {
      const element::Grid<W> grid{step, shift, ends.quant_min, ends.quant_max};
      return static_cast<scalar_t>(element::fake_quantize(static_cast<W>(value), grid));
    });
  });
  return iterator.output();
}

template <typename W>
struct By {
  W x;
  W first;
  W second;
};

template <typename W>
struct ClampGradient {
  C10_HOST_DEVICE By<W> operator()(W g, W x, W min_val, W max_val) const {
    const auto by = element::clamp_backward(g, x, min_val, max_val);
    return {by.x, by.min_val, by.max_val};
  }
};

template <typename W>
struct FakeQuantizeGradient {
  EndsIn<W> ends;

  C10_HOST_DEVICE By<W> operator()(W g, W x, W scale, W zero_point) const {
    const element::Grid<W> grid{scale, zero_point, ends.quant_min, ends.quant_max};
    const auto by = ends.inside == Inside::rounded ? element::fake_quantize_backward<Inside::rounded>(g, x, grid)
                                                   : element::fake_quantize_backward<Inside::scaled>(g, x, grid);
    return {by.x, by.scale, by.zero_point};
  }
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

// The gradients to x and, times a factor, to two arguments that broadcast to its shape.
template <typename T, typename A, typename Gradient>
std::array<at::Tensor, 3> backward(
    const Gradient& gradient, const at::Tensor& original_g, const at::Tensor& original_x, const at::Tensor& first,
    const at::Tensor& second, const std::array<bool, 3>& needed, double factor) {
  const auto format = format_of(original_x).value_or(at::MemoryFormat::Contiguous);
  const auto x = original_x.contiguous(format);
  const auto g = original_g.contiguous(format);
  // Where the arguments lie otherwise along x, they are made as large as x, and so are their gradients at first.
  const auto found = along(x, first, second, format);
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
  const bool in_columns = sizes.inner == 1 && sizes.middle > 1;
  // A block for each channel would have more threads than there is work.
  const bool are_short = sizes.outer * sizes.inner <= static_cast<int64_t>(kThreads) * (in_packs ? kPack<T> : 1);
  const auto launch = in_columns ? &launch_reduction<T, A, Gradient, 1, Threads::in_columns, 32>
                      : in_packs ? (are_short ? &launch_reduction<T, A, Gradient, kPack<T>, Threads::in_rows, 16>
                                              : &launch_reduction<T, A, Gradient, kPack<T>, Threads::in_rows, 1>)
                                 : (are_short ? &launch_reduction<T, A, Gradient, 1, Threads::in_rows, 16>
                                              : &launch_reduction<T, A, Gradient, 1, Threads::in_rows, 1>);
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

std::array<at::Tensor, 3> clamp_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val,
    const std::array<bool, 3>& needed) {
  const c10::cuda::CUDAGuard guard(x.device());
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "clamp_backward", [&] {
    using W = at::opmath_type<scalar_t>;
    return backward<scalar_t, scalar_t>(ClampGradient<W>{}, g, x, min_val, max_val, needed, 1);
  });
}

std::array<at::Tensor, 3> fake_quantize_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Ends& ends,
    double grad_scale, const std::array<bool, 3>& needed) {
  const c10::cuda::CUDAGuard guard(x.device());
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "fake_quantize_backward", [&] {
    using W = at::opmath_type<scalar_t>;
    const FakeQuantizeGradient<W> gradient{EndsIn<W>(ends)};
    return backward<scalar_t, W>(gradient, g, x, scale, zero_point, needed, grad_scale);
  });
}

}  // namespace

const Kernels kernels{&is_dense, &binary_sign, &clamp_backward, &fake_quantize, &fake_quantize_backward};

}  // namespace ste::cuda
