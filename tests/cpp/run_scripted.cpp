// Loads a scripted module, runs it forward and backward, and saves the result and the gradient. No Python.
//
//     run_scripted MODULE INPUTS OUTPUTS
//
// INPUTS holds x and the gradient that comes in.
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>
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

}  // namespace

int main(int, char** argv) {
  try {
    auto module = torch::jit::load(argv[1]);
    const auto inputs = load(argv[2]);
    const auto x = inputs.at(0).requires_grad_();
    const auto y = module.forward({x}).toTensor();
    const auto gradients = torch::autograd::grad({y}, {x}, {inputs.at(1)});
    save(argv[3], {y.detach(), gradients.at(0)});
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
