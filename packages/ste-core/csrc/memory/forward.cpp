#include "forward.h"

#include "parallel.h"
#include "rows.h"

#include <ATen/EmptyTensor.h>
#include <ATen/TensorIterator.h>

#include <algorithm>

namespace ste::cpu {
namespace {

// A thread takes a multiple of this many elements, so that its part of the result begins at a cache line, which it
// shares with no other thread.
constexpr int64_t kUnit = 4096;

// Undefined if it takes a TensorIterator.
template <size_t n>
at::Tensor forward_of_rows(ForwardLoop loop, const at::Tensor& x, const Arguments<n>& arguments) {
  const auto rows = rows_of<n>(x, arguments);
  if (!rows) {
    return {};
  }
  at::Tensor y(at::detail::empty_cpu(x.sizes(), x.scalar_type(), false, rows->format));
  Operands<n + 2, n> operands(*rows);
  operands.set_whole(0, y.mutable_data_ptr(), x.element_size());
  operands.set_whole(1, x.const_data_ptr(), x.element_size());
  for (size_t i = 0; i < n; ++i) {
    operands.set_argument(i + 2, arguments[i]->const_data_ptr(), arguments[i]->element_size(), rows->varies[i]);
  }
  const int64_t elements = x.numel();
  parallel_for((elements + kUnit - 1) / kUnit, at::internal::GRAIN_SIZE / kUnit, [&](int64_t begin, int64_t end) {
    operands.for_rows(
        begin * kUnit, std::min(end * kUnit, elements),
        [&](char* const* data, int64_t size, int64_t count) { loop(data, operands.strides(), size, count); });
  });
  return y;
}

}  // namespace

template <size_t n>
at::Tensor forward(ForwardLoop loop, const at::Tensor& x, const Arguments<n>& arguments) {
  if (auto y = forward_of_rows<n>(loop, x, arguments); y.defined()) {
    return y;
  }
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).declare_static_dtype(x.scalar_type());
  config.add_owned_output(at::Tensor()).add_borrowed_const_input(x);
  for (const auto* const argument : arguments) {
    config.add_borrowed_const_input(*argument);
  }
  auto iterator = config.build();
  iterator.for_each(loop);
  return iterator.output();
}

template at::Tensor forward<0>(ForwardLoop loop, const at::Tensor& x, const Arguments<0>& arguments);
template at::Tensor forward<1>(ForwardLoop loop, const at::Tensor& x, const Arguments<1>& arguments);
template at::Tensor forward<2>(ForwardLoop loop, const at::Tensor& x, const Arguments<2>& arguments);
template at::Tensor forward<3>(ForwardLoop loop, const at::Tensor& x, const Arguments<3>& arguments);

}  // namespace ste::cpu
