// What the autograd nodes share: how they are owned, what they save, and how compiled autograd takes them into a graph.
#pragma once

#include "arguments.h"

#include "../memory/dispatch.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/version.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

// The interface that compiled autograd asks of a node. torch does not document it, and changes it: here is that of 2.13
// and 2.14. With an older torch the nodes leave it out, and torch raises.
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 13)
#define STE_COMPILED_AUTOGRAD
#include <c10/core/SymInt.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <vector>
#endif

namespace ste {

// torch 2.13 holds nodes by c10::intrusive_ptr, torch 2.6 by std::shared_ptr with a deleter of its own (deleteNode
// keeps long graphs from overflowing the stack).
using NodePtr = decltype(torch::autograd::Edge::function);

// Asks the type of Edge::function rather than the version, so that no version has to be listed here.
template <typename T, typename Pointer = NodePtr, typename... Args>
Pointer make_node(Args&&... args) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    // Found by argument-dependent lookup: the function does not exist in versions that do not take this branch.
    return Pointer(new T(std::forward<Args>(args)...), [](auto* node) { deleteNode(node); });
  } else {
    return Pointer(c10::make_intrusive<T>(std::forward<Args>(args)...));
  }
}

#ifdef STE_COMPILED_AUTOGRAD
// A setting as a constant of a graph, and back.
template <typename T>
struct Constant {
  static const T& of(const T& setting) { return setting; }
  static T from(const T& constant) { return constant; }
};

template <typename T>
  requires std::is_integral_v<T> || std::is_enum_v<T>
struct Constant<T> {
  static int64_t of(T setting) { return static_cast<int64_t>(setting); }
  static T from(int64_t constant) { return static_cast<T>(constant); }
};

// Always an integer here: compiled autograd runs the nodes of eager code, and symbols are in traced code alone.
template <>
struct Constant<c10::SymInt> {
  static int64_t of(const c10::SymInt& setting) { return setting.guard_int(__FILE__, __LINE__); }
  static c10::SymInt from(int64_t constant) { return constant; }
};
#endif

struct NoSettings {
  static std::tuple<> fields() { return {}; }
};

// The node of an op with one result. A `Backward` has
// - `name()`, `kSaved`, how many tensors it saves, and `kInputs`, how many the op is differentiable in;
// - `Settings`, for whatever else it saves; its `fields()` return a tuple of references to all of its members;
// - `gradients(incoming, saved, needed, settings)`, a function of its arguments alone: compiled autograd calls it
//   without the node. `incoming` has one gradient, which is defined. Those that are not needed may be undefined.
template <typename Backward>
class BackwardNode final : public torch::autograd::Node {
 public:
  using Settings = typename Backward::Settings;
  using Saved = std::array<at::Tensor, Backward::kSaved>;
  using Needed = std::array<bool, Backward::kInputs>;

  template <typename... Tensors>
  explicit BackwardNode(Settings settings, const Tensors&... tensors)
      : saved_{torch::autograd::SavedVariable(tensors, /*is_output=*/false)...}, settings_(std::move(settings)) {
    static_assert(sizeof...(tensors) == Backward::kSaved);
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& incoming) override {
    return gradients(std::move(incoming), [&] { return unpacked(); }, needed(), settings_);
  }

  std::string name() const override { return Backward::name(); }

  void release_variables() override {
    for (auto& saved : saved_) {
      saved.reset_data();
    }
  }

#ifdef STE_COMPILED_AUTOGRAD
  // The tensors become inputs of the graph. Everything else is part of the key of the cached graph: two nodes that
  // differ in a setting must not share one.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(name());  // besides the type's: two of them may have one name, from unnamed namespaces
    for (const auto& saved : saved_) {
      args.collect(saved, /*is_output=*/false);
    }
    for (const bool is_needed : needed()) {
      args.collect(is_needed);
    }
    std::apply([&](const auto&... fields) { (args.collect(constant(fields)), ...); }, settings_.fields());
  }

  torch::autograd::variable_list apply_with_saved(
      const torch::autograd::variable_list& incoming, torch::dynamo::autograd::SwapSavedVariables& swap) override {
    namespace dynamo = torch::dynamo::autograd;
    const auto& compiler = dynamo::getPyCompilerInterface();
    static const std::string function = compiler->bind_function(
        swap.get_py_compiler(), name(), &call, schema(), /*is_custom_function=*/true, /*is_traceable=*/true);
    for (auto& saved : saved_) {
      swap.before(saved);
    }
    dynamo::PackedArgs packed;
    for (const auto& tensor : unpacked()) {
      packed.pack(tensor);
    }
    for (const bool is_needed : needed()) {
      packed.pack(is_needed);
    }
    std::apply([&](const auto&... fields) { (packed.pack(constant(fields)), ...); }, settings_.fields());
    using Metadata = std::vector<std::optional<torch::autograd::InputMetadata>>;
    auto result = compiler->call_function(
        swap.get_py_compiler(), "apply_functional", function, incoming, packed.vec(),
        dynamo::IValuePacker<Metadata>::pack(dynamo::get_input_metadata(next_edges())));
    for (auto& saved : saved_) {
      swap.after(saved);
    }
    return result;
  }
