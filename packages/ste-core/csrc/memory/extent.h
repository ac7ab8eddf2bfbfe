// How an argument that broadcasts lies along x in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace ste {

// x has outer * middle * inner elements, and an argument has one for each of the middle ones. To a single number all
// are inner, to an argument of x's shape all are middle, and one number per channel has some of each.
struct Extent {
  int64_t outer = 1;
  int64_t middle = 1;
  int64_t inner = 1;
  bool operator==(const Extent&) const = default;
};

// x's dimensions in the order of the memory, in one of the two formats.
c10::SmallVector<int64_t, 5> order_of(const at::Tensor& x, at::MemoryFormat format);

// None if the argument also broadcasts in the middle, or does not have x's layout.
std::optional<Extent> extent_along(const at::Tensor& x, const at::Tensor& argument, at::IntArrayRef order);

}  // namespace ste
