// The ends of a grid of integers, and what counts as within them.
#pragma once

namespace ste {

// What a gradient's mask tests: the integer, as PyTorch and Brevitas do, or x / scale + zero_point before it is
// rounded, as LSQ's equations do.
enum class Inside { rounded, scaled };

// In the dtype that is computed in, which holds both exactly.
struct Ends {
  double quant_min;
  double quant_max;
  Inside inside = Inside::rounded;
};

}  // namespace ste
