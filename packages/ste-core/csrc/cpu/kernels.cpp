#include "kernels.h"

#include "../extent.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <optional>

namespace ste::cpu {

Loops loops(at::ScalarType dtype) {
  static const auto chosen = [] {
#ifdef STE_X86
    const auto capability = at::get_cpu_capability();
    if (capability == "AVX512") {
      return &AVX512::loops;
    }
    if (capability == "AVX2") {
      return &AVX2::loops;
    }
#endif
    return &DEFAULT::loops;
  }();
  return chosen(dtype);
}

bool is_dense(const at::Tensor& tensor) {
  using c10::DispatchKey;
  return is_dense_on<DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::AutocastCPU>(tensor);
}

namespace {

Number number(const at::Scalar& scalar) {
  return scalar.isFloatingPoint() ? Number{scalar.toDouble(), 0} : Number{0, scalar.toLong()};
}

template <typename Loop, typename... Rest>
auto with_rest(Loop loop, Rest... rest) {
  return [=](char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
    loop(data, strides, size0, size1, rest...);
  };
}

// A result of more bytes than the cache has room for beside the rest.
constexpr int64_t kPastCache = 1 << 24;

Write write_of(const at::Tensor& y) {
  return y.numel() * y.element_size() < kPastCache ? Write::cached : Write::past_cache;
}

bool are_alike(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.strides() == b.strides();
}

// What most tensors are needs no TensorIterator, which for a small one costs more than all of the rest of a call.
// Undefined where it is needed.
template <size_t n, typename Loop>
at::Tensor dense(const Loop& loop, const at::Tensor& x, const std::array<const at::Tensor*, n>& bounds) {
  const auto format = x.is_contiguous() ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
  if (!x.is_contiguous(format) || x.numel() == 0) {
    return {};
  }
  const auto order = order_of(x, format);
  Extent extent{1, 1, x.numel()};
  std::array<bool, n + 2> varies{};
  std::optional<Extent> of_bound;
  for (size_t i = 0; i < n; ++i) {
    if (i == 0 || !are_alike(*bounds[i], *bounds[i - 1])) {
      of_bound = extent_along(x, *bounds[i], order);
    }
    const bool is_first = std::none_of(varies.begin(), varies.end(), std::identity());
    varies[i + 2] = of_bound.has_value() && of_bound->middle > 1;
    if (!of_bound || (varies[i + 2] && !is_first && *of_bound != extent)) {
      return {};
    }
    if (varies[i + 2]) {
      extent = *of_bound;
    }
  }

  // Rows are along the inner elements, which have the same bounds; where there are none, along the middle ones.
  const bool is_inner = extent.inner > 1 || extent.middle <= 1;
  const int64_t row = is_inner ? extent.inner : extent.middle;
  const int64_t rows = is_inner ? extent.middle : extent.outer;  // to a block, at whose start the bounds start anew
  const int64_t total = is_inner ? extent.outer * extent.middle : extent.outer;
  constexpr int64_t grain = at::internal::GRAIN_SIZE;
  if (total > 1 && row > grain && total < 8 * at::get_num_threads()) {
    return {};  // too few rows to share out
  }
  at::Tensor y(at::detail::empty_cpu(x.sizes(), x.scalar_type(), false, format));
  std::array<char*, n + 2> begin{
      static_cast<char*>(y.mutable_data_ptr()), static_cast<char*>(const_cast<void*>(x.const_data_ptr()))};
  std::array<int64_t, 2 * (n + 2)> strides{x.element_size(), x.element_size()};
  int64_t* const outer = strides.data() + n + 2;
  std::fill_n(outer, 2, row * x.element_size());
  for (size_t i = 2; i < n + 2; ++i) {
    const int64_t size = bounds[i - 2]->element_size();
    begin[i] = static_cast<char*>(const_cast<void*>(bounds[i - 2]->const_data_ptr()));
    strides[i] = varies[i] && !is_inner ? size : 0;
    outer[i] = varies[i] && is_inner ? size : 0;
  }
  if (total == 1) {
    at::parallel_for(0, row, grain, [&](int64_t first, int64_t end) {
      auto data = begin;
      for (size_t i = 0; i < n + 2; ++i) {
        data[i] += first * strides[i];
      }
      loop(data.data(), strides.data(), end - first, 1);
    });
    return y;
  }
  at::parallel_for(0, total, std::max<int64_t>(1, grain / row), [&](int64_t first, int64_t end) {
    while (first < end) {
      const int64_t count = std::min(rows - first % rows, end - first);
      auto data = begin;
      for (size_t i = 0; i < n + 2; ++i) {
        data[i] += (i < 2 ? first : first % rows) * outer[i];
      }
      loop(data.data(), strides.data(), row, count);
      first += count;
    }
  });
  return y;
}

// A loop over x and the bounds, which broadcast to its shape.
template <typename Loop, typename... Bounds>
at::Tensor elementwise(const Loop& loop, const at::Tensor& x, const Bounds&... bounds) {
  if (auto y = dense<sizeof...(Bounds)>(loop, x, {&bounds...}); y.defined()) {
    return y;
  }
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).declare_static_dtype(x.scalar_type());
  config.add_owned_output(at::Tensor()).add_borrowed_const_input(x);
  (config.add_borrowed_const_input(bounds), ...);
  auto iterator = config.build();
  iterator.for_each(loop);
  return iterator.output();
}

}  // namespace

