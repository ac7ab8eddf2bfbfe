// fake_quantize_blocks: x on a grid and back, with a scale for each block of neighbors that is computed from them.
#include "composite.h"
#include "kernels.h"
#include "settings.h"

#include "../memory/dispatch.h"
#include "../memory/parallel.h"
#include "../register/node.h"
#include "../register/op.h"

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/round.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

namespace ste {

constinit FakeQuantizeBlocksKernel::Cuda FakeQuantizeBlocksKernel::cuda = nullptr;

namespace {

// All arguments that are not tensors.
struct Settings : BlockSettings {
  Settings() : BlockSettings{} {}
  Settings(c10::string_view grid, c10::SymInt size, c10::string_view rule_name, const c10::SymInt& given_dim)
      : BlockSettings(block_settings("fake_quantize_blocks", grid, rule_name)),
        block(std::move(size)),
        dim(given_dim.guard_int(__FILE__, __LINE__)) {}

  // How the blocks lie along an x.
  BlockPlace in(const at::Tensor& x) const { return {block, dim < 0 ? dim + std::max<int64_t>(x.dim(), 1) : dim}; }

  auto fields() { return std::tuple_cat(ends.fields(), std::tie(rule, is_integer, block, dim)); }
  auto fields() const { return std::tuple_cat(ends.fields(), std::tie(rule, is_integer, block, dim)); }

  c10::SymInt block;
  int64_t dim = 0;
};

// The result in x's memory format: concatenated pieces lie in the order of the dimensions, and x may not.
at::Tensor lying_as(const at::Tensor& x, const at::Tensor& result) {
  if (x.is_contiguous() && result.is_contiguous()) {
    return result;
  }
  const auto like_x = at::empty_like(x, x.options().dtype(result.scalar_type()));
  return result.sym_strides() == like_x.sym_strides() ? result : like_x.copy_(result);
}

at::Tensor values(const BlockTensors& tensors, const Settings& settings) {
  const auto& x = tensors.x;
  if (x.sym_numel() == 0) {
    return at::round(x);
  }
  const auto y = by_blocks(tensors, settings.in(x), [&](const auto& piece, int64_t axis) {
    return BlockGrid(piece, axis, settings).values().to(x.scalar_type());
  });
  return lying_as(x, y);
}

// What becomes of a gradient or a tangent, as torch operations.
at::Tensor passed(const at::Tensor& g, const BlockTensors& tensors, const Settings& settings) {
  const auto& x = tensors.x;
  if (x.sym_numel() == 0) {
    return g;
  }
  const auto is_inside = by_blocks(tensors, settings.in(x), [&](const auto& piece, int64_t axis) {
    return BlockGrid(piece, axis, settings).is_inside();
  });
  return at::where(lying_as(x, is_inside), g, 0);
}

// x itself if it has no gaps in memory, else a copy.
at::Tensor dense(const at::Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x);
}

at::Tensor as_lies(const at::Tensor& x, const at::Tensor& other) {
  return x.strides() == other.strides() ? x : at::empty_like(other).copy_(x);
}

// Runs the kernel, which must exist: the forward, or, with a g, the backward.
at::Tensor run(
    const OptionalTensor& g, const at::Tensor& given, const OptionalTensor& tensor_scale, const Settings& settings) {
  if (given.numel() == 0) {
    return at::round(given);
  }
  const auto x = dense(given);
  const auto gradient = g ? as_lies(*g, x) : at::Tensor();
  auto y = at::empty_like(x);
  // x's dimensions, split into those outside and those inside of the blocks' dimension.
  const int64_t dim = settings.in(x).dim;
  BlockTask task{
      static_cast<const BlockSettings&>(settings),
      1,
      1,
      1,
      1,
      x.const_data_ptr(),
      nullptr,
      y.mutable_data_ptr(),
      nullptr,
      0,
      0};
  if (x.dim() > 0) {
    task.length = x.size(dim);
    for (int64_t i = 0; i < x.dim(); ++i) {
      if (i != dim && x.size(i) > 1) {
        (x.stride(i) < x.stride(dim) ? task.inner : task.outer) *= x.size(i);
      }
    }
  }
  const auto block = settings.block.guard_int(__FILE__, __LINE__);
  task.block = block < 0 ? task.length : std::min(block, task.length);
  if (g) {
    task.g = gradient.const_data_ptr();
  }
  at::Tensor scales;
  if (tensor_scale) {
    scales = tensor_scale->to(computed_in(x));
    if (scales.numel() > 1) {
      // One scale for each row and column, in their order.
      auto sizes = x.sizes().vec();
      sizes[static_cast<size_t>(dim)] = 1;
      scales = at::empty_like(x.narrow(dim, 0, 1), scales.options()).copy_(scales.expand(sizes));
      task.tensor_scale_outer = task.inner;
      task.tensor_scale_inner = 1;
    }
    task.tensor_scale = scales.const_data_ptr();
  }
  if (task.inner == 1 && task.length % task.block == 0 && task.tensor_scale_outer == 0) {
    task.length *= std::exchange(task.outer, 1);
  }
  if (x.is_cuda()) {
    FakeQuantizeBlocksKernel::cuda(x, task);
    return y;
  }
  const auto parts = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
  const int64_t in_a_row = parts(task.length, task.block);
  const bool in_columns = task.inner > 1;
  const int64_t units = task.outer * (in_columns ? in_a_row * parts(task.inner, BlockTask::kColumns)
                                                 : parts(in_a_row, BlockTask::kGroup));
  const int64_t grain = std::max<int64_t>(1, units * at::internal::GRAIN_SIZE / x.numel());
  const auto loop = loop_for<FakeQuantizeBlocksKernel>(x.scalar_type());
  cpu::parallel_for(units, grain, [&](int64_t begin, int64_t end) { loop(task, begin, end); });
  return y;
}

struct FakeQuantizeBlocksBackward {
  using Settings = ste::Settings;
  static constexpr size_t kSaved = 3;
  static constexpr size_t kInputs = 1;
  static const char* name() { return "FakeQuantizeBlocksBackward"; }

