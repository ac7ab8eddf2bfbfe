// Blocks are taken some at a time: what stands in a first-level cache is read for the scales and then quantized.
#include "elements.h"
#include "kernels.h"

#include "../memory/opmath.h"

#include <algorithm>
#include <array>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// As many numbers as are taken at a time, and what a vector may write beyond their end.
constexpr int64_t kChunk = 4096;
template <typename W>
using Buffer = std::array<W, kChunk + 32>;

// The larger of two numbers that are not negative. The bits of NaN are those of a larger one.
inline Vectorized<float> larger(const Vectorized<float>& a, const Vectorized<float>& b) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
#else
  return at::vec::maximum(a, b);
#endif
}

inline Vectorized<double> larger(const Vectorized<double>& a, const Vectorized<double>& b) {
  return at::vec::maximum(a, b);
}

// What a scale follows from, of vectors of numbers: the largest magnitude, or both ends.
template <typename W>
struct Largest {
  using V = Vectorized<W>;

  void add(const V& x) { high = larger(high, x.abs()); }

  // With more numbers. (In variables, since GCC keeps in memory what has an address.)
  Largest with(const W* x, int64_t count) const {
    V of_all = high;
    for_vectors<W>(0, count, [&](int64_t i, auto size) { of_all = larger(of_all, load_vector(x + i, size).abs()); });
    return {of_all};
  }

  // Of pairs of lanes, those of this and of another.
  static Largest paired(const Largest& a, const Largest& b) {
    const auto [even, odd] = at::vec::deinterleave2(a.high, b.high);
    return {larger(even, odd)};
  }

  element::BlockScale<V> scale(const element::BlockScales<W>& scales, const V& tensor_scale) const {
    return scales.of_largest(high, tensor_scale);
  }

  V high = V(0);
};

template <typename W>
struct BothEnds {
  using V = Vectorized<W>;

  void add(const V& x) {
    low = at::vec::minimum(low, x);
    high = at::vec::maximum(high, x);
  }

  BothEnds with(const W* x, int64_t count) const {
    V least = low;
    V most = high;
    for_vectors<W>(0, count, [&](int64_t i, auto size) {
      const V some = load_vector(x + i, size);
      least = at::vec::minimum(least, some);
      most = at::vec::maximum(most, some);
    });
    return {least, most};
  }

  static BothEnds paired(const BothEnds& a, const BothEnds& b) {
    const auto [low_even, low_odd] = at::vec::deinterleave2(a.low, b.low);
    const auto [high_even, high_odd] = at::vec::deinterleave2(a.high, b.high);
    return {at::vec::minimum(low_even, low_odd), at::vec::maximum(high_even, high_odd)};
  }

  element::BlockScale<V> scale(const element::BlockScales<W>& scales, const V& /*tensor_scale*/) const {
    return scales.of_ends(low, high);
  }

  V low = V(0);
  V high = V(0);
};

template <typename Kind, typename W>
using Statistic = std::conditional_t<Kind::has_zero_point, BothEnds<W>, Largest<W>>;

// The scales of some blocks, or of some columns.
template <typename W, int64_t n>
struct Scales {
  void set(int64_t i, const element::BlockScale<Vectorized<W>>& of) {
    of.scale.store(&scale[i]);
    of.divisor.store(&divisor[i]);
    of.zero_point.store(&zero_point[i]);
  }

  std::array<W, n> scale;
  std::array<W, n> divisor;
  std::array<W, n> zero_point;
};

// One vector of a result: of x, or of x and g.
template <typename W, typename Kind, bool is_backward>
class Quantized {
 public:
  using V = Vectorized<W>;

  Quantized(const Kind& kind, const V& scale, const V& divisor, const V& zero_point)
      : grid_(kind.grid(scale, zero_point)), divisor_(divisor) {}

  template <typename Count>
  void operator()(const W* x, const W* g, W* y, Count count) const {
    const V scaled = Kind::scaled(load_vector(x, count), divisor_);
    V result;
    if constexpr (is_backward) {
      result = element::fake_quantize_backward_scaled(load_vector(g, count), scaled, grid_).x;
    } else {
      result = element::fake_quantize_scaled(scaled, grid_);
    }
    store<W>(result, reinterpret_cast<char*>(y), 0, count);
  }

 private:
  decltype(std::declval<Kind>().grid(std::declval<V>(), std::declval<V>())) grid_;
  V divisor_;
};

// What is done with numbers that lie one after the other, in the dtype that is computed in.
template <typename W, typename Kind, bool is_backward>
class Blocks {
 public:
  using V = Vectorized<W>;
  using Of = Statistic<Kind, W>;
  static constexpr int64_t kLanes = V::size();

  explicit Blocks(const BlockSettings& settings) : kind_(settings), scales_(settings) {}

  element::BlockScale<V> scale(const Of& statistic, const V& tensor_scale) const {
    auto result = statistic.scale(scales_, tensor_scale);
    result.divisor = Kind::divisor(result.divisor);
    return result;
  }

