#include "kernels.h"

#include "../extent.h"
#include "parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/OpMathType.h>
#include <ATen/TensorIterator.h>
#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

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

bool are_alike(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.strides() == b.strides();
}

// x as rows, along which each argument that broadcasts to it has one value, or one for each element. What most tensors
// are needs no TensorIterator, which for a small one costs more than all of the rest of a call.
template <size_t n>
struct Rows {
  at::MemoryFormat format;
  int64_t size;                // of a row
  int64_t count;               // of the rows to a block, at whose start the arguments start anew
  bool is_inner;               // an argument has one value to a row
  std::array<bool, n> varies;  // or is one number

  // Elements of those arguments that vary.
  int64_t arguments() const { return is_inner ? count : size; }
};

template <size_t n>
std::optional<Rows<n>> rows_of(const at::Tensor& x, const std::array<const at::Tensor*, n>& arguments) {
  const auto format = x.is_contiguous() ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
  if (!x.is_contiguous(format) || x.numel() == 0) {
    return std::nullopt;
  }
  const auto order = order_of(x, format);
  Extent extent{1, 1, x.numel()};
  std::array<bool, n> varies{};
  std::optional<Extent> of_argument;
  for (size_t i = 0; i < n; ++i) {
    if (i == 0 || !are_alike(*arguments[i], *arguments[i - 1])) {
      of_argument = extent_along(x, *arguments[i], order);
    }
    const bool is_first = std::none_of(varies.begin(), varies.end(), std::identity());
    varies[i] = of_argument.has_value() && of_argument->middle > 1;
    if (!of_argument || (varies[i] && !is_first && *of_argument != extent)) {
      return std::nullopt;
    }
    if (varies[i]) {
      extent = *of_argument;
    }
  }
  // Rows are along the inner elements, which have the same arguments; where there are none, along the middle ones.
  if (extent.inner > 1 || extent.middle <= 1) {
    return Rows<n>{format, extent.inner, extent.middle, true, varies};
  }
  return Rows<n>{format, extent.middle, extent.outer, false, varies};
}

// Where the operands of a loop lie, as TensorIterator has it: how far an element of each is from the next in its row,
// and then how far a row from the next.
template <size_t operands, size_t n>
class Operands {
 public:
  explicit Operands(const Rows<n>& rows) : rows_(rows) {}

  const int64_t* strides() const { return strides_.data(); }

  // What has all of x's elements.
  void set_whole(size_t i, const void* data, int64_t element) {
    set(i, data, element, rows_.size * element);
    is_whole_[i] = true;
  }

  // What has an argument's, of this size each.
  void set_argument(size_t i, const void* data, int64_t element, bool varies) {
    set(i, data, varies && !rows_.is_inner ? element : 0, varies && rows_.is_inner ? element : 0);
  }

  // `function` of where the operands begin, of the size of a row and of the number of rows, until all elements of x
  // from the first one on had their turn.
  template <typename Function>
  void for_rows(int64_t first, int64_t end, const Function& function) const {
    while (first < end) {
      const int64_t row = first / rows_.size;
      const int64_t element = first % rows_.size;
      const int64_t row_of_block = row % rows_.count;
      const int64_t size = std::min(rows_.size - element, end - first);
      const int64_t count = size == rows_.size ? std::min(rows_.count - row_of_block, (end - first) / size) : 1;
      auto data = begin_;
      for (size_t i = 0; i < operands; ++i) {
        data[i] += element * strides_[i] + (is_whole_[i] ? row : row_of_block) * strides_[operands + i];
      }
      function(data.data(), size, count);
      first += size * count;
    }
  }

  // The same, of the elements of x that belong to some of the arguments' elements, from the first one on.
  template <typename Function>
  void for_arguments(int64_t first, int64_t end, int64_t elements, const Function& function) const {
    const int64_t blocks = rows_.is_inner ? elements / (rows_.size * rows_.count) : 1;
    for (int64_t block = 0; block < blocks; ++block) {
      auto data = begin_;
      for (size_t i = 0; i < operands; ++i) {
        const int64_t row = first + (is_whole_[i] ? block * rows_.count : 0);
        data[i] += rows_.is_inner ? row * strides_[operands + i] : first * strides_[i];
      }
      function(data.data(), rows_.is_inner ? rows_.size : end - first, rows_.is_inner ? end - first : rows_.count);
    }
  }

 private:
  void set(size_t i, const void* data, int64_t along, int64_t across) {
    begin_[i] = static_cast<char*>(const_cast<void*>(data));
    strides_[i] = along;
    strides_[operands + i] = across;
  }

