// The loops take a few blocks at a time: as many as stay in the first-level cache from the reading for the scales to
// the quantization.
#include "elements.h"
#include "kernels.h"
#include "quantized.h"
#include "statistics.h"

#include "../memory/opmath.h"

#include <algorithm>
#include <array>

namespace ste::cpu {
inline namespace CPU_CAPABILITY {
namespace {

// As many numbers as the loops take at a time, and what a vector may write beyond their end.
constexpr int64_t kChunk = 4096;
template <typename W>
using Buffer = std::array<W, kChunk + 32>;

// The scales of a few blocks or columns.
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

// The work on contiguous numbers, in the dtype of the computation.
template <typename W, typename Kind, bool is_backward>
class Blocks {
 public:
  using V = Vectorized<W>;
  using Of = Statistic<Kind, W>;
  static constexpr int64_t kLanes = V::size();

  explicit Blocks(const BlockSettings& settings) : kind_(settings), scales_(settings), formats_(settings.ends) {}

  C10_ALWAYS_INLINE element::BlockScale<V> scale(const Of& statistic, const V& tensor_scale) const {
    const auto [scale, divisor, zero_point] = statistic.scale(scales_, tensor_scale);
    return {
        element::with_plain_nan(scale), element::with_plain_nan(Kind::divisor(divisor)),
        element::with_plain_nan(zero_point)};
  }

  // Lane k has the scale from the k-th result of `of`.
  template <typename OfBlock>
  C10_ALWAYS_INLINE element::BlockScale<V> scales(int64_t first, const OfBlock& of, W tensor_scale) const {
    return scale(paired<kLanes>(first, of), V(tensor_scale));
  }

  template <int64_t n>
  Quantized<W, Kind, is_backward> quantized(const Scales<W, n>& scales, int64_t k) const {
    return {kind_, V(scales.scale[k]), V(scales.divisor[k]), V(scales.zero_point[k])};
  }

  template <int64_t n>
  void quantize(const W* x, const W* g, W* y, int64_t count, const Scales<W, n>& scales, int64_t k) const {
    const auto quantized = this->quantized(scales, k);
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
      scales.set(first, this->scales(0, [&](int64_t k) { return statistics[k]; }, tensor_scale));
    }
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t i = k * block;
      quantize(x + i, g + i, y + i, std::min(block, size - i), scales, k);
    }
  }

  // The same for whole blocks that consist of whole vectors of T.
  template <typename T>
  void group_of_vectors(const T* x, const T* g, T* y, int64_t blocks, int64_t block, W tensor_scale) const {
    Scales<W, BlockTask::kGroup> scales;
    bool in_place = kMayBeInPlace;
    for (int64_t first = 0; first < blocks; first += kLanes) {
      const auto of = [&](int64_t k) { return k < blocks ? of_vectors(x + k * block, block) : Of(); };
      const auto found = this->scales(first, of, tensor_scale);
      in_place = in_place && formats_.has_all(found.scale);
      scales.set(first, found);
    }
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t i = k * block;
      if constexpr (kMayBeInPlace) {
        if (in_place) {
          map_vectors(x + i, g + i, y + i, block, formats_.at(scales.scale[k]));
          continue;
        }
      }
      map_vectors(x + i, g + i, y + i, block, quantized(scales, k));
    }
  }

  // `count` neighbors in one row of a block of columns.
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
  // Lane k has the k-th of `count` results. (With recursion, what is not paired yet stays in registers.)
  template <int64_t count, typename OfBlock>
  C10_ALWAYS_INLINE static Of paired(int64_t first, const OfBlock& of) {
    if constexpr (count == 1) {
      return of(first);
    } else {
      const Of a = paired<count / 2>(first, of);  // in the order of the memory
      return Of::paired(a, paired<count / 2>(first + count / 2, of));
    }
  }

  template <typename T>
  C10_ALWAYS_INLINE static Of of_vectors(const T* x, int64_t size) {
    Of of;
    for (int64_t i = 0; i < size; i += Vectorized<T>::size()) {
      for (const V& part : load_apart(x + i)) {
        of.add(part);
      }
    }
    return of;
  }

  static constexpr bool kMayBeInPlace = !is_backward && std::is_same_v<Kind, element::FormatBlocks<W, false>>;

  Kind kind_;
  element::BlockScales<W> scales_;
  ScaledFormats<W> formats_;
};

// The order in which a block's numbers are computed does not matter, so a vector of bfloat16 is taken apart and put
// together as in load_apart.
template <typename T>
bool in_pairs(int64_t size) {
  return std::is_same_v<T, c10::BFloat16> && size % Vectorized<T>::size() == 0;
}

// Numbers of type T, in the dtype of the computation: where they are, or widened into a buffer.
template <typename T, typename W>
const W* read(const T* from, int64_t count, Buffer<W>& buffer, bool in_pairs) {
  if constexpr (std::is_same_v<T, W>) {
    return from;
  } else if (in_pairs) {
    for (int64_t i = 0; i < count; i += Vectorized<T>::size()) {
      const auto parts = load_apart(from + i);
      parts[0].store(&buffer[i]);
      parts[1].store(&buffer[i + Vectorized<W>::size()]);
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
      store_together<T>({V::loadu(&buffer[i]), V::loadu(&buffer[i + V::size()])}, to + i);
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
  // A group of blocks, from the element `first` of a row on.
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
      if (block % Vectorized<T>::size() == 0 && size % block == 0) {
        const int64_t at = outer * task_.length + i;
        blocks_.group_of_vectors(x_ + at, g_ + at, y_ + at, size / block, block, tensor_scale);
        continue;
      }
      on_chunk(outer * task_.length + i, size, /*are_pairs=*/false, [&](const W* x, const W* g, W* y) {
        if (block % V::size() == 0 && size % block == 0) {
          blocks_.group_of_vectors(x, g, y, size / block, block, tensor_scale);
        } else {
          blocks_.group(x, g, y, size, block, tensor_scale);
        }
      });
    }
  }

  // A block that is larger than a buffer.
  void long_block(int64_t begin, int64_t size, W tensor_scale) {
    typename Blocks::Of of_all;
    for (int64_t i = 0; i < size; i += kChunk) {
      const int64_t count = std::min(kChunk, size - i);
      of_all = of_all.with(read(x_ + begin + i, count, xs_, in_pairs<T>(count)), count);
    }
    Scales<W, Blocks::kLanes> scales;
    const auto of = [&](int64_t k) { return k == 0 ? of_all : typename Blocks::Of(); };
    scales.set(0, blocks_.scales(0, of, tensor_scale));
    for (int64_t i = 0; i < size; i += kChunk) {
      const int64_t count = std::min(kChunk, size - i);
      on_chunk(begin + i, count, in_pairs<T>(count), [&](const W* x, const W* g, W* y) {
        blocks_.quantize(x, g, y, count, scales, 0);
      });
    }
  }

  // A block of columns, from the row `first` and a column on.
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

  // Calls the function with the numbers from an index on, and with where its results go.
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
