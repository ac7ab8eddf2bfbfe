// Blocks as torch operations, for compilers and for tensors that are not plain.
#pragma once

#include "kernels.h"

#include "../fake_quantize_float/expression.h"
#include "../fake_quantize_float/format.h"
#include "../register/arguments.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/round.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/SymInt.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace ste {

// How blocks lie along x.
struct BlockPlace {
  c10::SymInt block;  // -1: the whole of the dimension
  int64_t dim;        // counted from 0
};

// x, and the tensors that go with it.
struct BlockTensors {
  at::Tensor x;
  OptionalTensor tensor_scale;
  OptionalTensor random;

  // Applies `function` to the tensors of x's shape.
  template <typename Function>
  BlockTensors map(const OptionalTensor& other_scale, const Function& function) const {
    return {function(x), other_scale, random ? OptionalTensor(function(*random)) : std::nullopt};
  }
};

// Whole blocks get a dimension of their own, and the rest at the end is a piece by itself: where an index is divided by
// a size that it is not a multiple of, torch 2.13's inductor generates wrong code for CPUs. `of_piece(tensors, axis)`
// gets one block along the axis. There is at least one block.
template <typename Function>
at::Tensor by_blocks(const BlockTensors& tensors, const BlockPlace& place, const Function& of_piece) {
  const auto& x = tensors.x;
  const auto& tensor_scale = tensors.tensor_scale;
  if (x.dim() == 0) {
    const auto unsqueezed = tensors.map(tensor_scale, [](const at::Tensor& t) { return t.unsqueeze(0); });
    return by_blocks(unsqueezed, place, of_piece).squeeze(0);
  }
  const auto dim = place.dim;
  const auto length = x.sym_size(dim);
  if (place.block < 0 || place.block >= length) {
    return of_piece(tensors, dim);
  }
  const auto whole = length / place.block;
  const auto rest = length % place.block;
  OptionalTensor scale_of_head;
  if (tensor_scale) {
    const auto axis = dim - x.dim() + tensor_scale->dim();
    scale_of_head = axis < 0 ? *tensor_scale : tensor_scale->unsqueeze(axis);
  }
  std::vector<c10::SymInt> sizes(x.sym_sizes().begin(), x.sym_sizes().end());
  sizes[static_cast<size_t>(dim)] = place.block;
  sizes.insert(sizes.begin() + dim, whole);
  const auto head = tensors.map(scale_of_head, [&](const at::Tensor& t) {
    return (rest == 0 ? t : t.narrow_symint(dim, 0, whole * place.block)).reshape_symint(sizes);
  });
  const auto of_head = of_piece(head, dim + 1).flatten(dim, dim + 1);
  if (rest == 0) {
    return of_head;
  }
  const auto tail =
      tensors.map(tensor_scale, [&](const at::Tensor& t) { return t.narrow_symint(dim, whole * place.block, rest); });
  return at::cat({of_head, of_piece(tail, dim)}, dim);
}

// x with one block along an axis, in the dtype of the computation.
class BlockGrid {
 public:
  BlockGrid(const BlockTensors& tensors, int64_t axis, const BlockSettings& settings)
      : settings_(settings), dtype_(computed_in(tensors.x)) {
    const auto wide = tensors.x.to(dtype_);
    if (settings.rule == BlockRule::minmax) {
      const auto low = at::clamp_max(at::amin(wide, axis, /*keepdim=*/true), 0);
      const auto high = at::clamp_min(at::amax(wide, axis, /*keepdim=*/true), 0);
      scale_ = (high - low) / constant(2 * settings.ends.limit - 1, wide);
      set_divisor();
      zero_point_ =
          at::clamp(at::round(-low / divisor_) - settings.ends.limit, -settings.ends.limit, settings.ends.limit - 1);
    } else {
      scale_ = scale_of(at::amax(at::abs(wide), axis, /*keepdim=*/true), tensors.tensor_scale);
      set_divisor();
    }
    const auto random = tensors.random ? std::optional(Expression(tensors.random->to(dtype_))) : std::nullopt;
    quantize(Expression(wide / divisor_), random);
  }

  at::Tensor values() const { return q_ * scale_; }
  const at::Tensor& is_inside() const { return is_inside_; }

 private:
  // A tensor, because CUDA multiplies by the reciprocal to divide by a number.
  static at::Tensor constant(double value, const at::Tensor& beside) {
    return at::scalar_tensor(value, beside.options().layout(at::kStrided));
  }

