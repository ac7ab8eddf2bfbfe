// Finds the kernel for some tensors: by device, instruction set and dtype.
#pragma once

#include "kernel.h"

#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>

#include <cstdint>

namespace ste {

// Whether a tensor is just dense memory of the device with these keys, which is all that kernels take.
template <c10::DispatchKey backend, c10::DispatchKey autograd, c10::DispatchKey autocast>
bool is_dense_on(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet dense{backend, c10::DispatchKey::ADInplaceOrView, autograd, autocast};
  return tensor.key_set().has(backend) && (tensor.key_set() | dense) == dense;
}

// Not so for somebody else's buffer, where elements may begin anywhere (torch.frombuffer, a mapped file): compilers
// take their alignment for granted. Such tensors have no kernel, and use torch operations.
inline bool is_aligned(const at::Tensor& tensor) {
  const auto element = static_cast<uintptr_t>(tensor.element_size());
  return (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) & (element - 1)) == 0;  // the size is a power of two
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

// The instruction sets that the loops are compiled for.
enum class Capability { DEFAULT, AVX2, AVX512 };

// The one to use on this processor, which is torch's own choice (ATEN_CPU_CAPABILITY included).
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

// null if there is none.
template <typename Kernel>
auto loop_for(at::ScalarType dtype) {
  const auto index = static_cast<size_t>(dtype);
  return index < kDtypes ? loops_of<Kernel>().of[index] : nullptr;
}

// Whether there is a kernel for x, and all of the others are dense on its device.
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
