// Compiled once for each instruction set, with CPU_CAPABILITY as torch's own kernels have it.
#include "loops.h"

#include "../elements.h"

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

namespace ste::cpu {
namespace CPU_CAPABILITY {
namespace {

using at::vec::Vectorized;

template <typename T>
constexpr int64_t kSize = sizeof(T);

template <typename T>
T& at_byte(char* data, int64_t offset) {
  return *reinterpret_cast<T*>(data + offset);
}

template <typename T>
constexpr bool is_16_bit = std::is_same_v<T, c10::Half> || std::is_same_v<T, c10::BFloat16>;

// 16-bit numbers are computed with as what they are in memory, a sign and a magnitude: through float, as torch does,
// takes several times as long.
using Pattern = Vectorized<int16_t>;

template <typename T>
struct Format;

template <>
struct Format<c10::Half> {
  static constexpr int16_t one = 0x3C00;
  static constexpr int16_t infinity = 0x7C00;
};

template <>
struct Format<c10::BFloat16> {
  static constexpr int16_t one = 0x3F80;
  static constexpr int16_t infinity = 0x7F80;
};

template <typename T>
using Lane = std::conditional_t<is_16_bit<T>, int16_t, T>;

template <typename T>
using Lanes = Vectorized<Lane<T>>;

template <typename T>
Lane<T> lane_of(T value) {
  if constexpr (is_16_bit<T>) {
    return static_cast<int16_t>(value.x);
  } else {
    return value;
  }
}

// The vector at element i of a row: all of it, the first `count` of it where the row ends, or the same number in each
// lane. (at::vec counts in int64_t, or in a type of the elements' size.)
struct Whole {};
constexpr Whole whole;

template <typename T>
Vectorized<T> load_vector(const T* from, Whole) {
  return Vectorized<T>::loadu(from);
}

template <typename T>
Vectorized<T> load_vector(const T* from, int64_t count) {
  using Narrow = std::conditional_t<sizeof(T) == 2, int16_t, T>;
  using Count = std::conditional_t<std::is_integral_v<Narrow>, Narrow, int64_t>;
  return Vectorized<T>::loadu(from, static_cast<Count>(count));
}

template <typename T, bool is_constant = false, typename Count>
Lanes<T> load(const char* row, int64_t i, Count count) {
  const auto* const from = reinterpret_cast<const Lane<T>*>(row);
  if constexpr (is_constant) {
    return Lanes<T>(*from);
  } else {
    return load_vector(from + i, count);
  }
}

template <typename T>
void store(const Lanes<T>& vector, char* row, int64_t i, Whole) {
  vector.store(reinterpret_cast<Lane<T>*>(row) + i);
}

template <typename T>
void store(const Lanes<T>& vector, char* row, int64_t i, int64_t count) {
  vector.store(reinterpret_cast<Lane<T>*>(row) + i, static_cast<int>(count));
}

Pattern magnitude(const Pattern& x) {
  return x & Pattern(0x7FFF);
}

// Integers in the order of the numbers, both zeros the same.
Pattern order(const Pattern& x) {
  const Pattern is_negative = x < Pattern(0);
  return (magnitude(x) ^ is_negative) - is_negative;
}

// What the loops do: to a vector, with all that does not depend on x computed before, and to one element.

template <typename T>
class BinarySign {
 public:
  explicit BinarySign(T low) : low_(low), lows_(lane_of(low)) {}

  T operator()(T x) const { return element::binary_sign(x, low_); }

  Lanes<T> operator()(const Lanes<T>& x) const {
    if constexpr (is_16_bit<T>) {
      const auto is_at_least_zero = (order(x) > Pattern(-1)) & (magnitude(x) <= Pattern(Format<T>::infinity));
      return element::select(is_at_least_zero, Pattern(Format<T>::one), lows_);
    } else {
      return element::binary_sign(x, lows_);
    }
  }

 private:
  T low_;
  Lanes<T> lows_;
};

template <typename T>
struct TernarySign {
  T operator()(T x) const { return element::ternary_sign(x); }

