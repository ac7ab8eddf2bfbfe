// x as rows in memory, with arguments that broadcast to its shape. For most tensors this replaces TensorIterator, which
// for a small one costs more than all of the rest of a call.
#pragma once

#include "extent.h"
#include "kernel.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>

namespace ste::cpu {

inline bool have_one_layout(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.strides() == b.strides();
}

// Along a row, each argument that broadcasts to x's shape has one value, or one for each element.
template <size_t n>
struct Rows {
  at::MemoryFormat format;
  int64_t size;                // of a row
  int64_t count;               // rows per block; the arguments start over with each block
  bool is_inner;               // an argument has one value per row
  std::array<bool, n> varies;  // if not, it is one number

  // The number of elements of the arguments that vary.
  int64_t arguments() const { return is_inner ? count : size; }
};

template <size_t n>
std::optional<Rows<n>> rows_of(const at::Tensor& x, const std::array<const at::Tensor*, n>& arguments) {
  const auto format = x.is_contiguous() ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
  if (!x.is_contiguous(format) || x.numel() == 0) {
    return std::nullopt;
  }
  const auto order = order_of(x, format);
  Extent extent{1, 1, x.numel()};
  std::array<bool, n> varies{};
  std::optional<Extent> of_argument;
  for (size_t i = 0; i < n; ++i) {
    if (i == 0 || !have_one_layout(*arguments[i], *arguments[i - 1])) {
      of_argument = extent_along(x, *arguments[i], order);
    }
    const bool is_first = std::none_of(varies.begin(), varies.end(), std::identity());
    varies[i] = of_argument.has_value() && of_argument->middle > 1;
    if (!of_argument || (varies[i] && !is_first && *of_argument != extent)) {
      return std::nullopt;
    }
    if (varies[i]) {
      extent = *of_argument;
    }
  }
  // Rows lie along the inner elements, which have the same arguments; if there are none, along the middle ones.
  if (extent.inner > 1 || extent.middle <= 1) {
    return Rows<n>{format, extent.inner, extent.middle, true, varies};
  }
  return Rows<n>{format, extent.middle, extent.outer, false, varies};
}

// The operands of a loop, as TensorIterator gives them: with the strides of all operands from element to element, and
// then from row to row.
template <size_t operands, size_t n>
class Operands {
 public:
  explicit Operands(const Rows<n>& rows) : rows_(rows) {}

  const int64_t* strides() const { return strides_.data(); }

  // An operand with all of x's elements.
  void set_whole(size_t i, const void* data, int64_t element) {
    set(i, data, element, rows_.size * element);
    is_whole_[i] = true;
  }

  // An operand with an argument's elements, of this size each.
  void set_argument(size_t i, const void* data, int64_t element, bool varies) {
    set(i, data, varies && !rows_.is_inner ? element : 0, varies && rows_.is_inner ? element : 0);
  }

  // Calls `function` with where the operands begin, the size of a row and the number of rows, until all elements of x
  // from the first one on are done.
  template <typename Function>
  void for_rows(int64_t first, int64_t end, const Function& function) const {
    while (first < end) {
      const int64_t row = first / rows_.size;
      const int64_t element = first % rows_.size;
      const int64_t row_of_block = row % rows_.count;
      const int64_t size = std::min(rows_.size - element, end - first);
      const int64_t count = size == rows_.size ? std::min(rows_.count - row_of_block, (end - first) / size) : 1;
      auto data = begin_;
      for (size_t i = 0; i < operands; ++i) {
        data[i] += element * strides_[i] + (is_whole_[i] ? row : row_of_block) * strides_[operands + i];
      }
      function(data.data(), size, count);
      first += size * count;
    }
  }

  // The same, for the elements of x that belong to some of the arguments' elements, from the first one on.
  template <typename Function>
  void for_arguments(int64_t first, int64_t end, int64_t elements, const Function& function) const {
    const int64_t blocks = rows_.is_inner ? elements / (rows_.size * rows_.count) : 1;
    for (int64_t block = 0; block < blocks; ++block) {
      auto data = begin_;
      for (size_t i = 0; i < operands; ++i) {
        const int64_t row = first + (is_whole_[i] ? block * rows_.count : 0);
        data[i] += rows_.is_inner ? row * strides_[operands + i] : first * strides_[i];
      }
      function(data.data(), rows_.is_inner ? rows_.size : end - first, rows_.is_inner ? end - first : rows_.count);
    }
  }

 private:
  void set(size_t i, const void* data, int64_t along, int64_t across) {
    begin_[i] = static_cast<char*>(const_cast<void*>(data));
    strides_[i] = along;
    strides_[operands + i] = across;
  }

  const Rows<n>& rows_;
  std::array<char*, operands> begin_{};
  std::array<int64_t, 2 * operands> strides_{};
  std::array<bool, operands> is_whole_{};
};

}  // namespace ste::cpu
