// Vectors in the dtype of the computation, which is float for 16-bit numbers.
//
// Compiled like vectors.h.
#pragma once

#include "vectors.h"

#include <ATen/OpMathType.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

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

// A vector of T as vectors of the dtype of the computation.
template <typename T>
using Parts = std::array<Vectorized<at::opmath_type<T>>, sizeof(at::opmath_type<T>) / sizeof(T)>;

template <typename T>
Parts<T> load_parts(const T* from) {
  if constexpr (std::is_same_v<T, at::opmath_type<T>>) {
    return {Vectorized<T>::loadu(from)};
  } else {
    const auto [low, high] = at::vec::convert_to_float<T>(Vectorized<T>::loadu(from));
    return {low, high};
  }
}

template <typename T>
void store_parts(const Parts<T>& parts, T* to) {
  if constexpr (std::is_same_v<T, at::opmath_type<T>>) {
    parts[0].store(to);
  } else {
    at::vec::convert_from_float<T>(parts[0], parts[1]).store(to);
  }
}

// Four vectors of the dtype of the computation. (GCC would keep an array in memory.)
template <typename W>
struct Four {
  Vectorized<W> a;
  Vectorized<W> b;
  Vectorized<W> c;
  Vectorized<W> d;
};

// A bfloat16 is the upper half of a float. A shift and a mask split each 32 bits into an even element and an odd one,
// with a third of the operations of at::vec's conversions, which keep the order.
using Bits = Vectorized<int32_t>;
constexpr int32_t kUpperHalf = -(1 << 16);

// (at::vec::cast goes through memory here.)
inline Bits bits_of(const Vectorized<float>& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_castps_si512(v);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_castps_si256(v);
#else
  return at::vec::cast<int32_t>(v);
#endif
}

// The lower half of one and the upper half of the other.
inline Bits halves(const Bits& lower, const Bits& upper) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_mask_blend_epi16(0xAAAAAAAA, __m512i(lower), __m512i(upper));
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_blend_epi16(lower, upper, 0xAA);
#else
  return (lower & Bits(~kUpperHalf)) | (upper & Bits(kUpperHalf));
#endif
}

// Rounds to the nearest bfloat16, ties to even, in the upper half. A NaN must have a payload that a bfloat16 can hold.
inline Bits rounded(const Vectorized<float>& v) {
  const auto bits = bits_of(v);
  const auto raised = bits + Bits(0x7FFF);
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_mask_add_epi32(raised, _mm512_test_epi32_mask(bits, Bits(0x10000)), raised, Bits(1));
#else
  return raised + ((bits >> Bits(16)) & Bits(1));
#endif
}

// A vector of T as vectors of the dtype of the computation, in any order, which need not be that of the memory.
template <typename T>
Parts<T> load_apart(const T* from) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const auto pairs = Bits::loadu(from);
    return {at::vec::cast<float>(pairs << Bits(16)), at::vec::cast<float>(pairs & Bits(kUpperHalf))};
  } else {
    return load_parts(from);
  }
}

template <typename T>
void store_together(const Parts<T>& parts, T* to) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    halves(rounded(parts[0]) >> Bits(16), rounded(parts[1])).store(to);
  } else {
    store_parts(parts, to);
  }
}

template <typename T>
Four<at::opmath_type<T>> load_four(const T* from) {
  constexpr int64_t size = Vectorized<T>::size();
  if constexpr (is_16_bit<T>) {
    const auto [a, b] = load_apart(from);
    const auto [c, d] = load_apart(from + size);
    return {a, b, c, d};
  } else {
    using V = Vectorized<T>;
    return {V::loadu(from), V::loadu(from + size), V::loadu(from + 2 * size), V::loadu(from + 3 * size)};
  }
}

template <typename T>
void store_four(const Four<at::opmath_type<T>>& four, T* to) {
  constexpr int64_t size = Vectorized<T>::size();
  if constexpr (is_16_bit<T>) {
    store_together<T>({four.a, four.b}, to);
    store_together<T>({four.c, four.d}, to + size);
  } else {
    four.a.store(to);
    four.b.store(to + size);
    four.c.store(to + 2 * size);
    four.d.store(to + 3 * size);
  }
}

// Stores the elements of a row for which the mask is set, and 0 for the others.
template <typename T>
void store_kept(const T* from, const Four<at::opmath_type<T>>& masks, T* to) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    constexpr int64_t size = Vectorized<T>::size();
    (Bits::loadu(from) & halves(bits_of(masks.a), bits_of(masks.b))).store(to);
    (Bits::loadu(from + size) & halves(bits_of(masks.c), bits_of(masks.d))).store(to + size);
  } else {
    const auto four = load_four(from);
    store_four<T>({four.a & masks.a, four.b & masks.b, four.c & masks.c, four.d & masks.d}, to);
  }
}

using Doubles = Vectorized<double>;

// Both halves of a vector, in double.
inline std::array<Doubles, 2> in_double(const Vectorized<float>& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(__m512(v), 1))};
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

inline std::array<Doubles, 2> in_double(const Doubles& v) {
  return {v, Doubles(0)};
}

inline Vectorized<float> in_float(const std::array<Doubles, 2>& halves) {
#if defined(CPU_CAPABILITY_AVX512)
  const auto low = _mm512_castps256_ps512(_mm512_cvtpd_ps(halves[0]));
  return _mm512_insertf32x8(low, _mm512_cvtpd_ps(halves[1]), 1);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_set_m128(_mm256_cvtpd_ps(halves[1]), _mm256_cvtpd_ps(halves[0]));
#else
  std::array<double, Vectorized<float>::size()> doubles;
  std::array<float, Vectorized<float>::size()> floats;
  halves[0].store(doubles.data());
  halves[1].store(doubles.data() + Doubles::size());
  std::transform(
      doubles.begin(), doubles.end(), floats.begin(), [](double value) { return static_cast<float>(value); });
  return Vectorized<float>::loadu(floats.data());
#endif
}

// A sum in double. A few numbers at a time are first added up in their own dtype, which stays within the error of the
// terms.
template <typename W>
class Sum {
 public:
  static constexpr int64_t kFew = 8;

  void add(const Four<W>& four) { few_ = {few_.a + four.a, few_.b + four.b, few_.c + four.c, few_.d + four.d}; }

  // To be called after kFew additions.
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

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