  // Of a floating number, its sign and the magnitude of 1, where it is neither zero nor NaN.
  Lanes<T> operator()(const Lanes<T>& x) const {
    if constexpr (is_16_bit<T>) {
      const auto size = magnitude(x);
      const auto has_sign = (size > Pattern(0)) & (size <= Pattern(Format<T>::infinity));
      return ((x & Pattern(std::numeric_limits<int16_t>::min())) | Pattern(Format<T>::one)) & has_sign;
    } else if constexpr (std::is_floating_point_v<T>) {
      return ((x & Lanes<T>(T(-0.0))) | Lanes<T>(T(1))) & (x.abs() > Lanes<T>(T(0)));
    } else {
      return element::ternary_sign(x);
    }
  }
};

template <typename T, Integer which>
struct ToInteger {
  T operator()(T x) const {
    switch (which) {
      case Integer::nearest:
        return element::round_half_even(x);
      case Integer::above:
        return std::ceil(x);
      case Integer::below:
        return std::floor(x);
      case Integer::toward_zero:
        return std::trunc(x);
    }
  }

  Lanes<T> operator()(const Lanes<T>& x) const {
    switch (which) {
      case Integer::nearest:
        return x.round();
      case Integer::above:
        return x.ceil();
      case Integer::below:
        return x.floor();
      case Integer::toward_zero:
        return x.trunc();
    }
  }
};

// Whether a bound may be NaN, which takes more operations to find out than the clamp itself.
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
      const auto clamped = at::vec::clamp(x, min_, max_);  // of NaN it is NaN; of a bound that is NaN, anything
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

// `function` of the index of each vector of a row from element i on, and of what is left at its end.
template <typename T, typename Function>
void for_vectors(int64_t i, int64_t size, const Function& function) {
  for (; i + Lanes<T>::size() <= size; i += Lanes<T>::size()) {
    function(i, whole);
  }
  if (i < size) {
    function(i, size - i);
  }
}

// y = at(i)(x) for each vector of a row. Four are loaded before one is stored: a load that follows a store to an
// address with the same last 12 bits waits for it.
template <typename T, typename At>
void map_row(char* y, const char* x, int64_t size, const At& at) {
  constexpr int64_t vector = Lanes<T>::size();
  const auto map = [&](int64_t i, auto count) { store<T>(at(i, count)(load<T>(x, i, count)), y, i, count); };
  int64_t i = 0;
  for (; i + 4 * vector <= size; i += 4 * vector) {
    const auto y0 = at(i, whole)(load<T>(x, i, whole));
    const auto y1 = at(i + vector, whole)(load<T>(x, i + vector, whole));
    const auto y2 = at(i + 2 * vector, whole)(load<T>(x, i + 2 * vector, whole));
    const auto y3 = at(i + 3 * vector, whole)(load<T>(x, i + 3 * vector, whole));
    store<T>(y0, y, i, whole);
    store<T>(y1, y, i + vector, whole);
    store<T>(y2, y, i + 2 * vector, whole);
    store<T>(y3, y, i + 3 * vector, whole);
  }
  for_vectors<T>(i, size, map);
}

template <typename T, typename Function>
void unary(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Function& function) {
  for (int64_t row = 0; row < size1; ++row) {
    char* const y = data[0] + row * strides[2];
    char* const x = data[1] + row * strides[3];
    if (strides[0] == kSize<T> && strides[1] == kSize<T>) {
      map_row<T>(y, x, size0, [&](int64_t, auto) -> const Function& { return function; });
    } else {
      for (int64_t i = 0; i < size0; ++i) {
        at_byte<T>(y, i * strides[0]) = function(at_byte<T>(x, i * strides[1]));
      }
    }
  }
}

template <typename T>
T in_dtype(Number number) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(number.integer);
  } else {
    return c10::convert<T>(number.real);
  }
}

template <typename T>
void binary_sign(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Number low) {
  unary<T>(data, strides, size0, size1, BinarySign<T>(in_dtype<T>(low)));
}

template <typename T>
void ternary_sign(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  unary<T>(data, strides, size0, size1, TernarySign<T>());
}

template <typename T>
void to_integer(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Integer which) {
  switch (which) {
    case Integer::nearest:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::nearest>());
    case Integer::above:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::above>());
    case Integer::below:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::below>());
    case Integer::toward_zero:
      return unary<T>(data, strides, size0, size1, ToInteger<T, Integer::toward_zero>());
  }
}

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

// A few vectors of each row: their bounds, and what depends on the bounds alone, stay in registers.
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

// Rows with the same bounds, as those of channels-last activations.
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

// Rows of less than four vectors, one right after the other, with the same bounds: as many as a vector has lanes are
// one long row, and the bounds are repeated for it.
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
      // Where the bounds take no work of their own, to load them again is cheaper than to leave the order of the
      // memory.
      if (!is_16_bit<T> && size0 > 4 * vector) {
        const auto a_row = may_be_nan ? &clamp_row<T, false, false, true> : &clamp_row<T, false, false, false>;
        for (int64_t row = 0; row < size1; ++row) {
          a_row(data[0] + row * outer[0], data[1] + row * outer[1], data[2], data[3], size0);
        }
        return;
      }
      const auto rows = may_be_nan ? &clamp_rows<T, true> : &clamp_rows<T, false>;
      // As many at a time as stay in the cache until their last column has been taken.
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

