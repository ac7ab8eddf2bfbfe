// An op built on those of ste-core: rounds up or down, with probabilities such that the mean is x.
#include <ste/ops.h>

#include <ATen/ATen.h>
#include <Python.h>
#include <torch/library.h>

namespace {

at::Tensor stochastic_round(const at::Tensor& x) {
  return ste::floor_ste(x + at::rand_like(x));
}

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};

}  // namespace

TORCH_LIBRARY(stochastic_ops, library) {
  library.def("stochastic_round(Tensor x) -> Tensor", &stochastic_round);
}

PyMODINIT_FUNC PyInit__C() {
  return PyModule_Create(&definition);
}
