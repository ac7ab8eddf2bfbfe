// Sums the gradients to an argument that broadcasts on a CUDA device, written so that a CPU can run it too: a block is
// a number of threads that share an array of sums. The order of the additions depends only on the shapes.
#pragma once

#include "extent.h"

#include <c10/macros/Macros.h>

#include <algorithm>
#include <cstdint>

namespace ste::cuda {

constexpr int kThreads = 256;

// Neighbors in memory, which a thread loads or stores at once.
template <typename T, int n>
struct alignas(sizeof(T) * n) Pack {
  T values[n];
};

template <typename T, int n>
C10_HOST_DEVICE inline Pack<T, n> load(const T* from) {
  return *reinterpret_cast<const Pack<T, n>*>(from);
}

template <typename T, int n>
C10_HOST_DEVICE inline void store(const Pack<T, n>& pack, T* to) {
  *reinterpret_cast<Pack<T, n>*>(to) = pack;
}

struct Sums {
  double first = 0;
  double second = 0;
};

// What a backward reads and writes. x and g are dense and have the same layout; the arguments have dtype A.
template <typename T, typename A>
struct Operands {
  const T* g;
  const T* x;
  const A* first;
  const A* second;
  T* to_x;        // null if it is not needed
  Sums* partial;  // slices * middle of them
  Extent sizes;
  int64_t slices;
  bool first_varies;  // if not, it is one number
  bool second_varies;
};

// How the threads of a block share its channels. In rows, the threads of a channel are neighbors, like its elements. In
// columns, neighboring threads have different channels, since the elements of one are far apart.
enum class Threads { in_rows, in_columns };

// A block sums `width` channels.
template <typename T, typename A, typename W, typename Gradient, int pack, Threads threads, int width>
struct Reduction {
  static constexpr int height = kThreads / width;  // threads per channel

  Operands<T, A> operands;
  Gradient gradient;  // (g, x, first, second) -> the gradients to x, first and second

  C10_HOST_DEVICE static int column(int thread) {
    return threads == Threads::in_rows ? thread / height : thread % width;
  }
  C10_HOST_DEVICE static int row(int thread) { return threads == Threads::in_rows ? thread % height : thread / width; }

  // The sums of one thread of a block. Blocks are numbered by the group of channels and by the slice.
  C10_HOST_DEVICE Sums of_thread(int64_t group, int64_t slice, int thread) const {
    const auto& sizes = operands.sizes;
    const int64_t channel = group * width + column(thread);
    Sums sums;
    if (channel >= sizes.middle) {
      return sums;
    }
    const W first = static_cast<W>(operands.first[operands.first_varies ? channel : 0]);
    const W second = static_cast<W>(operands.second[operands.second_varies ? channel : 0]);
    // Indices into the channel's elements, as if they were one row. A division takes as long as a pack of elements.
    constexpr int64_t step = static_cast<int64_t>(height) * pack;
    const int64_t packs = sizes.outer * sizes.inner / pack;
    const int64_t end = packs * (slice + 1) / operands.slices * pack;
    int64_t element = (packs * slice / operands.slices + row(thread)) * pack;
    int64_t outer = element / sizes.inner;
    int64_t inner = element % sizes.inner;
    const int64_t outer_step = step / sizes.inner;
    const int64_t inner_step = step % sizes.inner;
    for (; element < end; element += step) {
      const int64_t at = (outer * sizes.middle + channel) * sizes.inner + inner;
      outer += outer_step;
      inner += inner_step;
      if (inner >= sizes.inner) {
        inner -= sizes.inner;
        ++outer;
      }
      const auto g = load<T, pack>(operands.g + at);
      const auto x = load<T, pack>(operands.x + at);
      Pack<T, pack> to_x;
      for (int k = 0; k < pack; ++k) {
        const auto by = gradient(static_cast<W>(g.values[k]), static_cast<W>(x.values[k]), first, second);
        to_x.values[k] = static_cast<T>(by.x);
        sums.first += static_cast<double>(by.first);
        sums.second += static_cast<double>(by.second);
      }
      if (operands.to_x != nullptr) {
        store<T, pack>(to_x, operands.to_x + at);
      }
    }
    return sums;
  }

  // One step of the sum over the threads of a channel; each step has half as many threads as the one before.
  C10_HOST_DEVICE static void add(Sums* sums, int thread, int half) {
    if (row(thread) < half) {
      const int other = thread + half * (threads == Threads::in_rows ? 1 : width);
      sums[thread].first += sums[other].first;
      sums[thread].second += sums[other].second;
    }
  }

  C10_HOST_DEVICE void finish(int64_t group, int64_t slice, int thread, const Sums& sums) const {
    const int64_t channel = group * width + column(thread);
    if (row(thread) == 0 && channel < operands.sizes.middle) {
      operands.partial[slice * operands.sizes.middle + channel] = sums;
    }
  }

  C10_HOST_DEVICE int64_t groups() const { return (operands.sizes.middle + width - 1) / width; }
};

// How many slices of each channel give enough blocks to fill a device, each with some work for each thread.
inline int64_t number_of_slices(const Extent& sizes, int64_t groups, int height, int pack) {
  const int64_t work = sizes.outer * sizes.inner / (static_cast<int64_t>(8) * height * pack);
  return std::clamp<int64_t>(work, 1, std::max<int64_t>(1, 1024 / groups));
}

}  // namespace ste::cuda
