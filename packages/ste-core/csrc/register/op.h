// One differentiable elementwise op, registered so that every transform sees its gradient:
//
// - The forward is the CompositeImplicitAutograd kernel, so compilers, exporters and DTensor see through the op.
// - Autograd has a kernel at *each* concrete autograd key. A key without one falls back to the composite kernel, which
//   autograd then differentiates: for a rounding function, that gives a gradient of zero and no error. (The alias key
//   `Autograd` does not help: the composite kernel takes precedence over it.)
// - That kernel records a node and redispatches to the op itself below autograd, so that the next level of torch.func
//   sees the op, not its forward.
// - vmap has a batching rule that calls the op itself (batching.h).
#pragma once

#include "arguments.h"
#include "batching.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/library.h>

#include <string>
#include <vector>

namespace ste {

// `Gradient::record(below, x, args...)` calls `below()` for the result and makes it differentiable. A Gradient may also
// have: `check`, if the op's arguments are not just a floating-point or integer x and bounds for it; `takes_one_shape`,
// if its tensors must have x's shape instead of broadcasting to it; `is_not_pointwise`, if an element of the result
// depends on other elements of x; and `batched(batch, call, x, args...)`, if vmap needs other arguments than these,
// which calls the op on tensors with vmap's dimension first. `Composite` and `Eager` compute the op, with the same
// bits, from arguments that have been checked: `Composite` for compilers and for tensors that are not plain, `Eager`
// for all others, with a single kernel if there is one. (They are not registered at CPU and CUDA: the op would then
// stay in the graph of torch.compile as a call that nothing fuses with.)
template <typename Gradient, auto Composite, auto Eager = Composite, typename Signature = decltype(Composite)>
class Op;

template <typename Gradient, auto Composite, auto Eager, typename... Args>
class Op<Gradient, Composite, Eager, at::Tensor (*)(const at::Tensor&, Args...)> {
 public:
  // `declaration` is the schema, as in "round_ste(Tensor x) -> Tensor".
  static void define(torch::Library& library, const std::string& declaration) {
    name() = declaration.substr(0, declaration.find('('));
    const auto tags = tags_of_op();
    library.def(declaration.c_str(), tags);
    implement(library, c10::DispatchKey::CompositeImplicitAutograd, &forward);
    implement(library, c10::DispatchKey::FuncTorchBatched, &batched);
    const auto every_backend = c10::DispatchKeySet(c10::DispatchKeySet::RAW, c10::full_backend_mask);
    for (const auto key : c10::autograd_dispatch_keyset | every_backend) {
      implement(library, key, &autograd);
    }
  }

 private:
  // Not a static member: the initialization of a template's static members is unordered, and may come after the library
  // is defined.
  static std::string& name() {
    static std::string name;
    return name;
  }

  template <typename Function>
  static void implement(torch::Library& library, c10::DispatchKey key, Function* kernel) {
    library.impl(name().c_str(), torch::dispatch(key, kernel));
  }

  static std::vector<at::Tag> tags_of_op() {
    if constexpr (requires { Gradient::is_not_pointwise; }) {
      return {at::Tag::pt2_compliant_tag};
    } else {
      return {at::Tag::pointwise, at::Tag::pt2_compliant_tag};
    }
  }

  static const auto& handle() {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow(("ste::" + name()).c_str(), "")
                                   .template typed<at::Tensor(const at::Tensor&, Args...)>();
    return handle;
  }

  static void check(const at::Tensor& x, const std::remove_reference_t<Args>&... args) {
    if constexpr (requires { Gradient::check(name().c_str(), x, args...); }) {
      Gradient::check(name().c_str(), x, args...);
    } else {
      check_dtype(name().c_str(), "x", x);
      size_t position = 0;
      (check_argument(++position, args, x), ...);
    }
  }

  static void check_argument(size_t position, const at::Tensor& bound, const at::Tensor& x) {
    check_bound(name().c_str(), handle().schema().arguments()[position].name().c_str(), bound, x);
  }

  template <typename T>
  static void check_argument(size_t, const T&, const at::Tensor&) {}

  // If a parameter is on the CPU and x on another device, or it has one element and more dimensions than x, this
  // converts it above autograd, so that neither the kernels nor the gradients have to deal with it.
  static bool lie_beside(const at::Tensor& x, const std::remove_reference_t<Args>&... args) {
    return (is_beside(args, x) && ...);
  }

  static at::Tensor call_beside(const at::Tensor& x, const std::remove_reference_t<Args>&... args) {
    check(x, args...);
    return handle().call(x, brought_beside(args, x)...);
  }

  static bool is_beside(const at::Tensor& parameter, const at::Tensor& x) { return lies_beside(parameter, x); }
  static bool is_beside(const std::optional<at::Tensor>& parameter, const at::Tensor& x) {
    return !parameter || lies_beside(*parameter, x);
  }
  template <typename T>
  static bool is_beside(const T&, const at::Tensor&) {
    return true;
  }

  static at::Tensor brought_beside(const at::Tensor& parameter, const at::Tensor& x) { return beside(parameter, x); }
  static std::optional<at::Tensor> brought_beside(const std::optional<at::Tensor>& parameter, const at::Tensor& x) {
    return parameter ? std::optional(beside(*parameter, x)) : std::nullopt;
  }
  template <typename T>
  static const T& brought_beside(const T& value, const at::Tensor&) {
    return value;
  }

  static at::Tensor forward(const at::Tensor& x, Args... args) {
    if (!lie_beside(x, args...)) {
      return call_beside(x, args...);
    }
    check(x, args...);
    return is_plain(x) ? Eager(x, args...) : Composite(x, args...);
  }

  // Neither a tensor that Python implements (fake, nested, distributed, ...) nor one that is being traced.
  static bool is_plain(const at::Tensor& x) {
    constexpr c10::DispatchKeySet special{c10::DispatchKey::Python, c10::DispatchKey::Functionalize};
    return !x.key_set().has_any(special) && !c10::impl::dispatch_mode_enabled();
  }

  static at::Tensor autograd(c10::DispatchKeySet keys, const at::Tensor& x, Args... args) {
    if (!lie_beside(x, args...)) {
      return call_beside(x, args...);
    }
    const auto below = [&] {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return handle().redispatch(keys & c10::after_autograd_keyset, x, args...);
    };
    return Gradient::record(below, x, args...);
  }

  static at::Tensor batched(const at::Tensor& x, Args... args) {
    if (!lie_beside(x, args...)) {
      return call_beside(x, args...);
    }
    const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchBatched);
    check(x, args...);  // here, where the shapes are those that the caller sees
    const Batch batch(x, args...);
    const auto call = [](const auto&... arguments) { return handle().call(arguments...); };
    if constexpr (requires { Gradient::batched(batch, call, x, args...); }) {
      return batch.output(Gradient::batched(batch, call, x, args...));
    } else {
      return batch.output(call(batch.input(x), with_batch(batch, args)...));
    }
  }

  template <typename T>
  static decltype(auto) with_batch(const Batch& batch, const T& argument) {
    if constexpr (requires { Gradient::takes_one_shape; }) {
      return batch.input(argument);
    } else {
      return batch.argument(argument);
    }
  }
};

}  // namespace ste
