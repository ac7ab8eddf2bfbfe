#include "backward.h"

#include "parallel.h"
#include "rows.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/OpMathType.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <memory>

namespace ste::cpu {
namespace {

// Elements per part. Each part has its own sums, in an order that does not depend on the number of threads.
constexpr int64_t kPart = 1 << 15;
constexpr int64_t kMaxParts = 256;
// With fewer parts than this, each with its own sums, most processors would have no work.
constexpr int64_t kEnoughParts = 16;

// How many parts can have sums of their own, such that all sums together stay small compared with x.
int64_t parts_with_sums(int64_t elements, int64_t sums) {
  return elements / (16 * std::max<int64_t>(1, sums));
}

// at::empty_like for contiguous tensors, without the dispatcher.
at::Tensor empty_contiguous(const at::Tensor& like) {
  return at::Tensor(at::detail::empty_cpu(like.sizes(), like.scalar_type(), false, at::MemoryFormat::Contiguous));
}

// One of the three gradients, during its computation.
struct Gradient {
  Gradient() = default;

  Gradient(const at::Tensor& argument, const at::Tensor& x)
      : kind(argument.numel() == x.numel() ? Output::store : Output::sum), size(argument.numel()) {
    if (kind == Output::store) {
      stored = argument.is_contiguous() ? empty_contiguous(argument) : at::empty_like(argument);
    }
  }

  // Allocates `count` copies of the sums.
  void allocate_sums(int64_t count) {
    copies = count;
    sums.reset(new double[static_cast<size_t>(copies * size)]);  // not zeroed here: that takes threads too
    parallel_for(copies * size, at::internal::GRAIN_SIZE, [&](int64_t begin, int64_t end) {
      std::fill(sums.get() + begin, sums.get() + end, 0.0);
    });
  }

  // The total over all parts, times a factor.
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
  std::unique_ptr<double[]> sums;  // one copy after the other, for each part; or one copy for all parts
  int64_t copies = 1;
};

// What a backward works on: g and x, two arguments that broadcast to x's shape, and the gradients to the last three, in
// the order of a backward's operands.
//
// The parts are computed in parallel. Each has some of x's elements, and sums of its own. If that would be too many
// sums, each part instead has some of the arguments' elements, with all elements of x that belong to them, and shares
// their sums with no other part.
struct Task {
  Task(
      const at::Tensor& gradient, const at::Tensor& input, const Arguments<2>& others,
      const std::array<bool, 3>& needed)
      : g(gradient), x(input), arguments{&input, others[0], others[1]} {
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

  // The operands of a loop, advanced to the sums of a part.
  std::array<char*, 7> of_part(int64_t part, char* const* data) const {
    std::array<char*, 7> moved;
    std::copy_n(data, moved.size(), moved.begin());
    for (size_t i = 0; i < 3; ++i) {
      moved[i] += part * part_bytes[i];
    }
    return moved;
  }

  // Calls `function` with each part, and with its begin and end among so many elements.
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

// Returns whether it could be done without TensorIterator.
bool backward_of_rows(BackwardLoop loop, const Task& task) {
  const auto& [g, x, arguments, gradients, outputs, part_bytes, parts, is_by_argument] = task;
  const auto rows = rows_of<2>(x, {arguments[1], arguments[2]});
  if (!rows || !have_one_layout(g, x)) {
    return false;
  }
  const double unused = 0;  // gradients that are not needed are not written
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
  task.for_parts(is_by_argument ? rows->arguments() : elements, [&](int64_t part, int64_t first, int64_t end) {
    const auto of_rows = [&](char* const* data, int64_t size, int64_t count) {
      loop(task.of_part(part, data).data(), operands.strides(), size, count, task.outputs.data());
    };
    if (task.is_by_argument) {
      operands.for_arguments(first, end, elements, of_rows);
    } else {
      operands.for_rows(first, end, of_rows);
    }
  });
  return true;
}

// The longest dimension along which no two elements add to the same shared sum; -1 if there is none.
int64_t dim_of_arguments(const at::TensorIterator& iterator, const Task& task) {
  int64_t longest = -1;
  for (int64_t dim = 0; dim < iterator.ndim(); ++dim) {
    bool is_apart = true;
    for (size_t i = 0; i < 3; ++i) {
      const bool is_shared = task.outputs[i] == Output::sum && task.part_bytes[i] == 0;
      is_apart = is_apart && !(is_shared && iterator.strides(static_cast<int64_t>(i))[dim] == 0);
    }
    if (is_apart && (longest < 0 || iterator.shape()[dim] > iterator.shape()[longest])) {
      longest = dim;
    }
  }
  return longest;
}

void backward_of_any(BackwardLoop loop, const Task& task) {
  const auto& x = task.x;
  const auto unused = at::empty({}, x.options());
  std::array<at::Tensor, 3> targets;
  for (size_t i = 0; i < 3; ++i) {
    const auto& gradient = task.gradients[i];
    const auto sums = [&] {
      return at::from_blob(gradient.sums.get(), task.arguments[i]->sizes(), x.options().dtype(at::kDouble));
    };
    targets[i] = gradient.kind == Output::store ? gradient.stored : gradient.kind == Output::sum ? sums() : unused;
    targets[i] = targets[i].expand(x.sizes());
  }
  // Several elements of a target may share a number in memory: that is how they are summed.
  auto config = at::TensorIteratorConfig();
  config.set_check_mem_overlap(false).check_all_same_dtype(false).resize_outputs(false);
  for (const auto& target : targets) {
    config.add_borrowed_output(target);
  }
  config.add_borrowed_const_input(task.g).add_borrowed_const_input(x);
  config.add_borrowed_const_input(*task.arguments[1]).add_borrowed_const_input(*task.arguments[2]);
  const at::TensorIterator iterator = config.build();
  const auto of_part = [&](int64_t part) {
    return [&, part](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
      loop(task.of_part(part, data).data(), strides, size0, size1, task.outputs.data());
    };
  };
  if (!task.is_by_argument) {
    task.for_parts(iterator.numel(), [&](int64_t part, int64_t first, int64_t end) {
      iterator.serial_for_each(of_part(part), {first, end});
    });
    return;
  }
  const int64_t dim = dim_of_arguments(iterator, task);
  if (dim < 0) {
    iterator.serial_for_each(of_part(0), {0, iterator.numel()});
    return;
  }
  task.for_parts(iterator.shape()[dim], [&](int64_t part, int64_t first, int64_t end) {
    if (first < end) {
      at::TensorIterator some(iterator);
      some.narrow(static_cast<int>(dim), first, end - first);
      some.serial_for_each(of_part(part), {0, some.numel()});
    }
  });
}

}  // namespace

std::array<at::Tensor, 3> backward(
    BackwardLoop loop, const at::Tensor& g, const at::Tensor& x, const Arguments<2>& arguments,
    const std::array<bool, 3>& needed, double factor) {
  const Task task(g, x, arguments, needed);
  if (!backward_of_rows(loop, task)) {
    backward_of_any(loop, task);
  }
  std::array<at::Tensor, 3> result;
  for (size_t i = 0; i < 3; ++i) {
    const auto& gradient = task.gradients[i];
    if (gradient.kind == Output::sum) {
      result[i] = gradient.total(factor, *task.arguments[i]);
    } else {
      const bool has_factor = i > 0 && factor != 1 && gradient.kind == Output::store;
      result[i] = has_factor ? gradient.stored.mul(factor) : gradient.stored;
    }
  }
  return result;
}

}  // namespace ste::cpu
