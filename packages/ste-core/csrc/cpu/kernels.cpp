#include "kernels.h"

#include "loops.h"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

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
  constexpr c10::DispatchKeySet dense{
      DispatchKey::CPU, DispatchKey::ADInplaceOrView, DispatchKey::AutogradCPU, DispatchKey::AutocastCPU};
  return tensor.key_set().has(DispatchKey::CPU) && (tensor.key_set() | dense) == dense;
}

namespace {

Number number(const at::Scalar& scalar) {
  return scalar.isFloatingPoint() ? Number{scalar.toDouble(), 0} : Number{0, scalar.toLong()};
}

template <typename Loop, typename... Numbers>
at::Tensor unary(const at::Tensor& x, Loop loop, Numbers... numbers) {
  auto iterator = at::TensorIteratorConfig().add_owned_output(at::Tensor()).add_borrowed_const_input(x).build();
  iterator.for_each([=](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
    loop(data, strides, size0, size1, numbers...);
  });
  return iterator.output();
}

}  // namespace

at::Tensor binary_sign(const at::Tensor& x, const at::Scalar& low) {
  return unary(x, loops(x.scalar_type()).binary_sign, number(low));
}

at::Tensor ternary_sign(const at::Tensor& x) {
  return unary(x, loops(x.scalar_type()).ternary_sign);
}

at::Tensor scalar_clamp(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val) {
  return unary(x, loops(x.scalar_type()).scalar_clamp, number(min_val), number(max_val));
}

at::Tensor clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  auto iterator = at::TensorIteratorConfig()
                      .add_owned_output(at::Tensor())
                      .add_borrowed_const_input(x)
                      .add_borrowed_const_input(min_val)
                      .add_borrowed_const_input(max_val)
                      .build();
  const auto loop = loops(x.scalar_type()).clamp;
  iterator.for_each(
      [=](char** data, const int64_t* strides, int64_t size0, int64_t size1) { loop(data, strides, size0, size1); });
  return iterator.output();
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

}  // namespace

std::array<at::Tensor, 3> clamp_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val,
    const std::array<bool, 3>& needed) {
  const std::array<const at::Tensor*, 3> arguments{&x, &min_val, &max_val};
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
  config.add_borrowed_const_input(min_val).add_borrowed_const_input(max_val);
  const auto iterator = config.build();

  const auto loop = loops(x.scalar_type()).clamp_backward;
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
    result[i] = outputs[i] == Output::sum ? memory.sum(0).to(x.scalar_type()) : memory;
  }
  return result;
}

}  // namespace ste::cpu
