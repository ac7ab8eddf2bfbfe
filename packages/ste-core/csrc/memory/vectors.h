// Rows of elements, and the vectors into which they are loaded.
//
// For the loops, which are compiled once for each instruction set, with CPU_CAPABILITY set as for torch's own. All of
// this is in an unnamed namespace, because the linker chooses one of all copies of an inline function, and that one
// would not run everywhere.
#pragma once

#include "kernel.h"

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <type_traits>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
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

// Computes with 16-bit numbers as they are in memory, a sign and a magnitude. Going through float, as torch does, takes
// several times as long.
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

// The vector at element i of a row: all of it, its first `count` elements at the end of the row, or the same number in
// each lane. (at::vec counts in int64_t, or in a type of the elements' size.)
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

inline Pattern magnitude(const Pattern& x) {
  return x & Pattern(0x7FFF);
}

// Integers that have the order of the numbers. Both zeros give the same.
inline Pattern order(const Pattern& x) {
  const Pattern is_negative = x < Pattern(0);
  return (magnitude(x) ^ is_negative) - is_negative;
}

// Calls `function` with the index and the count of each vector of a row, from element i on to what is left at the end.
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

// y = function(x). The function takes a vector or one element, and has already computed all that does not depend on x.
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

template <typename... Ts>
struct Types {};

using FloatingTypes = Types<double, float, c10::Half, c10::BFloat16>;
using AllTypes = Types<double, float, c10::Half, c10::BFloat16, uint8_t, int8_t, int16_t, int32_t, int64_t>;

// The loops of a kernel, for these types of x. `loop_of<T>()` is the one for T.
template <typename Table, typename... Ts, typename LoopOf>
constexpr Table loop_table(Types<Ts...>, LoopOf loop_of) {
  Table table{};
  ((table.of[static_cast<size_t>(c10::CppTypeToScalarType<Ts>::value)] = loop_of.template operator()<Ts>()), ...);
  return table;
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