// The backward goes block by block: the inputs as float or double, whatever their dtype and strides, and from there
// to each output in its own way.
constexpr int64_t kBlock = 256;

template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
void widen(const T* from, float* to, int64_t count) {
  using V = Vectorized<T>;
  for (int64_t i = 0; i < count; i += V::size()) {
    const auto [low, high] =
        at::vec::convert_to_float<T>(load_vector(from + i, std::min<int64_t>(V::size(), count - i)));
    low.store(to + i);
    high.store(to + i + V::size() / 2);
  }
}

template <typename T>
void narrow(const float* from, T* to, int64_t count) {
  using V = Vectorized<T>;
  using F = Vectorized<float>;
  for (int64_t i = 0; i < count; i += V::size()) {
    const auto both = at::vec::convert_from_float<T>(F::loadu(from + i), F::loadu(from + i + V::size() / 2));
    both.store(to + i, static_cast<int>(std::min<int64_t>(V::size(), count - i)));
  }
}

// A row of an input.
template <typename T>
class Source {
 public:
  using W = Wide<T>;

  Source(char* data, int64_t stride, int64_t size) : data_(data), stride_(stride) {
    if (stride == 0) {
      std::fill_n(block_.data(), std::min(size, kBlock), static_cast<W>(at_byte<T>(data, 0)));
    }
  }

  const W* block(int64_t begin, int64_t count) {
    char* const from = data_ + begin * stride_;
    if (stride_ == kSize<T>) {
      if constexpr (std::is_same_v<T, W>) {
        return reinterpret_cast<const W*>(from);
      } else {
        widen(reinterpret_cast<const T*>(from), block_.data(), count);
      }
    } else if (stride_ != 0) {
      for (int64_t i = 0; i < count; ++i) {
        block_[i] = static_cast<W>(at_byte<T>(from, i * stride_));
      }
    }
    return block_.data();
  }

 private:
  char* data_;
  int64_t stride_;
  std::array<W, kBlock> block_;
};

// A row of an output.
template <typename T>
class Sink {
 public:
  using W = Wide<T>;

  Sink(Output kind, char* data, int64_t stride) : kind_(kind), data_(data), stride_(stride) {}

  // Where the values of a block go first.
  W* block(int64_t begin) { return is_direct() ? reinterpret_cast<W*>(data_ + begin * stride_) : block_.data(); }

  void flush(int64_t begin, int64_t count) {
    char* const to = data_ + begin * stride_;
    if (kind_ == Output::sum) {
      if (stride_ == 0) {
        total_ += sum(count);
      } else {
        for (int64_t i = 0; i < count; ++i) {
          at_byte<double>(to, i * stride_) += static_cast<double>(block_[i]);
        }
      }
    } else if (kind_ == Output::store && !is_direct()) {
      if constexpr (!std::is_same_v<T, W>) {
        if (stride_ == kSize<T>) {
          narrow(block_.data(), reinterpret_cast<T*>(to), count);
          return;
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        at_byte<T>(to, i * stride_) = static_cast<T>(block_[i]);
      }
    }
  }

  void finish() {
    if (kind_ == Output::sum && stride_ == 0) {
      at_byte<double>(data_, 0) += total_;
    }
  }

 private:
  bool is_direct() const { return std::is_same_v<T, W> && kind_ == Output::store && stride_ == kSize<T>; }

  double sum(int64_t count) const {
    std::array<double, 8> lanes{};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      for (int64_t lane = 0; lane < 8; ++lane) {
        lanes[lane] += static_cast<double>(block_[i + lane]);
      }
    }
    for (; i < count; ++i) {
      lanes[i % 8] += static_cast<double>(block_[i]);
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }

  Output kind_;
  char* data_;
  int64_t stride_;
  double total_ = 0;
  std::array<W, kBlock> block_;
};

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

// `block(to_x, to_first, to_second, g, x, first, second, count)` computes the gradients to x, of dtype T, and to two
// arguments of dtype A.
template <typename T, typename A, typename Block>
void backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs,
    const Block& block) {
  for (int64_t row = 0; row < size1; ++row) {
    const auto begin = [&](int operand) { return data[operand] + row * strides[7 + operand]; };
    Sink<T> to_x(outputs[0], begin(0), strides[0]);
    Sink<A> to_first(outputs[1], begin(1), strides[1]);
    Sink<A> to_second(outputs[2], begin(2), strides[2]);
    Source<T> g(begin(3), strides[3], size0);
    Source<T> x(begin(4), strides[4], size0);
    Source<A> first(begin(5), strides[5], size0);
    Source<A> second(begin(6), strides[6], size0);
    for (int64_t i = 0; i < size0; i += kBlock) {
      const int64_t count = std::min(kBlock, size0 - i);
      block(
          to_x.block(i), to_first.block(i), to_second.block(i), g.block(i, count), x.block(i, count),
          first.block(i, count), second.block(i, count), count);
      to_x.flush(i, count);
      to_first.flush(i, count);
      to_second.flush(i, count);
    }
    to_x.finish();
    to_first.finish();
    to_second.finish();
  }
}