  const Rows<n>& rows_;
  std::array<char*, operands> begin_{};
  std::array<int64_t, 2 * operands> strides_{};
  std::array<bool, operands> is_whole_{};
};

// What a thread takes is a multiple of this many elements, so that its part of a result begins with a line of the
// cache, which it shares with no other.
constexpr int64_t kUnit = 4096;

// Undefined where TensorIterator is needed.
template <size_t n, typename Loop>
at::Tensor dense(const Loop& loop, const at::Tensor& x, const std::array<const at::Tensor*, n>& bounds) {
  const auto rows = rows_of(x, bounds);
  if (!rows) {
    return {};
  }
  at::Tensor y(at::detail::empty_cpu(x.sizes(), x.scalar_type(), false, rows->format));
  Operands<n + 2, n> operands(*rows);
  operands.set_whole(0, y.mutable_data_ptr(), x.element_size());
  operands.set_whole(1, x.const_data_ptr(), x.element_size());
  for (size_t i = 0; i < n; ++i) {
    operands.set_argument(i + 2, bounds[i]->const_data_ptr(), bounds[i]->element_size(), rows->varies[i]);
  }
  const int64_t elements = x.numel();
  parallel_for((elements + kUnit - 1) / kUnit, at::internal::GRAIN_SIZE / kUnit, [&](int64_t begin, int64_t end) {
    operands.for_rows(
        begin * kUnit, std::min(end * kUnit, elements),
        [&](char* const* data, int64_t size, int64_t count) { loop(data, operands.strides(), size, count); });
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
  return elementwise(loops(x.scalar_type()).ternary_sign, x);
}

at::Tensor to_integer(const at::Tensor& x, Integer which) {
  return elementwise(with_rest(loops(x.scalar_type()).to_integer, which), x);
}

at::Tensor scalar_clamp(const at::Tensor& x, const at::Scalar& min_val, const at::Scalar& max_val) {
  return elementwise(with_rest(loops(x.scalar_type()).scalar_clamp, number(min_val), number(max_val)), x);
}

at::Tensor clamp(const at::Tensor& x, const at::Tensor& min_val, const at::Tensor& max_val) {
  return elementwise(loops(x.scalar_type()).clamp, x, min_val, max_val);
}

namespace {

// Elements to a part, each of which has sums of its own, in an order that no number of threads changes.
constexpr int64_t kPart = 1 << 15;
constexpr int64_t kMaxParts = 256;
// Sums of their own for fewer parts than this would leave most processors without work.
constexpr int64_t kEnoughParts = 16;

// Of so many elements of x, all sums together stay small beside x.
int64_t parts_with_sums(int64_t elements, int64_t sums) {
  return elements / (16 * std::max<int64_t>(1, sums));
}

// As at::empty_like of what is contiguous, without the dispatcher.
at::Tensor empty_contiguous(const at::Tensor& like) {
  return at::Tensor(at::detail::empty_cpu(like.sizes(), like.scalar_type(), false, at::MemoryFormat::Contiguous));
}

// One of the three gradients while it is computed.
struct Gradient {
  Gradient() = default;

  Gradient(const at::Tensor& argument, const at::Tensor& x)
      : kind(argument.numel() == x.numel() ? Output::store : Output::sum), size(argument.numel()) {
    if (kind == Output::store) {
      stored = argument.is_contiguous() ? empty_contiguous(argument) : at::empty_like(argument);
    }
  }

  // `count` times the sums.
  void allocate_sums(int64_t count) {
    copies = count;
    sums.reset(new double[static_cast<size_t>(copies * size)]);  // without the zeros, which take threads too
    parallel_for(copies * size, at::internal::GRAIN_SIZE, [&](int64_t begin, int64_t end) {
      std::fill(sums.get() + begin, sums.get() + end, 0.0);
    });
  }

  // The sums of all parts, times a factor.
  at::Tensor total(double factor, const at::Tensor& argument) const {
    at::Tensor result = empty_contiguous(argument);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, argument.scalar_type(), "total", [&] {
      auto* const to = result.mutable_data_ptr<scalar_t>();
      parallel_for(size, at::internal::GRAIN_SIZE / copies + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          double sum = 0;
          for (int64_t copy = 0; copy < copies; ++copy) {
            sum += sums[copy * size + i];
          }
          to[i] = static_cast<scalar_t>(static_cast<at::opmath_type<scalar_t>>(sum * factor));
        }
      });
    });
    return result;
  }

  Output kind = Output::none;
  int64_t size = 0;
  at::Tensor stored;
  std::unique_ptr<double[]> sums;  // for each of the parts, one after the other, or for all of them
  int64_t copies = 1;
};

