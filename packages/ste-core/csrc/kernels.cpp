#include "kernels.h"

#include "cpu/kernels.h"
#ifdef STE_CUDA
#include "cuda/kernels.h"
#endif

namespace ste {

const Kernels* kernels_of(const at::Tensor& tensor) {
  if (cpu::is_dense(tensor)) {
    return &cpu::kernels;
  }
#ifdef STE_CUDA
  if (cuda::is_dense(tensor)) {
    return &cuda::kernels;
  }
#endif
  return nullptr;
}

}  // namespace ste