template <typename T>
void clamp_backward(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs) {
  backward<T, T>(data, strides, size0, size1, outputs, &clamp_backward_block<Wide<T>>);
}

// A vector of T as vectors of what it is computed in.
template <typename T>
using Parts = std::array<Vectorized<Wide<T>>, sizeof(Wide<T>) / sizeof(T)>;

template <typename T>
Parts<T> load_parts(const T* from) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    return {Vectorized<T>::loadu(from)};
  } else {
    const auto [low, high] = at::vec::convert_to_float<T>(Vectorized<T>::loadu(from));
    return {low, high};
  }
}

template <typename T>
void store_parts(const Parts<T>& parts, T* to) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    parts[0].store(to);
  } else {
    at::vec::convert_from_float<T>(parts[0], parts[1]).store(to);
  }
}

// Four vectors of what a row is computed in. (As an array, GCC keeps them in memory.)
template <typename W>
struct Four {
  Vectorized<W> a;
  Vectorized<W> b;
  Vectorized<W> c;
  Vectorized<W> d;
};

// A bfloat16 is the upper half of a float: a shift and a mask take each 32 bits apart, into an even element and an odd
// one, with a third of the operations of at::vec's conversions, which keep the order.
using Bits = Vectorized<int32_t>;
constexpr int32_t kUpperHalf = -(1 << 16);

// (at::vec::cast goes through memory here.)
Bits bits_of(const Vectorized<float>& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_castps_si512(v);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_castps_si256(v);
#else
  return at::vec::cast<int32_t>(v);
#endif
}

// The lower half of one and the upper half of the other.
Bits halves(const Bits& lower, const Bits& upper) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_mask_blend_epi16(0xAAAAAAAA, lower, upper);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_blend_epi16(lower, upper, 0xAA);
#else
  return (lower & Bits(~kUpperHalf)) | (upper & Bits(kUpperHalf));
#endif
}

// To the nearest bfloat16, of two the even one, in the upper half. A NaN is to have a payload that a bfloat16 can have.
Bits rounded(const Vectorized<float>& v) {
  const auto bits = bits_of(v);
  const auto raised = bits + Bits(0x7FFF);
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_mask_add_epi32(raised, _mm512_test_epi32_mask(bits, Bits(0x10000)), raised, Bits(1));
#else
  return raised + ((bits >> Bits(16)) & Bits(1));
#endif
}

template <typename T>
Four<Wide<T>> load_four(const T* from) {
  using V = Vectorized<T>;
  constexpr int64_t size = V::size();
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const auto first = Bits::loadu(from);
    const auto second = Bits::loadu(from + size);
    const auto even = [](const Bits& pairs) { return at::vec::cast<float>(pairs << Bits(16)); };
    const auto odd = [](const Bits& pairs) { return at::vec::cast<float>(pairs & Bits(kUpperHalf)); };
    return {even(first), odd(first), even(second), odd(second)};
  } else if constexpr (is_16_bit<T>) {
    const auto [a, b] = load_parts(from);
    const auto [c, d] = load_parts(from + size);
    return {a, b, c, d};
  } else {
    return {V::loadu(from), V::loadu(from + size), V::loadu(from + 2 * size), V::loadu(from + 3 * size)};
  }
}

template <typename T>
void store_four(const Four<Wide<T>>& four, T* to) {
  constexpr int64_t size = Vectorized<T>::size();
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    halves(rounded(four.a) >> Bits(16), rounded(four.b)).store(to);
    halves(rounded(four.c) >> Bits(16), rounded(four.d)).store(to + size);
  } else if constexpr (is_16_bit<T>) {
    at::vec::convert_from_float<T>(four.a, four.b).store(to);
    at::vec::convert_from_float<T>(four.c, four.d).store(to + size);
  } else {
    four.a.store(to);
    four.b.store(to + size);
    four.c.store(to + 2 * size);
    four.d.store(to + 3 * size);
  }
}