// What a backward works on: g and x, two arguments that broadcast to x's shape, and the gradients to the last three, in
// the order of Loops::clamp_backward.
//
// It is done in parts, side by side. Each has some of x's elements, and sums of its own. Where that would be too many
// sums, each has some of the arguments' elements instead, with all that belongs to them, and so these sums to itself.
struct Backward {
  Backward(
      const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& first, const at::Tensor& second,
      const std::array<bool, 3>& needed)
      : g(gradient), x(input), arguments{&input, &first, &second} {
    const int64_t elements = x.numel();
    int64_t most_parts = kMaxParts;
    for (size_t i = 0; i < 3; ++i) {
      if (needed[i]) {
        gradients[i] = Gradient(*arguments[i], x);
        if (gradients[i].kind == Output::sum) {
          most_parts = std::min(most_parts, parts_with_sums(elements, gradients[i].size));
        }
      }
      outputs[i] = gradients[i].kind;
    }
    parts = std::clamp<int64_t>(elements / kPart, 1, kMaxParts);
    is_by_argument = parts > 1 && most_parts < std::min(parts, kEnoughParts);
    if (!is_by_argument) {
      parts = std::clamp<int64_t>(most_parts, 1, parts);
    }
    for (size_t i = 0; i < 3; ++i) {
      if (outputs[i] == Output::sum) {
        gradients[i].allocate_sums(parts_with_sums(elements, gradients[i].size) < parts ? 1 : parts);
        part_bytes[i] = gradients[i].copies == 1 ? 0 : gradients[i].size * static_cast<int64_t>(sizeof(double));
      }
    }
  }

  // The operands of a loop, moved on to the sums of a part.
  std::array<char*, 7> of_part(int64_t part, char* const* data) const {
    std::array<char*, 7> moved;
    std::copy_n(data, moved.size(), moved.begin());
    for (size_t i = 0; i < 3; ++i) {
      moved[i] += part * part_bytes[i];
    }
    return moved;
  }

  // `function` of each part, and of where it begins and ends of so many elements.
  template <typename Function>
  void for_parts(int64_t elements, const Function& function) const {
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        function(part, elements * part / parts, elements * (part + 1) / parts);
      }
    });
  }

  const at::Tensor& g;
  const at::Tensor& x;
  std::array<const at::Tensor*, 3> arguments;
  std::array<Gradient, 3> gradients;
  std::array<Output, 3> outputs{};
  std::array<int64_t, 3> part_bytes{};
  int64_t parts = 1;
  bool is_by_argument = false;
};

// Whether it was done without TensorIterator.
template <typename Loop>
bool dense_backward(const Loop& loop, const Backward& backward) {
  const auto& [g, x, arguments, gradients, outputs, part_bytes, parts, is_by_argument] = backward;
  const auto rows = rows_of<2>(x, {arguments[1], arguments[2]});
  if (!rows || !are_alike(g, x)) {
    return false;
  }
  const double unused = 0;  // what is not needed goes nowhere
  Operands<7, 2> operands(*rows);
  operands.set_whole(3, g.const_data_ptr(), g.element_size());
  operands.set_whole(4, x.const_data_ptr(), x.element_size());
  for (size_t i = 0; i < 3; ++i) {
    const bool varies = i == 0 || rows->varies[i - 1];
    if (i > 0) {
      const auto& argument = *arguments[i];
      operands.set_argument(4 + i, argument.const_data_ptr(), argument.element_size(), varies);
    }
    switch (outputs[i]) {
      case Output::none:
        operands.set_argument(i, &unused, 0, varies);
        break;
      case Output::store:
        operands.set_whole(i, gradients[i].stored.const_data_ptr(), arguments[i]->element_size());
        break;
      case Output::sum:
        operands.set_argument(i, gradients[i].sums.get(), sizeof(double), varies);
        break;
    }
  }
  const int64_t elements = x.numel();
  backward.for_parts(is_by_argument ? rows->arguments() : elements, [&](int64_t part, int64_t first, int64_t end) {
    const auto of_rows = [&](char* const* data, int64_t size, int64_t count) {
      loop(backward.of_part(part, data).data(), operands.strides(), size, count, backward.outputs.data());
    };
    if (backward.is_by_argument) {
      operands.for_arguments(first, end, elements, of_rows);
    } else {
      operands.for_rows(first, end, of_rows);
    }
  });
  return true;
}

