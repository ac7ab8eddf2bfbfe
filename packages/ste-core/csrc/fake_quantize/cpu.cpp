#include "elements.h"
#include "kernels.h"
#include "loops.h"

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

template <typename T>
void fake_quantize_integers(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Ends ends) {
  fake_quantize<T>(data, strides, size0, size1, element::EndsIn<at::opmath_type<T>>(ends));
}

template <typename T>
void fake_quantize_integers_at_random(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Ends ends) {
  fake_quantize_at_random<T>(data, strides, size0, size1, element::EndsIn<at::opmath_type<T>>(ends));
}

template <typename T>
void fake_quantize_integers_backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs, Ends ends) {
  using W = at::opmath_type<T>;
  if (ends.inside == Inside::rounded) {
    fake_quantize_backward<T>(data, strides, size0, size1, outputs, element::EndsIn<W>(ends));
  } else {
    fake_quantize_backward<T>(data, strides, size0, size1, outputs, element::EndsIn<W, Inside::scaled>(ends));
  }
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const FakeQuantizeKernel::Loops FakeQuantizeKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_integers<T>; });

constinit const FakeQuantizeAtRandomKernel::Loops FakeQuantizeAtRandomKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeAtRandomKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_integers_at_random<T>; });

constinit const FakeQuantizeBackwardKernel::Loops FakeQuantizeBackwardKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeBackwardKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_integers_backward<T>; });

}  // namespace ste