// What stands in a row where a mask holds, and else 0.
template <typename T>
void store_kept(const T* from, const Four<Wide<T>>& masks, T* to) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    constexpr int64_t size = Vectorized<T>::size();
    (Bits::loadu(from) & halves(bits_of(masks.a), bits_of(masks.b))).store(to);
    (Bits::loadu(from + size) & halves(bits_of(masks.c), bits_of(masks.d))).store(to + size);
  } else {
    const auto four = load_four(from);
    store_four<T>({four.a & masks.a, four.b & masks.b, four.c & masks.c, four.d & masks.d}, to);
  }
}

// The quotients of a row by one number. They are one step ahead of what is made of them: a division takes long, and the
// processor goes on with the rest.
template <typename T>
class Quotients {
 public:
  using W = Wide<T>;

  // Of four vectors or more.
  Quotients(const T* x, int64_t size, const Vectorized<W>& divisor)
      : x_(x), last_(size - kStep), divisor_(divisor), next_(at(0)) {}

  // Those from element i on, in order.
  Four<W> from(int64_t i) {
    const auto result = next_;
    next_ = at(std::min(i + kStep, last_));
    return result;
  }

 private:
  static constexpr int64_t kStep = 4 * Vectorized<W>::size();

  Four<W> at(int64_t i) const {
    const auto four = load_four(x_ + i);
    return {four.a / divisor_, four.b / divisor_, four.c / divisor_, four.d / divisor_};
  }

  const T* x_;
  int64_t last_;
  Vectorized<W> divisor_;
  Four<W> next_;
};

// Calls the function with the grid as vectors: without a zero point where there is none, which spares its loops that
// work.
template <typename W, typename Function>
void with_grid(const element::Grid<W>& grid, const Function& function) {
  using V = Vectorized<W>;
  const V scale(grid.scale);
  const V quant_min(grid.quant_min);
  const V quant_max(grid.quant_max);
  if (grid.zero_point == 0 && grid.scale > 0 && grid.scale <= std::numeric_limits<W>::max()) {
    function(element::Grid<V, element::Zero>{scale, {}, quant_min, quant_max});
  } else {
    function(element::Grid<V>{scale, V(grid.zero_point), quant_min, quant_max});
  }
}

// With the payload of a NaN that every dtype can have.
template <typename W>
W with_plain_nan(W number) {
  return number == number ? number : std::numeric_limits<W>::quiet_NaN();
}

// A row with one scale and one zero point.
template <typename T>
void fake_quantize_row(char* y, const char* x, const char* scale, const char* zero_point, int64_t size, Ends ends) {
  using W = Wide<T>;
  constexpr int64_t step = 4 * Vectorized<W>::size();
  const auto number = [](const char* of) { return with_plain_nan(*reinterpret_cast<const W*>(of)); };
  const element::Grid<W> grid{
      number(scale), number(zero_point), static_cast<W>(ends.quant_min), static_cast<W>(ends.quant_max)};
  const auto* const from = reinterpret_cast<const T*>(x);
  auto* const to = reinterpret_cast<T*>(y);
  int64_t i = 0;
  if (size >= step) {
    with_grid(grid, [&](const auto& grids) {
      Quotients<T> quotients(from, size, grids.scale);
      const auto value = [&](const auto& scaled) { return element::fake_quantize_scaled(scaled, grids); };
      for (; i + step <= size; i += step) {
        const auto scaled = quotients.from(i);
        store_four<T>({value(scaled.a), value(scaled.b), value(scaled.c), value(scaled.d)}, to + i);
      }
    });
  }
  for (; i < size; ++i) {
    to[i] = static_cast<T>(element::fake_quantize(static_cast<W>(from[i]), grid));
  }
}

// A parameter of a grid along a row: one number, or one for each element.
template <typename W, bool is_constant>
class Parameter {
 public:
  explicit Parameter(const char* row) : row_(reinterpret_cast<const W*>(row)), first_(with_plain_nan(*row_)) {}

  Vectorized<W> vector(int64_t i) const {
    if constexpr (is_constant) {
      return first_;
    } else {
      return Vectorized<W>::loadu(row_ + i);
    }
  }

  W number(int64_t i) const { return row_[is_constant ? 0 : i]; }

