#include "extent.h"

#include <algorithm>
#include <numeric>

namespace ste {

c10::SmallVector<int64_t, 5> order_of(const at::Tensor& x, at::MemoryFormat format) {
  c10::SmallVector<int64_t, 5> order(static_cast<size_t>(x.dim()));
  std::iota(order.begin(), order.end(), 0);
  if (format == at::MemoryFormat::ChannelsLast) {
    std::rotate(order.begin() + 1, order.begin() + 2, order.end());
  }
  return order;
}

std::optional<Extent> extent_along(const at::Tensor& x, const at::Tensor& argument, at::IntArrayRef order) {
  const int64_t missing = x.dim() - argument.dim();
  const auto size = [&](size_t i) { return order[i] < missing ? 1 : argument.size(order[i] - missing); };
  size_t first = 0;
  size_t last = order.size();
  Extent extent;
  while (first < last && size(first) == 1) {
    extent.outer *= x.size(order[first++]);
  }
  while (last > first && size(last - 1) == 1) {
    extent.inner *= x.size(order[--last]);
  }
  for (size_t i = last; i-- > first;) {
    const int64_t dim = order[i];
    if (size(i) != x.size(dim) || (size(i) != 1 && argument.stride(dim - missing) != extent.middle)) {
      return std::nullopt;
    }
    extent.middle *= size(i);
  }
  return first < last ? extent : Extent{1, 1, extent.outer};
}

}  // namespace ste
