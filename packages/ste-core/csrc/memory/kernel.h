// What an op has for tensors in memory: for CPUs a loop for each instruction set and dtype, for CUDA devices a
// function.
//
// It is a type, declared in the header of the op's family. Its tables of loops are defined by the files that are
// compiled for an instruction set, each its own, and its CUDA function by ops.cpp, as null, until a file of CUDA
// kernels enters one when the library is loaded. (ATen's DispatchStub works alike, and cannot be used from outside: the
// functions of its class in libtorch differ with macros that libtorch was compiled with and torch's headers do not
// give.)
//
// Compiled for each instruction set too. So nothing here may be an inline function: the linker chooses one of all
// copies, and that may be one with instructions that the processor has not. And the tables are constants: what fills in
// a table when the library is loaded would be such instructions too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

namespace ste {

// The dtypes that ops take are among the first of at::ScalarType.
constexpr size_t kDtypes = 16;

// A number in x's dtype: an integer where that is an integer dtype.
struct Number {
  double real;
  int64_t integer;
};

// What becomes of an output of a backward. `sum` adds to doubles, which several elements may share.
enum class Output { none, store, sum };

// Called by TensorIterator: size1 rows of size0 elements each. There is a pointer for each operand, and a stride in
// bytes, first for all of them from element to element, then for all of them from row to row.
template <typename... Values>
using Loop = void (*)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Values... values);

// One for each dtype, and null where there is none.
template <typename... Values>
struct LoopTable {
  Loop<Values...> of[kDtypes];
};

// Tensors that broadcast to x's shape.
template <size_t n>
using Arguments = std::array<const at::Tensor*, n>;

// What kernels derive from, which then declare
//
//     static const Loops DEFAULT, AVX2, AVX512;  // as torch names the instruction sets
//     static Cuda cuda;                          // if there is one

// A tensor of x's shape and dtype, made of x, of n arguments and of values. The operands of a loop are the result, x
// and the arguments.
template <size_t n, typename... Values>
struct Forward {
  using Arguments = ste::Arguments<n>;
  using Loops = LoopTable<Values...>;
  using Cuda = at::Tensor (*)(const at::Tensor& x, const Arguments& arguments, const Values&... values);
};

// The gradients to x and to two arguments, undefined where they are not needed. Those to the arguments are summed to
// their shapes, in double whatever the dtype, and then multiplied by a factor; the bits are the same each time, and
// depend on no number of threads. The operands of a loop are the three gradients, which are `outputs`, then g, x and
// the two arguments.
template <typename... Values>
struct Backward {
  using Loops = LoopTable<const Output*, Values...>;
  using Cuda = std::array<at::Tensor, 3> (*)(
      const at::Tensor& g, const at::Tensor& x, const Arguments<2>& arguments, const std::array<bool, 3>& needed,
      double factor, const Values&... values);
};

}  // namespace ste