  void set_divisor() { divisor_ = at::where(scale_.eq(0), std::numeric_limits<double>::infinity(), scale_); }

  at::Tensor scale_of(const at::Tensor& largest, const OptionalTensor& tensor_scale) const {
    auto scale = largest / constant(settings_.ends.max, largest);
    switch (settings_.rule) {
      case BlockRule::e4m3fn:
        scale = two_level_scale(scale, tensor_scale->to(dtype_));
        break;
      case BlockRule::rceil:
        scale = power_of_two(scale, 1);
        break;
      case BlockRule::floor:
      case BlockRule::ceil:
      case BlockRule::even:
        scale = power_of_two(largest, 2 / settings_.ends.limit);
        break;
      default:
        break;
    }
    return at::where(largest.eq(0), 0, at::where(largest.eq(largest), scale, NAN));
  }

  at::Tensor two_level_scale(const at::Tensor& scale, const at::Tensor& tensor_scale) const {
    const auto ends = format_of("fake_quantize_blocks", "e4m3fn").ends(/*saturate=*/true);
    const auto grid = grid_of(Expression(tensor_scale), ends, dtype_);
    const Expression scaled(scale / tensor_scale);
    const auto size = element::round_to_format(scaled, grid.limit, grid);
    return at::where(scale.eq(0), 0, element::within_format(size, scaled, grid).tensor() * tensor_scale);
  }

  // As in elements.h, but the power is found by comparisons: first with every sixteenth power, then with those in
  // between.
  at::Tensor power_of_two(const at::Tensor& number, double unit) const {
    const bool is_double = dtype_ == at::kDouble;
    const double epsilon = is_double ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    double raised_from = 2;
    if (settings_.rule == BlockRule::even) {
      raised_from = 2 - std::ldexp(0.5, -settings_.ends.mantissa_bits);
    } else if (settings_.rule != BlockRule::floor) {
      raised_from = 1 + epsilon;
    }
    const auto is_small = number.lt(0x1p-100);
    const auto normal = number * at::where(is_small, constant(0x1p100, number), constant(1, number));
    constexpr int step = 16;
    const int first = is_double ? -206 : -126;
    const int last = is_double ? 206 : 114;
    auto coarse = constant(std::ldexp(1.0, first), number);
    for (int exponent = first + step; exponent <= last; exponent += step) {
      coarse = at::where(normal.ge(std::ldexp(1.0, exponent)), std::ldexp(1.0, exponent), coarse);
    }
    auto power = coarse;
    for (int exponent = 1; exponent < step; ++exponent) {
      const auto larger = coarse * std::ldexp(1.0, exponent);
      power = at::where(normal.ge(larger), larger, power);
    }
    power = at::clamp_max(power, is_double ? 0x1p206 : 0x1p127);
    const auto units = at::where(normal.ge(power * raised_from), constant(2 * unit, number), constant(unit, number));
    const auto scale = power * units * at::where(is_small, constant(0x1p-100, number), constant(1, number));
    return at::clamp(scale, 0x1p-127, 0x1p127);
  }

  void quantize(const Expression& scaled, const std::optional<Expression>& random) {
    const auto& ends = settings_.ends;
    if (!settings_.is_integer) {
      const auto grid = grid_of(Expression(scale_), ends, dtype_);
      const auto size = random ? element::round_to_format_at_random(scaled, *random, grid)
                               : element::round_to_format(scaled, grid.limit, grid);
      q_ = element::within_format(size, scaled, grid).tensor();
      is_inside_ = size.tensor().le(ends.max);
      return;
    }
    const bool is_symmetric = settings_.rule != BlockRule::minmax;
    const double low = is_symmetric ? -ends.max : -ends.limit;
    const auto rounded = random ? element::round_at_random(scaled, *random).tensor() : at::round(scaled.tensor());
    const auto shifted = is_symmetric ? rounded : rounded + zero_point_;
    const auto clamped = at::clamp(shifted, low, ends.max);
    is_inside_ = shifted.eq(clamped);
    // There is no -0. (Adding 0 would do too, but the ONNX exporter drops the addition of a constant 0.)
    q_ = is_symmetric ? at::where(clamped.eq(0), 0, clamped) : clamped - zero_point_;
  }

  BlockSettings settings_;
  at::ScalarType dtype_;
  at::Tensor scale_;
  at::Tensor divisor_;
  at::Tensor zero_point_;
  at::Tensor q_;
  at::Tensor is_inside_;
};

}  // namespace ste