at::Tensor ternary_sign(const at::Tensor& x) {
  return elementwise(with_rest(loops(x.scalar_type()).ternary_sign, write_of(x)), x);
}

at::Tensor to_integer(const at::Tensor& x, Integer which) {
  return elementwise(with_rest(loops(x.scalar_type()).to_integer, write_of(x), which), x);
}

at::Tensor scalar_clamp(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val) {
  return elementwise(with_rest(loops(x.scalar_type()).scalar_clamp, write_of(x), number(min_val), number(max_val)), x);
}

at::Tensor clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  return elementwise(with_rest(loops(x.scalar_type()).clamp, write_of(x)), x, min_val, max_val);
}

namespace {

// Elements to a slice, each of which has sums of its own, in an order that no number of threads changes.
constexpr int64_t kSlice = 1 << 15;
constexpr int64_t kMaxSlices = 64;

// One of the three gradients while it is computed.
struct Gradient {
  Output kind = Output::none;
  at::Tensor memory;  // what the loops write; for sums, that of the slices, one after the other
  at::Tensor target;  // the part of it that belongs to the first slice, in x's shape
};

int64_t number_of_slices(int64_t elements, int64_t sums) {
  const int64_t slices = std::clamp<int64_t>(elements / kSlice, 1, kMaxSlices);
  // All of the sums together stay small beside x.
  return std::min(slices, std::max<int64_t>(1, elements / (16 * std::max<int64_t>(1, sums))));
}

// The sums of all slices, times a factor.
at::Tensor total(const at::Tensor& slices, double factor, at::ScalarType dtype) {
  auto result = at::empty(slices.sizes().slice(1), slices.options().dtype(dtype));
  const int64_t count = slices.size(0);
  const int64_t size = result.numel();
  const auto* const from = slices.const_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "total", [&] {
    auto* const to = result.mutable_data_ptr<scalar_t>();
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int64_t slice = 0; slice < count; ++slice) {
        sum += from[slice * size + i];
      }
      to[i] = static_cast<scalar_t>(static_cast<at::opmath_type<scalar_t>>(sum * factor));
    }
  });
  return result;
}

