// Includes only BatchedTensorImpl.h of functorch's headers: its neighbors include nlohmann/json.hpp, which torch does
// not ship.
#include "batching.h"

namespace ste {

void Batch::visit(const at::Tensor& tensor) {
  const auto* batched = at::functorch::maybeGetBatchedImpl(tensor);
  if (batched != nullptr && batched->level() > level_) {
    level_ = batched->level();
    size_ = batched->value().sym_size(batched->bdim());
  }
}

std::optional<at::Tensor> Batch::batch_first(const at::Tensor& tensor) const {
  const auto* batched = at::functorch::maybeGetBatchedImpl(tensor);
  if (batched == nullptr || batched->level() != level_) {
    return std::nullopt;
  }
  return batched->value().movedim(batched->bdim(), 0);
}

at::Tensor Batch::input(const at::Tensor& x) const {
  if (auto batched = batch_first(x)) {
    return *batched;
  }
  std::vector<c10::SymInt> shape{size_};
  for (const auto& size : x.sym_sizes()) {
    shape.push_back(size);
  }
  return x.expand_symint(shape);
}

at::Tensor Batch::argument(const at::Tensor& bound) const {
  auto batched = batch_first(bound);
  if (!batched) {
    return bound;
  }
  for (int64_t dim = bound.dim(); dim < rank_; ++dim) {
    batched = batched->unsqueeze(1);
  }
  return *batched;
}

}  // namespace ste
