// How an argument that broadcasts lies along x in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace ste {

// Of outer * middle * inner elements of x, an argument has one for each of the middle. A number has them all inner, an
// argument of x's shape all middle, and one for each channel has some of each.
struct Extent {
  int64_t outer = 1;
  int64_t middle = 1;
  int64_t inner = 1;
  bool operator==(const Extent&) const = default;
};

// x's dimensions as they lie in memory, in one of the two formats.
c10::SmallVector<int64_t, 5> order_of(const at::Tensor& x, at::MemoryFormat format);

// None where the argument broadcasts in the middle too, or has not x's layout.
std::optional<Extent> extent_along(const at::Tensor& x, const at::Tensor& argument, at::IntArrayRef order);

}  // namespace ste
