// The loops for x on a grid of any kind. `Ends` is what all grids of a kind have in common, in the dtype of the
// computation, and `ends.grid(scale, zero_point)` is one of them, of numbers or of vectors.
//
// Compiled like vectors.h.
#pragma once

#include "../memory/blocks.h"
#include "../memory/opmath.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// The quotients of a row by one number. They are computed one step ahead of their use: a division takes long, and the
// processor does the rest in the meantime.
template <typename T>
class Quotients {
 public:
  using W = at::opmath_type<T>;

  // For a row of at least four vectors.
  Quotients(const T* x, int64_t size, const Vectorized<W>& divisor)
      : x_(x), last_(size - kStep), divisor_(divisor), next_(at(0)) {}

  // Four vectors from element i on. To be called in order.
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

// A row with one scale and one zero point.
template <typename T, typename Ends>
void fake_quantize_row(char* y, const char* x, const char* scale, const char* zero_point, int64_t size, Ends ends) {
  using W = at::opmath_type<T>;
  constexpr int64_t step = 4 * Vectorized<W>::size();
  const auto number = [](const char* of) { return element::with_plain_nan(*reinterpret_cast<const W*>(of)); };
  const auto grid = ends.grid(number(scale), number(zero_point));
  const auto* const from = reinterpret_cast<const T*>(x);
  auto* const to = reinterpret_cast<T*>(y);
  int64_t i = 0;
  if (size >= step) {
    element::with_vectors<Vectorized<W>>(grid, [&](const auto& grids) {
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
  explicit Parameter(const char* row) : row_(reinterpret_cast<const W*>(row)), first_(element::with_plain_nan(*row_)) {}

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

template <typename T, typename Ends, bool scale_is_constant, bool zero_point_is_constant>
void fake_quantize_row(char* y, const char* x, const char* scale, const char* zero_point, int64_t size, Ends ends) {
  using W = at::opmath_type<T>;
  using V = Vectorized<W>;
  constexpr int64_t vector = Vectorized<T>::size();
  const auto* const from = reinterpret_cast<const T*>(x);
  auto* const to = reinterpret_cast<T*>(y);
  const Parameter<W, scale_is_constant> scales(scale);
  const Parameter<W, zero_point_is_constant> zero_points(zero_point);
  const auto at = [&](int64_t i) {
    auto parts = load_parts(from + i);
    for (size_t k = 0; k < parts.size(); ++k) {
      const int64_t first = i + k * V::size();
      parts[k] = element::fake_quantize(parts[k], ends.grid(scales.vector(first), zero_points.vector(first)));
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
    const auto grid = ends.grid(scales.number(i), zero_points.number(i));
    to[i] = static_cast<T>(element::fake_quantize(static_cast<W>(from[i]), grid));
  }
}

template <typename T, typename Ends>
void fake_quantize(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Ends ends) {
  using W = at::opmath_type<T>;
  const int64_t* const outer = strides + 4;
  const auto is_row = [&](int operand) { return strides[operand] == 0 || strides[operand] == kSize<W>; };
  const bool is_dense = strides[0] == kSize<T> && strides[1] == kSize<T> && is_row(2) && is_row(3);
  const auto row_function =
      strides[2] == 0
          ? (strides[3] == 0 ? &fake_quantize_row<T, Ends> : &fake_quantize_row<T, Ends, true, false>)
          : (strides[3] == 0 ? &fake_quantize_row<T, Ends, false, true> : &fake_quantize_row<T, Ends, false, false>);
  for (int64_t row = 0; row < size1; ++row) {
    const auto begin = [&](int operand) { return data[operand] + row * outer[operand]; };
    if (is_dense) {
      row_function(begin(0), begin(1), begin(2), begin(3), size0, ends);
      continue;
    }
    for (int64_t i = 0; i < size0; ++i) {
      const auto grid = ends.grid(at_byte<W>(begin(2), i * strides[2]), at_byte<W>(begin(3), i * strides[3]));
      const auto x = static_cast<W>(at_byte<T>(begin(1), i * strides[1]));
      at_byte<T>(begin(0), i * strides[0]) = static_cast<T>(element::fake_quantize(x, grid));
    }
  }
}

// The arguments are the scale, the zero point and a random number for each element.
template <typename T, typename Ends>
void fake_quantize_at_random(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Ends ends) {
  const auto value = [&](const auto& x, const auto& scale, const auto& zero_point, const auto& random) {
    return element::fake_quantize_at_random(x / scale, random, ends.grid(scale, zero_point));
  };
  with_arguments<T, 3>(data, strides, size0, size1, value);
}

// A row with one scale and one zero point: the gradient to x, and the sums of the other two gradients.
template <typename T, typename Grid, bool has_x, bool has_scale, bool has_zero_point>
void fake_quantize_backward_row(
    char* to_x, char* to_scale, char* to_zero_point, const char* g_row, const char* x_row, const Grid& grid,
    int64_t size) {
  using W = at::opmath_type<T>;
  constexpr int64_t step = 4 * Vectorized<W>::size();
  const auto* const g = reinterpret_cast<const T*>(g_row);
  const auto* const x = reinterpret_cast<const T*>(x_row);
  auto* const to = reinterpret_cast<T*>(to_x);
  element::with_vectors<Vectorized<W>>(grid, [&](const auto& grids) {
    Sum<W> of_scale;
    Sum<W> of_zero_point;
    // `counted` selects what of the terms goes into the sums.
    const auto take = [&](const T* from, const Four<W>& scaled, T* result, const auto& counted)
                          C10_ALWAYS_INLINE_ATTRIBUTE {
                            const auto gs = load_four(from);
                            const auto a = element::fake_quantize_backward_scaled(gs.a, scaled.a, grids);
                            const auto b = element::fake_quantize_backward_scaled(gs.b, scaled.b, grids);
                            const auto c = element::fake_quantize_backward_scaled(gs.c, scaled.c, grids);
                            const auto d = element::fake_quantize_backward_scaled(gs.d, scaled.d, grids);
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
      // The lanes past the end must not be counted, even with a gradient of 0: if the scale is infinite, they are NaN.
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

template <typename T, typename Grid>
using BackwardRow = decltype(&fake_quantize_backward_row<T, Grid, true, true, true>);

template <typename T, typename Grid, size_t... needed>
BackwardRow<T, Grid> choose_row(std::index_sequence<needed...>, size_t choice) {
  static constexpr std::array<BackwardRow<T, Grid>, sizeof...(needed)> rows{
      &fake_quantize_backward_row<T, Grid, (needed & 1) != 0, (needed & 2) != 0, (needed & 4) != 0>...};
  return rows[choice];
}

template <typename T, typename Ends>
void fake_quantize_backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs, Ends ends) {
  using W = at::opmath_type<T>;
  using V = Vectorized<W>;
  using Grid = decltype(ends.grid(W(), W()));
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
    const auto row_function = choose_row<T, Grid>(std::make_index_sequence<Ends::has_zero_point ? 8 : 4>(), needed);
    for (int64_t row = 0; row < size1; ++row) {
      const auto begin = [&](int operand) { return data[operand] + row * strides[7 + operand]; };
      const auto grid = ends.grid(at_byte<W>(begin(5), 0), at_byte<W>(begin(6), 0));
      row_function(begin(0), begin(1), begin(2), begin(3), begin(4), grid, size0);
    }
    return;
  }
  const auto block = [&](W* to_x, W* to_scale, W* to_zero_point, const W* g, const W* x, const W* scale,
                         const W* zero_point, int64_t size) {
    int64_t i = 0;
    for (; i + V::size() <= size; i += V::size()) {
      const auto grid = ends.grid(V::loadu(scale + i), V::loadu(zero_point + i));
      const auto gradient = element::fake_quantize_backward(V::loadu(g + i), V::loadu(x + i), grid);
      gradient.x.store(to_x + i);
      gradient.scale.store(to_scale + i);
      gradient.zero_point.store(to_zero_point + i);
    }
    for (; i < size; ++i) {
      const auto grid = ends.grid(scale[i], zero_point[i]);
      const auto gradient = element::fake_quantize_backward(g[i], x[i], grid);
      to_x[i] = gradient.x;
      to_scale[i] = gradient.scale;
      to_zero_point[i] = gradient.zero_point;
    }
  };
  backward<T, W>(data, strides, size0, size1, outputs, block);
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
