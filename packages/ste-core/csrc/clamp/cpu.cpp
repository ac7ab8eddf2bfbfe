#include "elements.h"
#include "kernels.h"

#include "../memory/blocks.h"
#include "../memory/vectors.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// `may_be_nan`: whether a bound may be NaN. Finding out takes more operations than the clamp itself.
template <typename T, bool may_be_nan = true>
class Clamp {
 public:
  Clamp(const Lanes<T>& min, const Lanes<T>& max) : min_(min), max_(max) {
    if constexpr (may_be_nan) {
      is_nan_ = nan_of(min) | nan_of(max);
    }
  }

  Lanes<T> operator()(const Lanes<T>& x) const {
    if constexpr (is_16_bit<T>) {
      const auto raised = element::select(order(x) < order(min_), min_, x);
      const auto clamped = element::select(at::vec::maximum(order(x), order(min_)) > order(max_), max_, raised);
      const auto with_nan = element::select(nan_of(x), x, clamped);
      if constexpr (may_be_nan) {
        return element::select(is_nan_, min_ | max_, with_nan);
      } else {
        return with_nan;
      }
    } else {
      const auto clamped = at::vec::clamp(x, min_, max_);  // NaN for an x that is NaN, anything for a bound that is
      if constexpr (may_be_nan && std::is_floating_point_v<T>) {
        return clamped | is_nan_;  // all ones are a NaN
      } else {
        return clamped;
      }
    }
  }

 private:
  static Lanes<T> nan_of(const Lanes<T>& x) {
    if constexpr (is_16_bit<T>) {
      return magnitude(x) > Pattern(Format<T>::infinity);
    } else {
      return x != x;
    }
  }

  Lanes<T> min_;
  Lanes<T> max_;
  Lanes<T> is_nan_;
};

template <typename T>
class ScalarClamp {
 public:
  ScalarClamp(T min, T max) : min_(min), max_(max), clamp_(Lanes<T>(lane_of(min)), Lanes<T>(lane_of(max))) {}

  T operator()(T x) const { return element::clamp(x, min_, max_); }
  Lanes<T> operator()(const Lanes<T>& x) const { return clamp_(x); }

 private:
  T min_;
  T max_;
  Clamp<T> clamp_;
};

template <typename T>
void scalar_clamp(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Number min_val, Number max_val) {
  unary<T>(data, strides, size0, size1, ScalarClamp<T>(in_dtype<T>(min_val), in_dtype<T>(max_val)));
}

template <typename T, bool min_is_constant, bool max_is_constant, bool may_be_nan = true>
void clamp_row(char* y, const char* x, const char* min, const char* max, int64_t size) {
  using At = Clamp<T, may_be_nan>;
  const auto clamp_at = [min, max](int64_t i, auto count) {
    return At(load<T, min_is_constant>(min, i, count), load<T, max_is_constant>(max, i, count));
  };
  if constexpr (min_is_constant && max_is_constant) {
    map_row<T>(y, x, size, [clamp = clamp_at(0, whole)](int64_t, auto) -> const At& { return clamp; });
  } else {
    map_row<T>(y, x, size, clamp_at);
  }
}

// A few vectors of each row: their bounds, and what depends only on the bounds, stay in registers.
template <typename T, bool may_be_nan, size_t... k>
void clamp_columns(
    std::index_sequence<k...>, char* y, const char* x, const char* min, const char* max, int64_t i, int64_t y_stride,
    int64_t x_stride, int64_t rows) {
  constexpr int64_t vector = Lanes<T>::size();
  const std::array<Clamp<T, may_be_nan>, sizeof...(k)> clamp_at{
      Clamp<T, may_be_nan>(load<T>(min, i + k * vector, whole), load<T>(max, i + k * vector, whole))...};
  for (int64_t row = 0; row < rows; ++row) {
    const std::array<Lanes<T>, sizeof...(k)> result{clamp_at[k](load<T>(x, i + k * vector, whole))...};
    (store<T>(result[k], y, i + k * vector, whole), ...);
    x += x_stride;
    y += y_stride;
  }
}

