// Loops for any strides, block by block: a backward, and a forward from x and arguments.
//
// Compiled like vectors.h.
#pragma once

#include "opmath.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// A backward goes block by block. It reads the inputs as float or double, whatever their dtype and strides, and writes
// each output in its own way.
constexpr int64_t kBlock = 256;

// A row of an input.
template <typename T>
class BlockReader {
 public:
  using W = at::opmath_type<T>;

  BlockReader(char* data, int64_t stride, int64_t size) : data_(data), stride_(stride) {
    if (stride == 0) {
      std::fill_n(block_.data(), std::min(size, kBlock), static_cast<W>(at_byte<T>(data, 0)));
    }
  }

  const W* block(int64_t begin, int64_t count) {
    char* const from = data_ + begin * stride_;
    if (stride_ == kSize<T>) {
      if constexpr (std::is_same_v<T, W>) {
        return reinterpret_cast<const W*>(from);
      } else {
        widen(reinterpret_cast<const T*>(from), block_.data(), count);
      }
    } else if (stride_ != 0) {
      for (int64_t i = 0; i < count; ++i) {
        block_[i] = static_cast<W>(at_byte<T>(from, i * stride_));
      }
    }
    return block_.data();
  }

 private:
  char* data_;
  int64_t stride_;
  std::array<W, kBlock> block_;
};

// A row of an output.
template <typename T>
class BlockWriter {
 public:
  using W = at::opmath_type<T>;

  BlockWriter(Output kind, char* data, int64_t stride) : kind_(kind), data_(data), stride_(stride) {}

  // Where the values of a block are computed.
  W* block(int64_t begin) { return is_direct() ? reinterpret_cast<W*>(data_ + begin * stride_) : block_.data(); }

  void flush(int64_t begin, int64_t count) {
    char* const to = data_ + begin * stride_;
    if (kind_ == Output::sum) {
      if (stride_ == 0) {
        total_ += sum(count);
      } else {
        for (int64_t i = 0; i < count; ++i) {
          at_byte<double>(to, i * stride_) += static_cast<double>(block_[i]);
        }
      }
    } else if (kind_ == Output::store && !is_direct()) {
      if constexpr (!std::is_same_v<T, W>) {
        if (stride_ == kSize<T>) {
          narrow(block_.data(), reinterpret_cast<T*>(to), count);
          return;
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        at_byte<T>(to, i * stride_) = static_cast<T>(block_[i]);
      }
    }
  }

  void finish() {
    if (kind_ == Output::sum && stride_ == 0) {
      at_byte<double>(data_, 0) += total_;
    }
  }

 private:
  bool is_direct() const { return std::is_same_v<T, W> && kind_ == Output::store && stride_ == kSize<T>; }

  double sum(int64_t count) const {
    std::array<double, 8> lanes{};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      for (int64_t lane = 0; lane < 8; ++lane) {
        lanes[lane] += static_cast<double>(block_[i + lane]);
      }
    }
    for (; i < count; ++i) {
      lanes[i % 8] += static_cast<double>(block_[i]);
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }

  Output kind_;
  char* data_;
  int64_t stride_;
  double total_ = 0;
  std::array<W, kBlock> block_;
};

// y = function(x, arguments...), for vectors of the dtype of the computation, which is also that of the arguments.
template <typename T, size_t... argument, typename Function>
void with_arguments(
    std::index_sequence<argument...>, char* const* data, const int64_t* strides, int64_t size0, int64_t size1,
    const Function& function) {
  using W = at::opmath_type<T>;
  constexpr size_t operands = 2 + sizeof...(argument);
  for (int64_t row = 0; row < size1; ++row) {
    const auto begin = [&](size_t operand) { return data[operand] + row * strides[operands + operand]; };
    BlockWriter<T> y(Output::store, begin(0), strides[0]);
    BlockReader<T> x(begin(1), strides[1], size0);
    std::array<BlockReader<W>, sizeof...(argument)> arguments{
        BlockReader<W>(begin(2 + argument), strides[2 + argument], size0)...};
    for (int64_t i = 0; i < size0; i += kBlock) {
      const int64_t count = std::min(kBlock, size0 - i);
      const W* const xs = x.block(i, count);
      const std::array<const W*, sizeof...(argument)> blocks{arguments[argument].block(i, count)...};
      W* const ys = y.block(i);
      for_vectors<W>(0, count, [&](int64_t k, auto size) {
        const auto result = function(load_vector(xs + k, size), load_vector(blocks[argument] + k, size)...);
        store<W>(result, reinterpret_cast<char*>(ys), k, size);
      });
      y.flush(i, count);
    }
  }
}

template <typename T, size_t n, typename Function>
void with_arguments(char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Function& function) {
  with_arguments<T>(std::make_index_sequence<n>(), data, strides, size0, size1, function);
}

// `block(to_x, to_first, to_second, g, x, first, second, count)` computes the gradients to x, of dtype T, and to two
// arguments of dtype A.
template <typename T, typename A, typename Block>
void backward(
    char* const* data, const int64_t* strides, int64_t size0, int64_t size1, const Output* outputs,
    const Block& block) {
  for (int64_t row = 0; row < size1; ++row) {
    const auto begin = [&](int operand) { return data[operand] + row * strides[7 + operand]; };
    BlockWriter<T> to_x(outputs[0], begin(0), strides[0]);
    BlockWriter<A> to_first(outputs[1], begin(1), strides[1]);
    BlockWriter<A> to_second(outputs[2], begin(2), strides[2]);
    BlockReader<T> g(begin(3), strides[3], size0);
    BlockReader<T> x(begin(4), strides[4], size0);
    BlockReader<A> first(begin(5), strides[5], size0);
    BlockReader<A> second(begin(6), strides[6], size0);
    for (int64_t i = 0; i < size0; i += kBlock) {
      const int64_t count = std::min(kBlock, size0 - i);
      block(
          to_x.block(i), to_first.block(i), to_second.block(i), g.block(i, count), x.block(i, count),
          first.block(i, count), second.block(i, count), count);
      to_x.flush(i, count);
      to_first.flush(i, count);
      to_second.flush(i, count);
    }
    to_x.finish();
    to_first.finish();
    to_second.finish();
  }
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu
