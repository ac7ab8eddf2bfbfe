#include "parallel.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>

namespace ste::cpu {

// at::parallel_for is a template, and starts the threads of the OpenMP that it is compiled with: without one it is a
// plain loop, and with another one than torch's it starts a second runtime. (A wheel of torch has its own copy, whose
// name differs from wheel to wheel, so a library that links one does not work with the others.) So this uses the loop
// that is compiled into torch: TensorIterator's, over a tensor of bytes that nobody reads or writes, whose addresses
// are the indices. That works with every compiler and every torch, even one with a thread pool of its own. It takes
// about a microsecond, and the work takes at least ten.
void parallel_for(int64_t size, int64_t grain, c10::function_ref<void(int64_t, int64_t)> function) {
  if (size <= grain || at::get_num_threads() == 1 || at::in_parallel_region()) {
    function(0, size);
    return;
  }
  const at::Tensor indices(at::detail::empty_cpu({size}, at::kByte, false, at::MemoryFormat::Contiguous));
  const auto* const zero = static_cast<const char*>(indices.const_data_ptr());
  at::TensorIteratorConfig config;
  config.add_borrowed_const_input(indices).set_check_mem_overlap(false);
  at::TensorIterator iterator = config.build();
  iterator.for_each(
      [&](char** data, const int64_t* /*strides*/, int64_t size0, int64_t size1) {
        const int64_t begin = data[0] - zero;
        function(begin, begin + size0 * size1);
      },
      grain);
}

}  // namespace ste::cpu
