// Floating-point formats of few bits, by name or by their parts. ste/_float_format.py has the same.
#pragma once

#include "kernels.h"

#include <c10/util/Exception.h>
#include <c10/util/string_view.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace ste {

struct FloatFormat {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  double max;
  bool has_infinity = false;

  FloatEnds ends(bool saturate) const {
    const double beyond = has_infinity ? std::numeric_limits<double>::infinity() : NAN;
    return {
        mantissa_bits, std::ldexp(1.0, 1 - bias), max, std::ldexp(1.0, std::ilogb(max) + 1), saturate ? max : beyond};
  }
};

struct NamedFormat {
  std::string_view prefix;  // that the name may have, as in ml_dtypes
  std::string_view name;
  FloatFormat format;
};

constexpr std::array<NamedFormat, 7> kFormats{{
    {"float8_", "e4m3fn", {4, 3, 7, 448}},
    {"float8_", "e5m2", {5, 2, 15, 57344, true}},
    {"float8_", "e4m3fnuz", {4, 3, 8, 240}},
    {"float8_", "e5m2fnuz", {5, 2, 16, 57344}},
    {"float6_", "e3m2fn", {3, 2, 3, 28}},
    {"float6_", "e2m3fn", {2, 3, 1, 7.5}},
    {"float4_", "e2m1fn", {2, 1, 1, 6}},
}};

// These take a text or a number off the beginning of a string.
inline bool skip(std::string_view& text, std::string_view expected) {
  const bool found = text.starts_with(expected);
  text.remove_prefix(found ? expected.size() : 0);
  return found;
}

template <typename Value>
bool take(std::string_view& text, Value& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return error == std::errc();
}

// Whether float holds all numbers of the format exactly, and max is one of them.
inline bool is_valid(const FloatFormat& format) {
  if (format.exponent_bits < 1 || format.exponent_bits > 8 || format.mantissa_bits < 0 || format.mantissa_bits > 10 ||
      std::abs(format.bias) > 62 || !(format.max > 0) || format.max >= std::ldexp(1.0, 64)) {
    return false;
  }
  const int exponent = std::max(std::ilogb(format.max), 1 - format.bias);
  const double last = std::ldexp(1.0, exponent - format.mantissa_bits);
  return exponent + format.bias < 1 << format.exponent_bits && std::fmod(format.max, last) == 0;
}

// Parses what str gives for a ste.FloatFormat: e3m4:bias=3:max=15.5, and :inf if it has an infinity.
inline std::optional<FloatFormat> parsed(std::string_view text) {
  FloatFormat format{};
  if (!(skip(text, "e") && take(text, format.exponent_bits) && skip(text, "m") && take(text, format.mantissa_bits) &&
        skip(text, ":bias=") && take(text, format.bias) && skip(text, ":max=") && take(text, format.max))) {
    return std::nullopt;
  }
  format.has_infinity = skip(text, ":inf");
  return text.empty() && is_valid(format) ? std::optional(format) : std::nullopt;
}

// `argument` is what the op calls it, and `others` is what else the op accepts.
inline FloatFormat format_of(
    const char* op, c10::string_view name, const char* argument = "format", const char* others = "") {
  const std::string_view text(name.data(), name.size());
  for (const auto& [prefix, short_name, format] : kFormats) {
    if (text == short_name || (text.starts_with(prefix) && text.substr(prefix.size()) == short_name)) {
      return format;
    }
  }
  if (const auto format = parsed(text)) {
    return *format;
  }
  std::string names;
  for (const auto& format : kFormats) {
    names += std::string(format.name) + ", ";
  }
  C10_THROW_ERROR(
      ValueError, c10::str(op, ": ", argument, " must be one of ", names, others, "or a ste.FloatFormat, got ", text));
}

}  // namespace ste
