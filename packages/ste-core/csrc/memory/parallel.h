// Loops on torch's threads.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace ste::cpu {

// Calls `function` with the begin and the end of each part of [0, size), on as many threads as torch has for an op, and
// waits for them. A part has at least `grain` elements. As with at::parallel_for, `function` must not call an op.
void parallel_for(int64_t size, int64_t grain, c10::function_ref<void(int64_t, int64_t)> function);

}  // namespace ste::cpu