  // Lane k is that of the k-th.
  element::BlockScale<V> scales(std::array<Of, kLanes>& statistics, W tensor_scale) const {
    for (int64_t count = kLanes / 2; count > 0; count /= 2) {
      for (int64_t k = 0; k < count; ++k) {
        statistics[k] = Of::paired(statistics[2 * k], statistics[2 * k + 1]);
      }
    }
    return scale(statistics[0], V(tensor_scale));
  }

  template <int64_t n>
  void quantize(const W* x, const W* g, W* y, int64_t count, const Scales<W, n>& scales, int64_t k) const {
    const Quantized<W, Kind, is_backward> quantized(
        kind_, V(scales.scale[k]), V(scales.divisor[k]), V(scales.zero_point[k]));
    for_vectors<W>(0, count, [&](int64_t i, auto size) { quantized(x + i, g + i, y + i, size); });
  }

  // Up to kGroup blocks, the last of which may be shorter.
  void group(const W* x, const W* g, W* y, int64_t size, int64_t block, W tensor_scale) const {
    Scales<W, BlockTask::kGroup> scales;
    const int64_t blocks = (size + block - 1) / block;
    for (int64_t first = 0; first < blocks; first += kLanes) {
      std::array<Of, kLanes> statistics;
      for (int64_t k = first; k < std::min(blocks, first + kLanes); ++k) {
        statistics[k - first] = Of().with(x + k * block, std::min(block, size - k * block));
      }
      scales.set(first, this->scales(statistics, tensor_scale));
    }
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t i = k * block;
      quantize(x + i, g + i, y + i, std::min(block, size - i), scales, k);
    }
  }

  // As many neighbors of one row of a block in columns.
  void quantize_columns(
      const W* x, const W* g, W* y, int64_t count, const Scales<W, BlockTask::kColumns>& scales) const {
    for_vectors<W>(0, count, [&](int64_t i, auto size) {
      const auto at = [&](const auto& values) { return V::loadu(&values[i]); };
      const Quantized<W, Kind, is_backward> quantized(
          kind_, at(scales.scale), at(scales.divisor), at(scales.zero_point));
      quantized(x + i, g + i, y + i, size);
    });
  }

 private:
  Kind kind_;
  element::BlockScales<W> scales_;
};

// In what order a block's numbers are computed with does not matter: those of a vector of bfloat16 are taken apart as
// in load_four.
template <typename T>
bool in_pairs(int64_t size) {
  return std::is_same_v<T, c10::BFloat16> && size % Vectorized<T>::size() == 0;
}

// Numbers of T, in what is computed in: where they are, or widened to a buffer.
template <typename T, typename W>
const W* read(const T* from, int64_t count, Buffer<W>& buffer, bool in_pairs) {
  if constexpr (std::is_same_v<T, W>) {
    return from;
  } else if (in_pairs) {
    for (int64_t i = 0; i < count; i += Vectorized<T>::size()) {
      const auto pairs = Bits::loadu(from + i);
      at::vec::cast<float>(pairs << Bits(16)).store(&buffer[i]);
      at::vec::cast<float>(pairs & Bits(kUpperHalf)).store(&buffer[i + Vectorized<W>::size()]);
    }
  } else {
    widen(from, buffer.data(), count);
  }
  return buffer.data();
}

template <typename T>
void write(const Buffer<float>& buffer, T* to, int64_t count, bool in_pairs) {
  if (in_pairs) {
    using V = Vectorized<float>;
    for (int64_t i = 0; i < count; i += Vectorized<T>::size()) {
      const auto even = rounded(V::loadu(&buffer[i]));
      halves(even >> Bits(16), rounded(V::loadu(&buffer[i + V::size()]))).store(to + i);
    }
  } else {
    narrow(buffer.data(), to, count);
  }
}

template <typename T, typename Kind, bool is_backward>
class Task {
 public:
  using W = at::opmath_type<T>;
  using V = Vectorized<W>;
  using Blocks = cpu::Blocks<W, Kind, is_backward>;

  explicit Task(const BlockTask& task)
      : task_(task),
        blocks_(task.settings),
        x_(static_cast<const T*>(task.x)),
        g_(static_cast<const T*>(is_backward ? task.g : task.x)),
        y_(static_cast<T*>(task.y)),
        tensor_scale_(static_cast<const W*>(task.tensor_scale)) {}

