// The grid and the rule of blocks, by name, as in ste/_blocks.py.
#pragma once

#include "kernels.h"

#include "../fake_quantize_float/format.h"

#include <c10/util/Exception.h>
#include <c10/util/string_view.h>

#include <array>
#include <cmath>
#include <optional>
#include <string_view>

namespace ste {

struct NamedRule {
  const char* name;
  BlockRule rule;
};

constexpr std::array<NamedRule, 7> kRules{{
    {"absmax", BlockRule::absmax},
    {"minmax", BlockRule::minmax},
    {"floor", BlockRule::floor},
    {"ceil", BlockRule::ceil},
    {"even", BlockRule::even},
    {"rceil", BlockRule::rceil},
    {"e4m3fn", BlockRule::e4m3fn},
}};

inline BlockRule rule_of(const char* op, c10::string_view name) {
  for (const auto& known : kRules) {
    if (name == known.name) {
      return known.rule;
    }
  }
  C10_THROW_ERROR(
      ValueError, c10::str(op, ": rule must be one of absmax, minmax, floor, ceil, even, rceil, e4m3fn, got ", name));
}

// For int2 to int8.
inline std::optional<int> bits_of_integers(c10::string_view grid) {
  const std::string_view text(grid.data(), grid.size());
  if (text.size() == 4 && text.starts_with("int") && text[3] >= '2' && text[3] <= '8') {
    return text[3] - '0';
  }
  return std::nullopt;
}

inline BlockSettings block_settings(const char* op, c10::string_view grid, c10::string_view rule) {
  const auto bits = bits_of_integers(grid);
  if (bits) {
    const double limit = std::ldexp(1.0, *bits - 1);
    return {rule_of(op, rule), true, {*bits - 2, 1, limit - 1, limit, limit - 1}};
  }
  const auto format = format_of(op, grid, "grid", "int2 to int8, ");
  const BlockSettings settings{rule_of(op, rule), false, format.ends(/*saturate=*/true)};
  TORCH_CHECK_VALUE(settings.rule != BlockRule::minmax, op, ": rule minmax is for integers, but grid is ", grid);
  return settings;
}

}  // namespace ste