// Rows with the same bounds, like those of channels-last activations.
template <typename T, bool may_be_nan>
void clamp_rows(
    char* y, const char* x, const char* min, const char* max, int64_t y_stride, int64_t x_stride, int64_t size,
    int64_t rows) {
  constexpr int64_t vector = Lanes<T>::size();
  int64_t i = 0;
  const auto columns = [&](auto count) {
    clamp_columns<T, may_be_nan>(count, y, x, min, max, i, y_stride, x_stride, rows);
    i += static_cast<int64_t>(count.size()) * vector;
  };
  while (i + 4 * vector <= size) {
    columns(std::make_index_sequence<4>());
  }
  switch ((size - i) / vector) {
    case 3:
      columns(std::make_index_sequence<3>());
      break;
    case 2:
      columns(std::make_index_sequence<2>());
      break;
    case 1:
      columns(std::make_index_sequence<1>());
      break;
    default:
      break;
  }
  if (i < size) {
    const Clamp<T, may_be_nan> clamp(load<T>(min, i, size - i), load<T>(max, i, size - i));
    for (int64_t row = 0; row < rows; ++row) {
      store<T>(clamp(load<T>(x + row * x_stride, i, size - i)), y + row * y_stride, i, size - i);
    }
  }
}

template <typename T>
bool any_nan(const char* row, int64_t size) {
  const auto* const values = reinterpret_cast<const T*>(row);
  return std::any_of(values, values + size, [](T value) { return value != value; });
}

template <typename T>
void clamp(char* const* data, const int64_t* strides, int64_t size0, int64_t size1);

// Contiguous rows of less than four vectors with the same bounds. As many rows as a vector has lanes are treated as one
// long row, for which the bounds are repeated.
template <typename T>
void clamp_short_rows(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  constexpr int64_t vector = Lanes<T>::size();
  std::array<std::array<T, 4 * vector * vector>, 2> bounds;
  for (size_t i = 0; i < bounds.size(); ++i) {
    for (int64_t row = 0; row < vector; ++row) {
      for (int64_t column = 0; column < size0; ++column) {
        bounds[i][row * size0 + column] = at_byte<T>(data[2 + i], column * strides[2 + i]);
      }
    }
  }
  const int64_t size = vector * size0;
  const int64_t rows = size1 / vector;
  const int64_t bytes = size * kSize<T>;
  const auto at_row = [&](int64_t row) {
    return std::array<char*, 4>{
        data[0] + row * bytes, data[1] + row * bytes, reinterpret_cast<char*>(bounds[0].data()),
        reinterpret_cast<char*>(bounds[1].data())};
  };
  const auto stride = kSize<T>;
  const std::array<int64_t, 8> long_strides{stride, stride, stride, stride, bytes, bytes, 0, 0};
  clamp<T>(at_row(0).data(), long_strides.data(), size, rows);
  clamp<T>(at_row(rows).data(), long_strides.data(), (size1 - rows * vector) * size0, 1);
}