 private:
  const W* row_;
  Vectorized<W> first_;
};

template <typename T, bool scale_is_constant, bool zero_point_is_constant>
void fake_quantize_row(char* y, const char* x, const char* scale, const char* zero_point, int64_t size, Ends ends) {
  using W = Wide<T>;
  using V = Vectorized<W>;
  constexpr int64_t vector = Vectorized<T>::size();
  const auto* const from = reinterpret_cast<const T*>(x);
  auto* const to = reinterpret_cast<T*>(y);
  const Parameter<W, scale_is_constant> scales(scale);
  const Parameter<W, zero_point_is_constant> zero_points(zero_point);
  const auto quant_min = static_cast<W>(ends.quant_min);
  const auto quant_max = static_cast<W>(ends.quant_max);
  const V quant_mins(quant_min);
  const V quant_maxs(quant_max);
  const auto at = [&](int64_t i) {
    auto parts = load_parts(from + i);
    for (size_t k = 0; k < parts.size(); ++k) {
      const int64_t first = i + k * V::size();
      const element::Grid<V> grid{scales.vector(first), zero_points.vector(first), quant_mins, quant_maxs};
      parts[k] = element::fake_quantize(parts[k], grid);
    }
    return parts;
  };
  const auto store_at = [&](const Parts<T>& parts, int64_t i) { store_parts(parts, to + i); };
  int64_t i = 0;
  for (; i + 4 * vector <= size; i += 4 * vector) {
    const auto y0 = at(i);
    const auto y1 = at(i + vector);
    const auto y2 = at(i + 2 * vector);
    const auto y3 = at(i + 3 * vector);
    store_at(y0, i);
    store_at(y1, i + vector);
    store_at(y2, i + 2 * vector);
    store_at(y3, i + 3 * vector);
  }
  for (; i + vector <= size; i += vector) {
    store_at(at(i), i);
  }
  for (; i < size; ++i) {
    const element::Grid<W> grid{scales.number(i), zero_points.number(i), quant_min, quant_max};
    to[i] = static_cast<T>(element::fake_quantize(static_cast<W>(from[i]), grid));
  }
}

template <typename T>
void fake_quantize(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Ends ends) {
  using W = Wide<T>;
  const int64_t* const outer = strides + 4;
  const auto is_row = [&](int operand) { return strides[operand] == 0 || strides[operand] == kSize<W>; };
  const bool is_dense = strides[0] == kSize<T> && strides[1] == kSize<T> && is_row(2) && is_row(3);
  const auto row_function =
      strides[2] == 0 ? (strides[3] == 0 ? &fake_quantize_row<T> : &fake_quantize_row<T, true, false>)
                      : (strides[3] == 0 ? &fake_quantize_row<T, false, true> : &fake_quantize_row<T, false, false>);
  for (int64_t row = 0; row < size1; ++row) {
    const auto begin = [&](int operand) { return data[operand] + row * outer[operand]; };
    if (is_dense) {
      row_function(begin(0), begin(1), begin(2), begin(3), size0, ends);
      continue;
    }
    for (int64_t i = 0; i < size0; ++i) {
      const element::Grid<W> grid{
          at_byte<W>(begin(2), i * strides[2]), at_byte<W>(begin(3), i * strides[3]), static_cast<W>(ends.quant_min),
          static_cast<W>(ends.quant_max)};
      const auto x = static_cast<W>(at_byte<T>(begin(1), i * strides[1]));
      at_byte<T>(begin(0), i * strides[0]) = static_cast<T>(element::fake_quantize(x, grid));
    }
  }
}

using Doubles = Vectorized<double>;

// Both halves of a vector, in double.
std::array<Doubles, 2> in_double(const Vectorized<float>& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
#elif defined(CPU_CAPABILITY_AVX2)
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
#else
  std::array<float, Vectorized<float>::size()> floats;
  std::array<double, Vectorized<float>::size()> doubles;
  v.store(floats.data());
  std::copy(floats.begin(), floats.end(), doubles.begin());
  return {Doubles::loadu(doubles.data()), Doubles::loadu(doubles.data() + Doubles::size())};
#endif
}

std::array<Doubles, 2> in_double(const Doubles& v) {
  return {v, Doubles(0)};
}

// A sum in double of what is first added up, a few numbers at a time, in its own dtype: within the error of the terms.
template <typename W>
class Sum {
 public:
  static constexpr int64_t kFew = 8;

  void add(const Four<W>& four) { few_ = {few_.a + four.a, few_.b + four.b, few_.c + four.c, few_.d + four.d}; }