// The gradients to x and, times a factor, to two arguments that broadcast to its shape. `loop` is as
// Loops::clamp_backward.
template <typename Loop>
std::array<at::Tensor, 3> backward(
    const Loop& loop, const at::Tensor& g, const at::Tensor& x, const at::Tensor& first, const at::Tensor& second,
    const std::array<bool, 3>& needed, double factor = 1) {
  const std::array<const at::Tensor*, 3> arguments{&x, &first, &second};
  std::array<Gradient, 3> gradients;
  int64_t sums = 0;
  for (size_t i = 0; i < 3; ++i) {
    if (needed[i]) {
      gradients[i].kind = arguments[i]->numel() == x.numel() ? Output::store : Output::sum;
      if (gradients[i].kind == Output::sum) {
        sums = std::max(sums, arguments[i]->numel());
      }
    }
  }
  const int64_t slices = number_of_slices(x.numel(), sums);

  const auto unused = at::empty({}, x.options());
  for (size_t i = 0; i < 3; ++i) {
    auto& gradient = gradients[i];
    switch (gradient.kind) {
      case Output::none:
        gradient.target = unused;
        break;
      case Output::store:
        gradient.memory = at::empty_like(*arguments[i]);
        gradient.target = gradient.memory;
        break;
      case Output::sum: {
        auto with_slices = arguments[i]->sizes().vec();
        with_slices.insert(with_slices.begin(), slices);
        gradient.memory = at::zeros(with_slices, x.options().dtype(at::kDouble));
        gradient.target = gradient.memory[0];
        break;
      }
    }
    gradient.target = gradient.target.expand(x.sizes());
  }

  // Several elements of a target may be one number in memory: that is how it is summed.
  auto config = at::TensorIteratorConfig();
  config.set_check_mem_overlap(false).check_all_same_dtype(false).resize_outputs(false);
  for (const auto& gradient : gradients) {
    config.add_borrowed_output(gradient.target);
  }
  config.add_borrowed_const_input(g).add_borrowed_const_input(x);
  config.add_borrowed_const_input(first).add_borrowed_const_input(second);
  const auto iterator = config.build();

  const std::array<Output, 3> outputs{gradients[0].kind, gradients[1].kind, gradients[2].kind};
  std::array<int64_t, 3> slice_bytes{};
  for (size_t i = 0; i < 3; ++i) {
    slice_bytes[i] = outputs[i] == Output::sum ? arguments[i]->numel() * static_cast<int64_t>(sizeof(double)) : 0;
  }
  at::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice) {
      const auto of_slice = [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
        std::array<char*, 7> moved;
        std::copy_n(data, moved.size(), moved.begin());
        for (size_t i = 0; i < 3; ++i) {
          moved[i] += slice * slice_bytes[i];
        }
        loop(moved.data(), strides, size0, size1, outputs.data());
      };
      const int64_t elements = iterator.numel();
      iterator.serial_for_each(of_slice, {elements * slice / slices, elements * (slice + 1) / slices});
    }
  });

  std::array<at::Tensor, 3> result;
  for (size_t i = 0; i < 3; ++i) {
    const auto& memory = gradients[i].memory;
    if (outputs[i] == Output::sum) {
      result[i] = total(memory, factor, arguments[i]->scalar_type());
    } else {
      result[i] = outputs[i] == Output::store && i > 0 && factor != 1 ? memory.mul(factor) : memory;
    }
  }
  return result;
}

std::array<at::Tensor, 3> clamp_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val,
    const std::array<bool, 3>& needed) {
  return backward(loops(x.scalar_type()).clamp_backward, g, x, min_val, max_val, needed);
}

at::Tensor binary_sign(const at::Tensor& x, const at::Scalar& low) {
  return elementwise(with_rest(loops(x.scalar_type()).binary_sign, write_of(x), number(low)), x);
}

at::Tensor fake_quantize(
    const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max) {
  const Ends ends{static_cast<double>(quant_min), static_cast<double>(quant_max)};
  const auto loop = with_rest(loops(x.scalar_type()).fake_quantize, write_of(x), ends);
  return elementwise(loop, x, scale, zero_point);
}

std::array<at::Tensor, 3> fake_quantize_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min,
    int64_t quant_max, double grad_scale, const std::array<bool, 3>& needed) {
  const Ends ends{static_cast<double>(quant_min), static_cast<double>(quant_max)};
  const auto loop = [loop = loops(x.scalar_type()).fake_quantize_backward, ends](
                        char* const* data, const int64_t* strides, int64_t size0, int64_t size1,
                        const Output* outputs) { loop(data, strides, size0, size1, outputs, ends); };
  return backward(loop, g, x, scale, zero_point, needed, grad_scale);
}

}  // namespace

const Kernels kernels{&is_dense, &binary_sign, &clamp_backward, &fake_quantize, &fake_quantize_backward};

}  // namespace ste::cpu
