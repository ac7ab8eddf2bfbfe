// Loads a scripted module, runs it, differentiates it twice, and saves the results. No Python.
//
//     run_scripted MODULE INPUTS OUTPUTS RUNS
//
// INPUTS holds x and the incoming gradient g. OUTPUTS gets, for each run, y, the gradient of the sum of g y, and
// the derivative of the gradient of the sum of g y^2.
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {

std::vector<at::Tensor> load(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto list = torch::jit::pickle_load(bytes).toList();
  std::vector<at::Tensor> tensors;
  for (const at::IValue element : list) {
    tensors.push_back(element.toTensor());
  }
  return tensors;
}

void save(const char* path, const std::vector<at::Tensor>& tensors) {
  const auto bytes = torch::jit::pickle_save(tensors);
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

at::Tensor gradient(const at::Tensor& y, const at::Tensor& x, const std::vector<at::Tensor>& g, bool create_graph) {
  return torch::autograd::grad({y}, {x}, g, /*retain_graph=*/true, create_graph).at(0);
}

}  // namespace

int main(int, char** argv) {
  try {
    auto module = torch::jit::load(argv[1]);
    const auto inputs = load(argv[2]);
    const at::Tensor& g = inputs.at(1);
    std::vector<at::Tensor> outputs;
    for (int run = 0; run < std::stoi(argv[4]); ++run) {
      const auto x = inputs.at(0).clone().requires_grad_();
      const auto y = module.forward({x}).toTensor();
      const auto first = gradient((y * y * g).sum(), x, {}, true);
      outputs.insert(outputs.end(), {y.detach(), gradient(y, x, {g}, false), gradient(first.sum(), x, {}, false)});
    }
    save(argv[3], outputs);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
