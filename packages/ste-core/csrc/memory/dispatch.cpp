#include "dispatch.h"

#include <ATen/Version.h>

namespace ste {

Capability capability() {
  static const auto chosen = [] {
    const auto name = at::get_cpu_capability();
    return name == "AVX512" ? Capability::AVX512 : name == "AVX2" ? Capability::AVX2 : Capability::DEFAULT;
  }();
  return chosen;
}

}  // namespace ste
