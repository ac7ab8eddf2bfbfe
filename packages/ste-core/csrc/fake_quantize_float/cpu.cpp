#include "elements.h"
#include "kernels.h"

#include "../fake_quantize/loops.h"

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

template <typename T>
void fake_quantize_float(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, FloatEnds ends) {
  fake_quantize<T>(data, strides, size0, size1, element::FloatEndsIn<at::opmath_type<T>>(ends));
}

template <typename T>
void fake_quantize_float_at_random(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, FloatEnds ends) {
  fake_quantize_at_random<T>(data, strides, size0, size1, element::FloatEndsIn<at::opmath_type<T>>(ends));
}

template <typename T>
void fake_quantize_float_backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs, FloatEnds ends) {
  fake_quantize_backward<T>(data, strides, size0, size1, outputs, element::FloatEndsIn<at::opmath_type<T>>(ends));
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const FakeQuantizeFloatKernel::Loops FakeQuantizeFloatKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeFloatKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_float<T>; });

constinit const FakeQuantizeFloatAtRandomKernel::Loops FakeQuantizeFloatAtRandomKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeFloatAtRandomKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_float_at_random<T>; });

constinit const FakeQuantizeFloatBackwardKernel::Loops FakeQuantizeFloatBackwardKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeFloatBackwardKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_float_backward<T>; });

}  // namespace ste