template <typename T>
void clamp(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  const bool min_is_constant = strides[2] == 0;
  const bool max_is_constant = strides[3] == 0;
  const int64_t* const outer = strides + 4;
  if (strides[0] == kSize<T> && strides[1] == kSize<T> && (min_is_constant || strides[2] == kSize<T>) &&
      (max_is_constant || strides[3] == kSize<T>)) {
    const bool have_same_bounds = outer[2] == 0 && outer[3] == 0 && !(min_is_constant && max_is_constant);
    constexpr int64_t vector = Lanes<T>::size();
    const int64_t bytes = size0 * kSize<T>;
    if (have_same_bounds && size0 < 4 * vector && size0 % vector != 0 && size1 >= 16 * vector && outer[0] == bytes &&
        outer[1] == bytes) {
      clamp_short_rows<T>(data, strides, size0, size1);
      return;
    }
    if (have_same_bounds && size1 >= 16 && !min_is_constant && !max_is_constant) {
      const bool may_be_nan = any_nan<T>(data[2], size0) || any_nan<T>(data[3], size0);
      // If the bounds take no work of their own, loading them again is cheaper than leaving the order of the memory.
      if (!is_16_bit<T> && size0 > 4 * vector) {
        const auto a_row = may_be_nan ? &clamp_row<T, false, false, true> : &clamp_row<T, false, false, false>;
        for (int64_t row = 0; row < size1; ++row) {
          a_row(data[0] + row * outer[0], data[1] + row * outer[1], data[2], data[3], size0);
        }
        return;
      }
      const auto rows = may_be_nan ? &clamp_rows<T, true> : &clamp_rows<T, false>;
      // As many rows at a time as stay in the cache until their last column is done.
      const int64_t block = size0 <= 4 * vector ? size1 : std::max<int64_t>(16, (1 << 13) / bytes);
      for (int64_t row = 0; row < size1; row += block) {
        rows(
            data[0] + row * outer[0], data[1] + row * outer[1], data[2], data[3], outer[0], outer[1], size0,
            std::min(block, size1 - row));
      }
      return;
    }
    const auto clamp_a_row = min_is_constant
                                 ? (max_is_constant ? &clamp_row<T, true, true> : &clamp_row<T, true, false>)
                                 : (max_is_constant ? &clamp_row<T, false, true> : &clamp_row<T, false, false>);
    for (int64_t row = 0; row < size1; ++row) {
      clamp_a_row(
          data[0] + row * outer[0], data[1] + row * outer[1], data[2] + row * outer[2], data[3] + row * outer[3],
          size0);
    }
    return;
  }
  for (int64_t row = 0; row < size1; ++row) {
    for (int64_t i = 0; i < size0; ++i) {
      const auto argument = [&](int operand) -> T& {
        return at_byte<T>(data[operand], row * outer[operand] + i * strides[operand]);
      };
      argument(0) = element::clamp(argument(1), argument(2), argument(3));
    }
  }
}

template <typename W>
void clamp_backward_block(
    W* to_x, W* to_min, W* to_max, const W* g, const W* x, const W* min_val, const W* max_val, int64_t size) {
  using V = Vectorized<W>;
  int64_t i = 0;
  for (; i + V::size() <= size; i += V::size()) {
    const auto gradient =
        element::clamp_backward(V::loadu(g + i), V::loadu(x + i), V::loadu(min_val + i), V::loadu(max_val + i));
    gradient.x.store(to_x + i);
    gradient.min_val.store(to_min + i);
    gradient.max_val.store(to_max + i);
  }
  for (; i < size; ++i) {
    const auto gradient = element::clamp_backward(g[i], x[i], min_val[i], max_val[i]);
    to_x[i] = gradient.x;
    to_min[i] = gradient.min_val;
    to_max[i] = gradient.max_val;
  }
}

template <typename T>
void clamp_backward(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs) {
  backward<T, T>(data, strides, size0, size1, outputs, &clamp_backward_block<at::opmath_type<T>>);
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const ScalarClampKernel::Loops ScalarClampKernel::CPU_CAPABILITY =
    cpu::loop_table<ScalarClampKernel::Loops>(cpu::AllTypes(), []<typename T>() { return &cpu::scalar_clamp<T>; });

constinit const TensorClampKernel::Loops TensorClampKernel::CPU_CAPABILITY =
    cpu::loop_table<TensorClampKernel::Loops>(cpu::AllTypes(), []<typename T>() { return &cpu::clamp<T>; });

constinit const ClampBackwardKernel::Loops ClampBackwardKernel::CPU_CAPABILITY =
    cpu::loop_table<ClampBackwardKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::clamp_backward<T>; });

}  // namespace ste