  void run(int64_t begin, int64_t end) {
    const int64_t in_a_row = (task_.length + task_.block - 1) / task_.block;
    if (task_.inner == 1) {
      const int64_t groups = (in_a_row + BlockTask::kGroup - 1) / BlockTask::kGroup;
      for (int64_t unit = begin; unit < end; ++unit) {
        row(unit / groups, unit % groups * BlockTask::kGroup * task_.block);
      }
    } else {
      const int64_t parts = (task_.inner + BlockTask::kColumns - 1) / BlockTask::kColumns;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t block = unit / parts;
        columns(block / in_a_row, block % in_a_row * task_.block, unit % parts * BlockTask::kColumns);
      }
    }
  }

 private:
  // A group of blocks from an element of a row on.
  void row(int64_t outer, int64_t first) {
    const int64_t block = task_.block;
    const int64_t end = std::min(task_.length, first + BlockTask::kGroup * block);
    const W tensor_scale = tensor_scale_ != nullptr ? tensor_scale_[outer * task_.tensor_scale_outer] : W(0);
    if (block > kChunk) {
      for (int64_t i = first; i < end; i += block) {
        long_block(outer * task_.length + i, std::min(block, end - i), tensor_scale);
      }
      return;
    }
    const int64_t at_once = kChunk / block * block;
    for (int64_t i = first; i < end; i += at_once) {
      const int64_t size = std::min(at_once, end - i);
      const bool are_pairs = in_pairs<T>(block) && in_pairs<T>(size);
      on_chunk(outer * task_.length + i, size, are_pairs, [&](const W* x, const W* g, W* y) {
        blocks_.group(x, g, y, size, block, tensor_scale);
      });
    }
  }

  // One that is larger than a buffer.
  void long_block(int64_t begin, int64_t size, W tensor_scale) {
    std::array<typename Blocks::Of, Blocks::kLanes> statistics;
    for (int64_t i = 0; i < size; i += kChunk) {
      const int64_t count = std::min(kChunk, size - i);
      statistics[0] = statistics[0].with(read(x_ + begin + i, count, xs_, in_pairs<T>(count)), count);
    }
    Scales<W, Blocks::kLanes> scales;
    scales.set(0, blocks_.scales(statistics, tensor_scale));
    for (int64_t i = 0; i < size; i += kChunk) {
      const int64_t count = std::min(kChunk, size - i);
      on_chunk(begin + i, count, in_pairs<T>(count), [&](const W* x, const W* g, W* y) {
        blocks_.quantize(x, g, y, count, scales, 0);
      });
    }
  }

  // A block of columns, from a row and a column on.
  void columns(int64_t outer, int64_t first, int64_t column) {
    constexpr int64_t size = BlockTask::kColumns;
    const int64_t count = std::min(size, task_.inner - column);
    const int64_t end = std::min(task_.length, first + task_.block);
    const auto at = [&](int64_t i) { return (outer * task_.length + i) * task_.inner + column; };
    const bool are_pairs = in_pairs<T>(count) && task_.tensor_scale_inner == 0;
    std::array<typename Blocks::Of, size / Blocks::kLanes> statistics;
    for (int64_t i = first; i < end; ++i) {
      const W* const xs = read(x_ + at(i), count, xs_, are_pairs);
      for_vectors<W>(0, count, [&](int64_t k, auto n) { statistics[k / Blocks::kLanes].add(load_vector(xs + k, n)); });
    }
    Scales<W, size> scales;
    for (int64_t k = 0; k < count; k += Blocks::kLanes) {
      scales.set(k, blocks_.scale(statistics[k / Blocks::kLanes], tensor_scales(outer, column + k, count - k)));
    }
    for (int64_t i = first; i < end; ++i) {
      on_chunk(at(i), count, are_pairs, [&](const W* x, const W* g, W* y) {
        blocks_.quantize_columns(x, g, y, count, scales);
      });
    }
  }

  V tensor_scales(int64_t outer, int64_t column, int64_t count) const {
    if (tensor_scale_ == nullptr) {
      return V(0);
    }
    const W* const from = tensor_scale_ + outer * task_.tensor_scale_outer;
    if (task_.tensor_scale_inner == 0) {
      return V(*from);
    }
    return load_vector(from + column, std::min<int64_t>(count, V::size()));
  }

  // The function of the numbers from an index on, and of where its results go.
  template <typename Function>
  void on_chunk(int64_t begin, int64_t count, bool are_pairs, const Function& function) {
    const W* const x = read(x_ + begin, count, xs_, are_pairs);
    const W* const g = is_backward ? read(g_ + begin, count, gs_, are_pairs) : x;
    if constexpr (std::is_same_v<T, W>) {
      function(x, g, y_ + begin);
    } else {
      function(x, g, xs_.data());
      write(xs_, y_ + begin, count, are_pairs);
    }
  }

  const BlockTask& task_;
  Blocks blocks_;
  const T* x_;
  const T* g_;
  T* y_;
  const W* tensor_scale_;
  Buffer<W> xs_;
  Buffer<W> gs_;
};

template <typename T>
void fake_quantize_blocks(const BlockTask& task, int64_t begin, int64_t end) {
  element::with_blocks<at::opmath_type<T>>(task.settings, [&]<typename Kind>() {
    if (task.g == nullptr) {
      Task<T, Kind, false>(task).run(begin, end);
    } else {
      Task<T, Kind, true>(task).run(begin, end);
    }
  });
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace ste::cpu

namespace ste {

constinit const FakeQuantizeBlocksKernel::Loops FakeQuantizeBlocksKernel::CPU_CAPABILITY =
    cpu::loop_table<FakeQuantizeBlocksKernel::Loops>(
        cpu::FloatingTypes(), []<typename T>() { return &cpu::fake_quantize_blocks<T>; });

}  // namespace ste