#endif

 private:
  template <typename Unpack>
  static torch::autograd::variable_list gradients(
      torch::autograd::variable_list&& incoming, const Unpack& unpack, const Needed& needed, const Settings& settings) {
    if (!incoming[0].defined()) {
      return torch::autograd::variable_list(Backward::kInputs);
    }
    return Backward::gradients(std::move(incoming), unpack(), needed, settings);
  }

  Saved unpacked() const {
    return std::apply([](const auto&... saved) { return Saved{saved.unpack()...}; }, saved_);
  }

  // A node runs only if something needs it: with one input there is nothing to look up.
  Needed needed() const {
    Needed needed{true};
    if constexpr (Backward::kInputs > 1) {
      for (size_t i = 0; i < needed.size(); ++i) {
        needed[i] = task_should_compute_output(i);
      }
    }
    return needed;
  }

#ifdef STE_COMPILED_AUTOGRAD
  template <typename T>
  static decltype(auto) constant(const T& setting) {
    return Constant<T>::of(setting);
  }

  // The types of what `call` takes.
  static std::vector<at::TypePtr> schema() {
    namespace dynamo = torch::dynamo::autograd;
    std::vector<at::TypePtr> types(Backward::kSaved, dynamo::IValuePacker<at::Tensor>::packed_type());
    types.insert(types.end(), Backward::kInputs, dynamo::IValuePacker<bool>::packed_type());
    const auto add = [&]<typename T>(const T&) { types.push_back(dynamo::IValuePacker<T>::packed_type()); };
    const Settings settings{};
    std::apply([&](const auto&... fields) { (add(constant(fields)), ...); }, settings.fields());
    return types;
  }

  // What the graph calls, with the arguments that `apply_with_saved` packed.
  static torch::autograd::variable_list call(
      const torch::autograd::variable_list& incoming, const std::vector<c10::IValue>& arguments) {
    torch::dynamo::autograd::PackedArgs packed(arguments);
    Saved saved;
    for (auto& tensor : saved) {
      tensor = packed.unpack<at::Tensor>();
    }
    Needed needed;
    for (auto& is_needed : needed) {
      is_needed = packed.unpack<bool>();
    }
    Settings settings;
    const auto take = [&]<typename T>(T& field) {
      field = Constant<T>::from(packed.unpack<std::remove_cvref_t<decltype(Constant<T>::of(field))>>());
    };
    std::apply([&](auto&... fields) { (take(fields), ...); }, settings.fields());
    const auto unpack = [&] { return std::move(saved); };
    return gradients(torch::autograd::variable_list(incoming), unpack, needed, settings);
  }
#endif

  std::array<torch::autograd::SavedVariable, Backward::kSaved> saved_;
  Settings settings_;
};

// A saved tensor, which may be undefined.
inline std::optional<at::Tensor> optional(at::Tensor tensor) {
  return tensor.defined() ? std::optional(std::move(tensor)) : std::nullopt;
}

// Whether the loops can take them: saved-tensor hooks may return any dtype and shape, not only those of what was saved.
inline bool are_alike(const at::Tensor& g, const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  return is_floating(dtype) && g.scalar_type() == dtype && g.sizes() == x.sizes();
}

// The dtype of a gradient to a parameter: an integer dtype would lose the fraction. (Autograd casts to the dtype of the
// parameter that was differentiated.)
inline at::ScalarType gradient_dtype(const at::Tensor& parameter) {
  const auto dtype = parameter.scalar_type();
  return is_floating(dtype) ? dtype : at::kFloat;
}

// The tensor without its tangent, for use in the formula of a tangent.
inline at::Tensor primal_of(const at::Tensor& tensor) {
  return torch::autograd::isFwGradDefined(tensor) ? tensor._fw_primal(/*level=*/0) : tensor;
}

// Whether a backward can run its kernel: only on values that are neither traced nor differentiated themselves.
template <typename Kernel, typename... Tensors>
bool can_run(const at::Tensor& g, const at::Tensor& x, const Tensors&... parameters) {
  namespace autograd = torch::autograd;
  const bool are_values = !at::GradMode::is_enabled() && !c10::impl::dispatch_mode_enabled() && g.numel() > 0 &&
                          !autograd::isFwGradDefined(g) && !autograd::isFwGradDefined(x) &&
                          !(autograd::isFwGradDefined(parameters) || ...);
  // Read sizes only from dense tensors: others may have symbols for them, or none.
  return are_values && has_kernel<Kernel>(x, g, parameters...) && are_alike(g, x) &&
         (is_expandable(parameters, x) && ...);
}

}  // namespace ste
