// The gradient of a sign, for Op: the incoming one, or a surrogate.
#pragma once

#include "surrogates.h"

#include "../memory/forward.h"
#include "../register/expression.h"
#include "../register/node.h"
#include "../register/straight_through.h"

#include <ATen/ops/scalar_tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/string_view.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace ste {

struct Definition {
  const char* name;
  Surrogate surrogate;
  double alpha;  // the default: the value of the source
};

// As in ste/_surrogates.py.
constexpr std::array<Definition, 10> kSurrogates{{
    {"clipped", Surrogate::clipped, 1},
    {"polynomial", Surrogate::polynomial, 1},
    {"swish", Surrogate::swish, 5},
    {"tanh", Surrogate::tanh, 1},
    {"sigmoid", Surrogate::sigmoid, 4},
    {"atan", Surrogate::atan, 2},
    {"fast_sigmoid", Surrogate::fast_sigmoid, 25},
    {"triangle", Surrogate::triangle, 1},
    {"gaussian", Surrogate::gaussian, 2},
    {"reste", Surrogate::reste, 1},
}};

inline bool is_identity(c10::string_view surrogate) {
  return surrogate == "identity";
}

inline const Definition& definition_of(const char* op, c10::string_view surrogate) {
  for (const auto& definition : kSurrogates) {
    if (surrogate == definition.name) {
      return definition;
    }
  }
  std::string names = "identity";
  for (const auto& definition : kSurrogates) {
    names += std::string(", ") + definition.name;
  }
  C10_THROW_ERROR(ValueError, c10::str(op, ": surrogate must be one of ", names, ", got ", surrogate));
}

// As torch operations.
inline at::Tensor surrogate_gradient(
    Surrogate surrogate, const at::Tensor& g, const at::Tensor& x, const at::Tensor& alpha) {
  return element::with_surrogate(surrogate, [&]<typename Kind>(Kind) {
    const auto dtype = x.scalar_type();
    const bool in_double = dtype == at::kDouble || (Kind::is_transcendental && dtype == at::kFloat);
    const auto computed = [&](const at::Tensor& t) { return Expression(t.to(in_double ? at::kDouble : at::kFloat)); };
    const typename Kind::template On<Expression> of_alpha(computed(alpha));
    return of_alpha(computed(g), computed(x)).tensor().to(dtype);
  });
}

struct SurrogateBackward {
  struct Settings {
    auto fields() { return std::tie(surrogate); }
    auto fields() const { return std::tie(surrogate); }

    Surrogate surrogate = Surrogate::clipped;
  };
  static constexpr size_t kSaved = 2;
  static constexpr size_t kInputs = 1;
  static const char* name() { return "SurrogateBackward"; }

  static torch::autograd::variable_list gradients(
      torch::autograd::variable_list&& incoming, std::array<at::Tensor, kSaved>&& saved,
      const std::array<bool, kInputs>& /*needed*/, const Settings& settings) {
    const auto& g = incoming[0];
    const auto& [x, alpha] = saved;
    if (can_run<SurrogateKernel>(g, x, alpha)) {
      const auto wide = alpha.to(computed_in(x));
      return {run_forward<SurrogateKernel>(g, {&x, &wide}, settings.surrogate)};
    }
    return {surrogate_gradient(settings.surrogate, g, x, alpha)};
  }
};

struct SignGradient {
  static void check(
      const char* op, const at::Tensor& x, const at::Scalar& /*low*/, c10::string_view surrogate,
      const OptionalTensor& alpha) {
    check_dtype(op, "x", x);
    check_surrogate(op, x, surrogate, alpha);
  }

  static void check(
      const char* op, const at::Tensor& x, const OptionalTensor& threshold, c10::string_view surrogate,
      const OptionalTensor& alpha) {
    check_dtype(op, "x", x);
    if (threshold) {
      check_is_floating(op, "x", x);
      check_parameter(op, "threshold", *threshold, x, /*may_be_integer=*/false);
    }
    check_surrogate(op, x, surrogate, alpha);
  }

  // `second` is the low value or the threshold. It gets no gradient, and neither does alpha.
  template <typename Below, typename Second>
  static at::Tensor record(
      const Below& below, const at::Tensor& x, const Second& /*second*/, c10::string_view surrogate,
      const OptionalTensor& alpha) {
    namespace autograd = torch::autograd;
    if (is_identity(surrogate)) {
      return StraightThrough::record(below, x);
    }
    at::Tensor y = below();  // which checks the arguments
    const auto& definition = definition_of("", surrogate);
    const auto given_or_default = [&] {
      const auto dtype = computed_in(x);
      return alpha ? alpha->detach()
                   : at::scalar_tensor(definition.alpha, x.options().dtype(dtype).layout(at::kStrided));
    };
    if (autograd::compute_requires_grad(x)) {
      const auto node = make_node<BackwardNode<SurrogateBackward>>(
          SurrogateBackward::Settings{definition.surrogate}, x, given_or_default());
      node->set_next_edges(autograd::collect_next_edges(x));
      autograd::set_history(y, node);
    }
    if (autograd::isFwGradDefined(x)) {
      const auto tangent =
          surrogate_gradient(definition.surrogate, x._fw_grad(/*level=*/0), primal_of(x), given_or_default());
      y._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
    }
    return y;
  }

 private:
  static void check_surrogate(
      const char* op, const at::Tensor& x, c10::string_view surrogate, const OptionalTensor& alpha) {
    if (is_identity(surrogate)) {
      TORCH_CHECK_VALUE(!alpha, op, ": the surrogate identity has no alpha");
      return;
    }
    definition_of(op, surrogate);
    check_is_floating(op, "x", x);
    if (alpha) {
      check_parameter(op, "alpha", *alpha, x, /*may_be_integer=*/false);
    }
  }
};

}  // namespace ste
