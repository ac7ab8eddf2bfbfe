// How two arguments lie along x in the memory of a CUDA device.
#pragma once

#include "cuda_reduce.h"
#include "extent.h"
#include "kernel.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace ste::cuda {

// How many neighbors one load of 128 bits takes.
template <typename T>
constexpr int kPack = 16 / sizeof(T);

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// For two arguments that have the same extent, or of which one or both are single numbers.
struct Along {
  Extent extent;
  bool first_varies = false;
  bool second_varies = false;
};

inline std::optional<Along> along(const at::Tensor& x, const Arguments<2>& arguments, at::MemoryFormat format) {
  const auto order = order_of(x, format);
  const auto of_first = extent_along(x, *arguments[0], order);
  const auto of_second = extent_along(x, *arguments[1], order);
  if (!of_first || !of_second) {
    return std::nullopt;
  }
  Along result{{1, 1, x.numel()}, of_first->middle > 1, of_second->middle > 1};
  if (result.first_varies && result.second_varies && *of_first != *of_second) {
    return std::nullopt;
  }
  if (result.first_varies || result.second_varies) {
    result.extent = result.first_varies ? *of_first : *of_second;
  }
  return result;
}

inline std::optional<at::MemoryFormat> format_of(const at::Tensor& x) {
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    if (x.is_contiguous(format)) {
      return format;
    }
  }
  return std::nullopt;
}

}  // namespace ste::cuda
