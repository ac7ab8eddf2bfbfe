// A kernel: for CPUs a loop for each instruction set and dtype, for CUDA devices a function.
//
// It is a type, declared in the header of the op's family. Each file that is compiled for an instruction set defines
// its own table of loops. ops.cpp defines the CUDA function as null, until a file of CUDA kernels enters one when the
// library is loaded. (ATen's DispatchStub works in the same way, but cannot be used from outside: the functions of its
// class in libtorch depend on macros that libtorch was compiled with and that torch's headers do not define.)
//
// This is compiled for each instruction set too. So nothing here may be an inline function: the linker chooses one of
// all copies, which may have instructions that the processor does not have. And the tables must be constants: code that
// fills them in when the library is loaded would have such instructions too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

namespace ste {

// All dtypes that ops support are among the first of at::ScalarType.
constexpr size_t kDtypes = 16;

// A number in x's dtype; an integer if that is an integer dtype.
struct Number {
  double real;
  int64_t integer;
};

// What to do with an output of a backward. `sum` adds to doubles, which several elements may share.
enum class Output { none, store, sum };

// Called by TensorIterator, with size1 rows of size0 elements each. Each operand has a pointer, and two strides in
// bytes: first come those of all operands from element to element, then those of all from row to row.
template <typename... Values>
using Loop = void (*)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, Values... values);

// A loop for each dtype, or null.
template <typename... Values>
struct LoopTable {
  Loop<Values...> of[kDtypes];
};

// Tensors that broadcast to x's shape.
template <size_t n>
using Arguments = std::array<const at::Tensor*, n>;

// The bases of kernels, which declare
//
//     static const Loops DEFAULT, AVX2, AVX512;  // as torch names the instruction sets
//     static Cuda cuda;                          // if there is one

// Computes a tensor of x's shape and dtype from x, n arguments and values. The operands of a loop are the result, x and
// the arguments.
template <size_t n, typename... Values>
struct Forward {
  using Arguments = ste::Arguments<n>;
  using Loops = LoopTable<Values...>;
  using Cuda = at::Tensor (*)(const at::Tensor& x, const Arguments& arguments, const Values&... values);
};

// Computes the gradients to x and to two arguments; those that are not needed are undefined. The gradients to the
// arguments are summed to the arguments' shapes, in double whatever the dtype, and then multiplied by a factor. The
// bits are the same each time, whatever the number of threads. The operands of a loop are the three gradients, which
// are `outputs`, then g, x and the two arguments.
template <typename... Values>
struct Backward {
  using Loops = LoopTable<const Output*, Values...>;
  using Cuda = std::array<at::Tensor, 3> (*)(
      const at::Tensor& g, const at::Tensor& x, const Arguments<2>& arguments, const std::array<bool, 3>& needed,
      double factor, const Values&... values);
};

}  // namespace ste