// The longest dimension along which no two elements belong to the same sum of all parts; -1 where there is none.
int64_t dim_of_arguments(const at::TensorIterator& iterator, const Backward& backward) {
  int64_t longest = -1;
  for (int64_t dim = 0; dim < iterator.ndim(); ++dim) {
    bool is_apart = true;
    for (size_t i = 0; i < 3; ++i) {
      const bool is_shared = backward.outputs[i] == Output::sum && backward.part_bytes[i] == 0;
      is_apart = is_apart && !(is_shared && iterator.strides(static_cast<int64_t>(i))[dim] == 0);
    }
    if (is_apart && (longest < 0 || iterator.shape()[dim] > iterator.shape()[longest])) {
      longest = dim;
    }
  }
  return longest;
}

template <typename Loop>
void backward_of_any(const Loop& loop, const Backward& backward) {
  const auto& x = backward.x;
  const auto unused = at::empty({}, x.options());
  std::array<at::Tensor, 3> targets;
  for (size_t i = 0; i < 3; ++i) {
    const auto& gradient = backward.gradients[i];
    const auto sums = [&] {
      return at::from_blob(gradient.sums.get(), backward.arguments[i]->sizes(), x.options().dtype(at::kDouble));
    };
    targets[i] = gradient.kind == Output::store ? gradient.stored : gradient.kind == Output::sum ? sums() : unused;
    targets[i] = targets[i].expand(x.sizes());
  }
  // Several elements of a target may be one number in memory: that is how it is summed.
  auto config = at::TensorIteratorConfig();
  config.set_check_mem_overlap(false).check_all_same_dtype(false).resize_outputs(false);
  for (const auto& target : targets) {
    config.add_borrowed_output(target);
  }
  config.add_borrowed_const_input(backward.g).add_borrowed_const_input(x);
  config.add_borrowed_const_input(*backward.arguments[1]).add_borrowed_const_input(*backward.arguments[2]);
  const at::TensorIterator iterator = config.build();
  const auto of_part = [&](int64_t part) {
    return [&, part](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
      loop(backward.of_part(part, data).data(), strides, size0, size1, backward.outputs.data());
    };
  };
  if (!backward.is_by_argument) {
    backward.for_parts(iterator.numel(), [&](int64_t part, int64_t first, int64_t end) {
      iterator.serial_for_each(of_part(part), {first, end});
    });
    return;
  }
  const int64_t dim = dim_of_arguments(iterator, backward);
  if (dim < 0) {
    iterator.serial_for_each(of_part(0), {0, iterator.numel()});
    return;
  }
  backward.for_parts(iterator.shape()[dim], [&](int64_t part, int64_t first, int64_t end) {
    if (first < end) {
      at::TensorIterator some(iterator);
      some.narrow(static_cast<int>(dim), first, end - first);
      some.serial_for_each(of_part(part), {0, some.numel()});
    }
  });
}

// The gradients to x and, times a factor, to two arguments that broadcast to its shape. `loop` is as
// Loops::clamp_backward.
template <typename Loop>
std::array<at::Tensor, 3> backward(
    const Loop& loop, const at::Tensor& g, const at::Tensor& x, const at::Tensor& first, const at::Tensor& second,
    const std::array<bool, 3>& needed, double factor = 1) {
  const Backward backward(g, x, first, second, needed);
  if (!dense_backward(loop, backward)) {
    backward_of_any(loop, backward);
  }
  std::array<at::Tensor, 3> result;
  for (size_t i = 0; i < 3; ++i) {
    const auto& gradient = backward.gradients[i];
    if (gradient.kind == Output::sum) {
      result[i] = gradient.total(factor, *backward.arguments[i]);
    } else {
      const bool has_factor = i > 0 && factor != 1 && gradient.kind == Output::store;
      result[i] = has_factor ? gradient.stored.mul(factor) : gradient.stored;
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
  return elementwise(with_rest(loops(x.scalar_type()).binary_sign, number(low)), x);
}

at::Tensor fake_quantize(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Ends& ends) {
  const auto loop = with_rest(loops(x.scalar_type()).fake_quantize, ends);
  return elementwise(loop, x, scale, zero_point);
}

std::array<at::Tensor, 3> fake_quantize_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point, const Ends& ends,
    double grad_scale, const std::array<bool, 3>& needed) {
  const auto loop = [loop = loops(x.scalar_type()).fake_quantize_backward, ends](
                        char* const* data, const int64_t* strides, int64_t size0, int64_t size1,
                        const Output* outputs) { loop(data, strides, size0, size1, outputs, ends); };
  return backward(loop, g, x, scale, zero_point, needed, grad_scale);
}

}  // namespace

const Kernels kernels{&is_dense, &binary_sign, &clamp_backward, &fake_quantize, &fake_quantize_backward};

}  // namespace ste::cpu