  static torch::autograd::variable_list gradients(
      torch::autograd::variable_list&& incoming, std::array<at::Tensor, kSaved>&& saved,
      const std::array<bool, kInputs>& /*needed*/, const Settings& settings) {
    const auto& g = incoming[0];
    auto& [x, given_tensor_scale, given_random] = saved;
    const auto tensor_scale = optional(std::move(given_tensor_scale));
    const auto random = optional(std::move(given_random));
    if (!random && can_run<FakeQuantizeBlocksKernel>(g, x, tensor_scale ? *tensor_scale : x)) {
      return {run(g, x, tensor_scale, settings)};
    }
    return {passed(g, {x.detach(), tensor_scale, random}, settings)};
  }
};

struct FakeQuantizeBlocksGradient {
  static constexpr bool is_not_pointwise = true;

  static void check(
      const char* op, const at::Tensor& x, c10::string_view grid, const c10::SymInt& block, c10::string_view rule,
      const c10::SymInt& given_dim, const OptionalTensor& tensor_scale, const OptionalTensor& random) {
    check_is_floating(op, "x", x);
    check_random(op, random, x);
    const auto settings = block_settings(op, grid, rule);
    TORCH_CHECK_VALUE(
        block >= 1 || block == -1, op, ": block must be at least 1, or None for the whole of dim, got ", block);
    const auto dim = given_dim.guard_int(__FILE__, __LINE__);
    const auto rank = std::max<int64_t>(x.dim(), 1);
    TORCH_CHECK_VALUE(dim >= -rank && dim < rank, op, ": dim=", dim, ", but x has ", x.dim(), " dimension(s)");
    const bool has_two_levels = settings.rule == BlockRule::e4m3fn;
    if (!tensor_scale) {
      TORCH_CHECK_VALUE(!has_two_levels, op, ": rule e4m3fn needs tensor_scale");
      return;
    }
    TORCH_CHECK_VALUE(has_two_levels, op, ": tensor_scale is for rule e4m3fn, but rule is ", rule);
    check_parameter(op, "tensor_scale", *tensor_scale, x, /*may_be_integer=*/false);
    const auto axis = (dim < 0 ? dim : dim - x.dim()) + tensor_scale->dim();
    TORCH_CHECK(
        axis < 0 || axis >= tensor_scale->dim() || tensor_scale->sym_size(axis) == 1, op,
        ": tensor_scale varies along dim ", dim, ", in which the blocks lie");
  }

