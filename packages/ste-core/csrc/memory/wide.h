// Doubles that will become floats. Their exponential and logarithm are as accurate as a float requires, and take half
// as long as those of at::vec, which are accurate to a double's last bit.
//
// Compiled like vectors.h.
#pragma once

#include "opmath.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <numbers>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// The relative error of the exponential: 2^-29, which is 1/32 of a float's last bit, or 2^-52.
enum class Precision { of_float, of_double };

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)

using Longs = Vectorized<int64_t>;

inline Longs bits_of(const Doubles& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_castpd_si512(v);
#else
  return _mm256_castpd_si256(v);
#endif
}

// Shifts by 52 bits, without a sign. (at::vec's shift keeps the sign.)
inline Longs shifted_right(const Longs& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_srli_epi64(v, 52);
#else
  return _mm256_srli_epi64(v, 52);
#endif
}

template <size_t count>
Doubles polynomial(const std::array<double, count>& terms, const Doubles& x) {
  Doubles sum(terms[count - 1]);
  for (size_t i = count - 1; i > 0; --i) {
    sum = at::vec::fmadd(sum, x, Doubles(terms[i - 1]));
  }
  return sum;
}

// exp(r) for |r| <= ln(2) / 2: the polynomial of this degree with the smallest relative error.
template <Precision precision>
Doubles exponential_near_zero(const Doubles& r) {
  if constexpr (precision == Precision::of_float) {
    return polynomial(
        std::array{
            1.000000000554142, 1.0000000363207915, 0.49999992079075856, 0.1666642017877761, 0.041668225889475566,
            0.008374815265430633, 0.0013836824986491138},
        r);
  } else {
    return polynomial(
        std::array{
            1.0, 1.0000000000000064, 0.49999999999997286, 0.16666666666557747, 0.041666666668425355,
            0.008333333384663785, 0.0013888888499304691, 0.00019841171386421184, 2.4801917518966513e-05,
            2.763976746264843e-06, 2.748850272662302e-07},
        r);
  }
}

// exp(r) * 2^n, where n is the integer nearest to t / ln(2). The last bits of the sum `shifted` are n + 1023, the
// exponent field of 2^n in a double: from 0, the field of 0, to 2047, that of infinity.
template <Precision precision>
Doubles exponential(const Doubles& t) {
  constexpr double ln2 = std::numbers::ln2;
  const Doubles shift(0x1.8p52 + 1023);
  const Doubles within = at::vec::clamp(t, Doubles(-1023 * ln2), Doubles(1024 * ln2));  // keeps a NaN
  const Doubles shifted = at::vec::fmadd(within, Doubles(std::numbers::log2e), shift);
  const Doubles r = at::vec::fnmadd(shifted - shift, Doubles(ln2), within);
  const Doubles power = at::vec::cast<double>(bits_of(shifted) << Longs(52));
  return exponential_near_zero<precision>(r) * power;
}

// n ln(2) + log(m) for a normal positive number m * 2^n, with m from sqrt(1/2) to sqrt(2), and log(m) as a series in (m
// - 1) / (m + 1). The relative error is 2^-37.
inline Doubles logarithm(const Doubles& x) {
  constexpr int64_t exponent_of_one = int64_t(1) << 52;
  constexpr int64_t root_of_half = 0x3FE6A09E667F3BCD;
  const Longs exponent = (bits_of(x) - Longs(root_of_half)) & Longs(-exponent_of_one);
  const Doubles m = at::vec::cast<double>(bits_of(x) - exponent);
  const Longs last_bits = shifted_right(exponent + Longs(1024 * exponent_of_one));  // n + 1024
  const Doubles n = at::vec::cast<double>(bits_of(Doubles(0x1p52)) | last_bits) - Doubles(0x1p52 + 1024);
  const Doubles s = (m - Doubles(1)) / (m + Doubles(1));
  const std::array terms{
      2.0000000000084275, 0.6666666523992785, 0.400003859769302, 0.2853497903306641, 0.23617600928442756};
  return at::vec::fmadd(n, Doubles(std::numbers::ln2), s * polynomial(terms, s * s));
}

template <Precision precision>
class Wide {
 public:
  using value_type = double;

  explicit Wide(double value) : v_(value) {}
  Wide(const Doubles& v) : v_(v) {}
  explicit operator Doubles() const { return v_; }

  static Wide blendv(const Wide& no, const Wide& yes, const Wide& mask) {
    return Doubles::blendv(no.v_, yes.v_, mask.v_);
  }

  Wide abs() const { return v_.abs(); }
  Wide exp() const { return exponential<precision>(v_); }
  Wide log() const { return logarithm(v_); }

  Wide operator-() const { return v_.neg(); }
  Wide operator+(const Wide& other) const { return v_ + other.v_; }
  Wide operator-(const Wide& other) const { return v_ - other.v_; }
  Wide operator*(const Wide& other) const { return v_ * other.v_; }
  Wide operator/(const Wide& other) const { return v_ / other.v_; }
  Wide operator&(const Wide& other) const { return v_ & other.v_; }
  Wide operator<(const Wide& other) const { return v_ < other.v_; }
  Wide operator>(const Wide& other) const { return v_ > other.v_; }
  Wide operator<=(const Wide& other) const { return v_ <= other.v_; }

 private:
  Doubles v_;
};

#else

template <Precision>
using Wide = Doubles;

#endif

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