  // After a few.
  void flush() {
    const auto [low, high] = in_double((few_.a + few_.b) + (few_.c + few_.d));
    low_ = low_ + low;
    high_ = high_ + high;
    few_ = zeros();
  }

  double total() const {
    std::array<double, Doubles::size()> lanes;
    (low_ + high_).store(lanes.data());
    return std::accumulate(lanes.begin(), lanes.end(), 0.0);
  }

 private:
  static Four<W> zeros() {
    using V = Vectorized<W>;
    return {V(0), V(0), V(0), V(0)};
  }

  Four<W> few_ = zeros();
  Doubles low_ = Doubles(0);
  Doubles high_ = Doubles(0);
};

// A row with one scale and one zero point: the gradient to x, and the sums of those to the others.
template <typename T, Inside inside, bool has_x, bool has_scale, bool has_zero_point>
void fake_quantize_backward_row(
    char* to_x, char* to_scale, char* to_zero_point, const char* g_row, const char* x_row,
    const element::Grid<Wide<T>>& grid, int64_t size) {
  using W = Wide<T>;
  constexpr int64_t step = 4 * Vectorized<W>::size();
  const auto* const g = reinterpret_cast<const T*>(g_row);
  const auto* const x = reinterpret_cast<const T*>(x_row);
  auto* const to = reinterpret_cast<T*>(to_x);
  with_grid(grid, [&](const auto& grids) {
    Sum<W> of_scale;
    Sum<W> of_zero_point;
    // `counted` is what of the terms goes into the sums.
    const auto take = [&](const T* from, const Four<W>& scaled, T* result, const auto& counted)
                          C10_ALWAYS_INLINE_ATTRIBUTE {
                            const auto gs = load_four(from);
                            const auto a = element::fake_quantize_backward_scaled<inside>(gs.a, scaled.a, grids);
                            const auto b = element::fake_quantize_backward_scaled<inside>(gs.b, scaled.b, grids);
                            const auto c = element::fake_quantize_backward_scaled<inside>(gs.c, scaled.c, grids);
                            const auto d = element::fake_quantize_backward_scaled<inside>(gs.d, scaled.d, grids);
                            if constexpr (has_x) {
                              store_kept(from, {a.is_inside, b.is_inside, c.is_inside, d.is_inside}, result);
                            }
                            if constexpr (has_scale) {
                              of_scale.add(counted({a.scale, b.scale, c.scale, d.scale}));
                            }
                            if constexpr (has_zero_point) {
                              of_zero_point.add(counted({a.zero_point, b.zero_point, c.zero_point, d.zero_point}));
                            }
                          };
    const auto flush = [&] {
      of_scale.flush();
      of_zero_point.flush();
    };
    int64_t i = 0;
    if (size >= step) {
      Quotients<T> quotients(x, size, grids.scale);
      while (i + step <= size) {
        const int64_t end = std::min(i + Sum<W>::kFew * step, size);
        for (; i + step <= end; i += step) {
          take(g + i, quotients.from(i), to + i, [](const Four<W>& terms) -> const Four<W>& { return terms; });
        }
        flush();
      }
    }
    if (i < size) {
      // Not even with a gradient of 0 may the places past the end be counted: of a scale that is infinite it is NaN.
      std::array<T, step> rest_of_g{};
      std::array<T, step> rest_of_x{};
      std::array<T, step> is_rest{};
      std::array<T, step> rest;
      std::copy(g + i, g + size, rest_of_g.begin());
      std::copy(x + i, x + size, rest_of_x.begin());
      std::fill_n(is_rest.begin(), size - i, T(1));
      const auto ones = load_four(is_rest.data());
      take(
          rest_of_g.data(), Quotients<T>(rest_of_x.data(), step, grids.scale).from(0), rest.data(),
          [&](const Four<W>& terms) -> Four<W> {
            const Vectorized<W> zero(0);
            return {
                element::keep(ones.a > zero, terms.a), element::keep(ones.b > zero, terms.b),
                element::keep(ones.c > zero, terms.c), element::keep(ones.d > zero, terms.d)};
          });
      flush();
      if constexpr (has_x) {
        std::copy_n(rest.begin(), size - i, to + i);
      }
    }
    if constexpr (has_scale) {
      at_byte<double>(to_scale, 0) += of_scale.total();
    }
    if constexpr (has_zero_point) {
      at_byte<double>(to_zero_point, 0) += of_zero_point.total();
    }
  });
}

template <typename T>
using BackwardRow = decltype(&fake_quantize_backward_row<T, Inside::rounded, true, true, true>);

