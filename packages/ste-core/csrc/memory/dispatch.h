// From tensors to the kernel for them: by device, instruction set and dtype.
#pragma once

#include "kernel.h"

#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>

#include <cstdint>

namespace ste {

// Whether a tensor is nothing but dense memory of the device with these keys: kernels take no others.
template <c10::DispatchKey backend, c10::DispatchKey autograd, c10::DispatchKey autocast>
bool is_dense_on(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet dense{backend, c10::DispatchKey::ADInplaceOrView, autograd, autocast};
  return tensor.key_set().has(backend) && (tensor.key_set() | dense) == dense;
}

// Not what is in a buffer of somebody else's, where elements may begin anywhere (torch.frombuffer, a file in memory):
// compilers take it for granted that they do not. What has no kernel for it has operations of torch.
inline bool is_aligned(const at::Tensor& tensor) {
  const auto element = static_cast<uintptr_t>(tensor.element_size());
  return (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) & (element - 1)) == 0;  // it is a power of two
}

inline bool is_dense_cpu(const at::Tensor& tensor) {
  using c10::DispatchKey;
  return is_dense_on<DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::AutocastCPU>(tensor) &&
         is_aligned(tensor);
}

inline bool is_dense_cuda(const at::Tensor& tensor) {
  using c10::DispatchKey;
  return is_dense_on<DispatchKey::CUDA, DispatchKey::AutogradCUDA, DispatchKey::AutocastCUDA>(tensor);
}

// Those that loops are compiled for.
enum class Capability { DEFAULT, AVX2, AVX512 };

// That of the processor that this runs on, as torch itself chooses (ATEN_CPU_CAPABILITY included).
Capability capability();

template <typename Kernel>
const typename Kernel::Loops& loops_of() {
#ifdef STE_X86
  switch (capability()) {
    case Capability::AVX512:
      return Kernel::AVX512;
    case Capability::AVX2:
      return Kernel::AVX2;
    default:
      break;
  }
#endif
  return Kernel::DEFAULT;
}

// null where there is none.
template <typename Kernel>
auto loop_for(at::ScalarType dtype) {
  const auto index = static_cast<size_t>(dtype);
  return index < kDtypes ? loops_of<Kernel>().of[index] : nullptr;
}

// Whether there is one for x, beside which all of the others lie.
template <typename Kernel, typename... Tensors>
bool has_kernel(const at::Tensor& x, const Tensors&... others) {
  if (is_dense_cpu(x)) {
    return loop_for<Kernel>(x.scalar_type()) != nullptr && (is_dense_cpu(others) && ...);
  }
  if constexpr (requires { Kernel::cuda; }) {
    return Kernel::cuda != nullptr && is_dense_cuda(x) &&
           ((is_dense_cuda(others) && others.device() == x.device()) && ...);
  }
  return false;
}

}  // namespace ste
