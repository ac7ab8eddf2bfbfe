// Runs the reduction of the CUDA kernels on the CPU, block after block and thread after thread, and compares the sums
// and the gradient to x with those of a plain loop in double.
#include "clamp/elements.h"
#include "fake_quantize/elements.h"
#include "memory/cuda_reduce.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

using ste::Extent;

struct By {
  float x;
  float first;
  float second;
};

struct Gradient {
  By operator()(float g, float x, float scale, float zero_point) const {
    const auto by = ste::element::fake_quantize_backward(g, x, ste::element::Grid<float>{scale, zero_point, -4, 3});
    return {by.x, by.scale, by.zero_point};
  }
};

std::vector<float> random_numbers(int64_t count, float low, float high) {
  static std::mt19937 generator(0);
  std::uniform_real_distribution<float> distribution(low, high);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (auto& number : numbers) {
    number = distribution(generator);
  }
  return numbers;
}

using ste::cuda::Threads;

template <int pack, Threads threads, int width>
bool agrees(const Extent& sizes, bool second_varies) {
  const int64_t count = sizes.outer * sizes.middle * sizes.inner;
  const auto x = random_numbers(count, -4, 4);
  const auto g = random_numbers(count, -1, 1);
  const auto scale = random_numbers(sizes.middle, 0.25, 1);
  const auto zero_point = random_numbers(sizes.middle, -1, 1);
  std::vector<float> to_x(x.size(), -1);

  ste::cuda::Reduction<float, float, float, Gradient, pack, threads, width> reduction{};
  auto& operands = reduction.operands;
  operands = {g.data(), x.data(), scale.data(), zero_point.data(), to_x.data(), nullptr, sizes, 1, true, second_varies};
  operands.slices = ste::cuda::number_of_slices(sizes, reduction.groups(), reduction.height, pack);
  std::vector<ste::cuda::Sums> partial(static_cast<size_t>(operands.slices * sizes.middle));
  operands.partial = partial.data();
  for (int64_t group = 0; group < reduction.groups(); ++group) {
    for (int64_t slice = 0; slice < operands.slices; ++slice) {
      std::vector<ste::cuda::Sums> sums(ste::cuda::kThreads);
      for (int thread = 0; thread < ste::cuda::kThreads; ++thread) {
        sums[static_cast<size_t>(thread)] = reduction.of_thread(group, slice, thread);
      }
      for (int half = reduction.height / 2; half >= 1; half /= 2) {
        for (int thread = 0; thread < ste::cuda::kThreads; ++thread) {
          reduction.add(sums.data(), thread, half);
        }
      }
      for (int thread = 0; thread < ste::cuda::kThreads; ++thread) {
        reduction.finish(group, slice, thread, sums[static_cast<size_t>(thread)]);
      }
    }
  }

  for (int64_t channel = 0; channel < sizes.middle; ++channel) {
    double first = 0;
    double second = 0;
    double size = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (i / sizes.inner % sizes.middle == channel) {
        const auto at = static_cast<size_t>(i);
        const auto by = Gradient()(
            g[at], x[at], scale[static_cast<size_t>(channel)],
            zero_point[second_varies ? static_cast<size_t>(channel) : 0]);
        first += by.first;
        second += by.second;
        size += std::abs(by.first) + std::abs(by.second);
        if (to_x[at] != by.x) {
          return false;
        }
      }
    }
    for (int64_t slice = 0; slice < operands.slices; ++slice) {
      const auto& sums = partial[static_cast<size_t>(slice * sizes.middle + channel)];
      first -= sums.first;
      second -= sums.second;
    }
    if (std::abs(first) > 1e-12 * size || std::abs(second) > 1e-12 * size) {
      return false;
    }
  }
  return true;
}

template <int pack, Threads threads, int width>
int failures(const std::vector<Extent>& cases) {
  int count = 0;
  for (const auto& sizes : cases) {
    for (const bool second_varies : {true, false}) {
      if (!agrees<pack, threads, width>(sizes, second_varies)) {
        std::printf(
            "pack %d, width %d: wrong for outer %lld, middle %lld, inner %lld\n", pack, width,
            static_cast<long long>(sizes.outer), static_cast<long long>(sizes.middle),
            static_cast<long long>(sizes.inner));
        ++count;
      }
    }
  }
  return count;
}

}  // namespace

int main() {
  constexpr auto in_rows = Threads::in_rows;
  const int wrong =
      failures<4, in_rows, 1>({{1, 1, 4}, {1, 1, 1 << 20}, {3, 5, 64}, {7, 3, 4}, {2, 64, 4096}, {1, 3, 40000}}) +
      failures<1, in_rows, 1>({{1, 1, 1}, {1, 1, 100003}, {3, 5, 7}, {2, 3, 49}, {5, 1, 9}}) +
      failures<4, in_rows, 16>({{1, 1, 4}, {1, 100, 128}, {3, 5, 64}, {7, 16, 4}, {1, 33, 1024}, {2, 3, 4096}}) +
      failures<1, in_rows, 16>({{1, 1, 1}, {3, 5, 7}, {2, 100, 9}, {5, 17, 49}, {1, 3, 1000}}) +
      failures<1, Threads::in_columns, 32>({{1, 100, 1}, {1000, 3, 1}, {64, 33, 1}, {4096, 64, 1}, {1, 1, 1}});
  return wrong == 0 ? 0 : 1;
}