template <typename T, Inside inside, size_t... needed>
BackwardRow<T> choose_row(std::index_sequence<needed...>, size_t choice) {
  static constexpr std::array<BackwardRow<T>, sizeof...(needed)> rows{
      &fake_quantize_backward_row<T, inside, (needed & 1) != 0, (needed & 2) != 0, (needed & 4) != 0>...};
  return rows[choice];
}

template <typename T, Inside inside>
void fake_quantize_backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs, const Ends& ends) {
  using W = Wide<T>;
  using V = Vectorized<W>;
  const auto quant_min = static_cast<W>(ends.quant_min);
  const auto quant_max = static_cast<W>(ends.quant_max);
  const auto is_dense = [&](int operand) { return strides[operand] == kSize<T>; };
  const auto is_one_sum = [&](int operand) {
    return outputs[operand] == Output::none || (outputs[operand] == Output::sum && strides[operand] == 0);
  };
  if (is_dense(3) && is_dense(4) && strides[5] == 0 && strides[6] == 0 &&
      (outputs[0] == Output::none || (outputs[0] == Output::store && is_dense(0))) && is_one_sum(1) && is_one_sum(2)) {
    size_t needed = 0;
    for (size_t i = 0; i < 3; ++i) {
      needed |= static_cast<size_t>(outputs[i] != Output::none) << i;
    }
    const auto row_function = choose_row<T, inside>(std::make_index_sequence<8>(), needed);
    for (int64_t row = 0; row < size1; ++row) {
      const auto begin = [&](int operand) { return data[operand] + row * strides[7 + operand]; };
      const element::Grid<W> grid{at_byte<W>(begin(5), 0), at_byte<W>(begin(6), 0), quant_min, quant_max};
      row_function(begin(0), begin(1), begin(2), begin(3), begin(4), grid, size0);
    }
    return;
  }
  const auto block = [&](W* to_x, W* to_scale, W* to_zero_point, const W* g, const W* x, const W* scale,
                         const W* zero_point, int64_t size) {
    int64_t i = 0;
    for (; i + V::size() <= size; i += V::size()) {
      const element::Grid<V> grid{V::loadu(scale + i), V::loadu(zero_point + i), V(quant_min), V(quant_max)};
      const auto gradient = element::fake_quantize_backward<inside>(V::loadu(g + i), V::loadu(x + i), grid);
      gradient.x.store(to_x + i);
      gradient.scale.store(to_scale + i);
      gradient.zero_point.store(to_zero_point + i);
    }
    for (; i < size; ++i) {
      const element::Grid<W> grid{scale[i], zero_point[i], quant_min, quant_max};
      const auto gradient = element::fake_quantize_backward<inside>(g[i], x[i], grid);
      to_x[i] = gradient.x;
      to_scale[i] = gradient.scale;
      to_zero_point[i] = gradient.zero_point;
    }
  };
  backward<T, W>(data, strides, size0, size1, outputs, block);
}

template <typename T>
void fake_quantize_backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs, Ends ends) {
  const auto backward = ends.inside == Inside::rounded ? &fake_quantize_backward<T, Inside::rounded>
                                                       : &fake_quantize_backward<T, Inside::scaled>;
  backward(data, strides, size0, size1, outputs, ends);
}

template <typename T>
Loops loops_of() {
  if constexpr (std::is_integral_v<T>) {
    return {&binary_sign<T>, &ternary_sign<T>, nullptr, &scalar_clamp<T>, &clamp<T>, nullptr, nullptr, nullptr};
  } else {
    decltype(Loops::to_integer) integer_of_t = nullptr;
    if constexpr (!is_16_bit<T>) {
      integer_of_t = &to_integer<T>;
    }
    return {&binary_sign<T>, &ternary_sign<T>,   integer_of_t,      &scalar_clamp<T>,
            &clamp<T>,       &clamp_backward<T>, &fake_quantize<T>, &fake_quantize_backward<T>};
  }
}

}  // namespace

Loops loops(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return loops_of<double>();
    case at::kFloat:
      return loops_of<float>();
    case at::kHalf:
      return loops_of<c10::Half>();
    case at::kBFloat16:
      return loops_of<c10::BFloat16>();
    case at::kByte:
      return loops_of<uint8_t>();
    case at::kChar:
      return loops_of<int8_t>();
    case at::kShort:
      return loops_of<int16_t>();
    case at::kInt:
      return loops_of<int32_t>();
    default:
      return loops_of<int64_t>();
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
