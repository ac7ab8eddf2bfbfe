// Turns a function of elements into torch operations: applied to an expression, the functions that kernels are made of
// (element.h and those of the families) give compilers the same formula, which is differentiable.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/log.h>
#include <ATen/ops/where.h>
#include <c10/core/Scalar.h>

#include <utility>
#include <variant>

namespace ste {

// A tensor, or a constant.
class Expression {
 public:
  explicit Expression(double value) : value_(at::Scalar(value)) {}
  explicit Expression(at::Tensor tensor) : value_(std::move(tensor)) {}

  // Not for a constant.
  const at::Tensor& tensor() const { return std::get<at::Tensor>(value_); }

  bool is_constant() const { return std::holds_alternative<at::Scalar>(value_); }
  const at::Scalar& number() const { return std::get<at::Scalar>(value_); }

 private:
  std::variant<at::Scalar, at::Tensor> value_;
};

// `function` of two expressions, at least one of which is a tensor.
template <typename Function>
Expression combined(const Expression& a, const Expression& b, const Function& function) {
  if (a.is_constant()) {
    return Expression(function(a.number(), b.tensor()));
  }
  return b.is_constant() ? Expression(function(a.tensor(), b.number())) : Expression(function(a.tensor(), b.tensor()));
}

inline Expression operator+(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left + right; });
}
inline Expression operator-(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left - right; });
}
inline Expression operator*(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left * right; });
}
inline Expression operator/(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left / right; });
}
inline Expression operator<(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left < right; });
}
inline Expression operator>(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left > right; });
}
inline Expression operator<=(const Expression& a, const Expression& b) {
  return combined(a, b, [](const auto& left, const auto& right) { return left <= right; });
}
inline Expression operator-(const Expression& x) {
  return Expression(-x.tensor());
}

inline Expression absolute(const Expression& x) {
  return Expression(at::abs(x.tensor()));
}
inline Expression round_below(const Expression& x) {
  return Expression(at::floor(x.tensor()));
}
inline Expression exponential(const Expression& x) {
  return Expression(at::exp(x.tensor()));
}
inline Expression logarithm(const Expression& x) {
  return Expression(at::log(x.tensor()));
}

inline Expression select(const Expression& mask, const Expression& yes, const Expression& no) {
  return combined(yes, no, [&](const auto& a, const auto& b) { return at::where(mask.tensor(), a, b); });
}
inline Expression at_most(const Expression& x, const Expression& bound) {
  return select(x > bound, bound, x);
}
inline Expression keep(const Expression& mask, const Expression& value) {
  return Expression(at::where(mask.tensor(), value.tensor(), 0));
}

}  // namespace ste