  template <typename Below>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, c10::string_view grid, const c10::SymInt& block, c10::string_view rule,
      const c10::SymInt& dim, const OptionalTensor& tensor_scale, const OptionalTensor& random) {
    namespace autograd = torch::autograd;
    at::Tensor y = below();
    if (autograd::compute_requires_grad(x)) {
      const auto constant = [](const OptionalTensor& tensor) { return tensor ? tensor->detach() : at::Tensor(); };
      const auto node = make_node<BackwardNode<FakeQuantizeBlocksBackward>>(
          Settings(grid, block, rule, dim), x, constant(tensor_scale), constant(random));
      node->set_next_edges(autograd::collect_next_edges(x));
      autograd::set_history(y, node);
    }
    if (autograd::isFwGradDefined(x)) {
      const BlockTensors constants{primal_of(x).detach(), detached(tensor_scale), detached(random)};
      const auto tangent = passed(x._fw_grad(/*level=*/0), constants, Settings(grid, block, rule, dim));
      y._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }

  // A sample without dimensions gets one, along which its block lies.
  template <typename Call>
  static at::Tensor batched(
      const Batch& batch, const Call& call, const at::Tensor& x, c10::string_view grid, const c10::SymInt& block,
      c10::string_view rule, const c10::SymInt& dim, const OptionalTensor& tensor_scale, const OptionalTensor& random) {
    const bool has_none = x.dim() == 0;
    BlockTensors inputs{batch.input(x), batch.argument(tensor_scale), batch.input(random)};
    if (has_none) {
      inputs = inputs.map(inputs.tensor_scale, [](const at::Tensor& t) { return t.unsqueeze(1); });
    }
    if (inputs.tensor_scale && has_none && inputs.tensor_scale->dim() == 1) {
      inputs.tensor_scale = inputs.tensor_scale->unsqueeze(1);
    }
    const auto y = call(inputs.x, grid, block, rule, dim < 0 ? dim : dim + 1, inputs.tensor_scale, inputs.random);
    return has_none ? y.squeeze(1) : y;
  }
};

at::Tensor fake_quantize_blocks_composite(
    const at::Tensor& x, c10::string_view grid, c10::SymInt block, c10::string_view rule, c10::SymInt dim,
    const OptionalTensor& tensor_scale, const OptionalTensor& random) {
  return values({x, tensor_scale, random}, Settings(grid, std::move(block), rule, dim));
}

at::Tensor fake_quantize_blocks_eager(
    const at::Tensor& x, c10::string_view grid, c10::SymInt block, c10::string_view rule, c10::SymInt dim,
    const OptionalTensor& tensor_scale, const OptionalTensor& random) {
  const Settings settings(grid, std::move(block), rule, dim);
  return !random && has_kernel<FakeQuantizeBlocksKernel>(x, tensor_scale ? *tensor_scale : x)
             ? run(std::nullopt, x, tensor_scale, settings)
             : values({x, tensor_scale, random}, settings);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ste, library) {
  Op<FakeQuantizeBlocksGradient, fake_quantize_blocks_composite, fake_quantize_blocks_eager>::define(
      library,
      "fake_quantize_blocks(Tensor x, str grid, SymInt block, str rule, SymInt dim=-1, Tensor? tensor_scale=None, "
      "Tensor? random=None) -> Tensor");
}

}  // namespace ste
