// Trains a layer with weights of 4 bits and a learned scale, and then runs a scripted module that uses the ops.
//
//     train_quantized [MODULE]
#include <ste/ops.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <iostream>

namespace {

struct QuantLinearImpl : torch::nn::Module {
  QuantLinearImpl(int64_t in_features, int64_t out_features) {
    weight = register_parameter("weight", torch::randn({out_features, in_features}) / 4);
    scale = register_parameter("scale", torch::full({out_features, 1}, 0.1));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    return torch::linear(x, ste::fake_quantize(weight, scale, std::nullopt, -8, 7));
  }

  torch::Tensor weight;
  torch::Tensor scale;
};
TORCH_MODULE(QuantLinear);

// Whether what is learned is the layer that the targets are made with.
bool trains() {
  torch::manual_seed(0);
  const auto x = torch::randn({256, 8});
  const auto target = torch::linear(x, ste::round_ste(torch::randn({4, 8}) * 4) / 8);
  QuantLinear layer(8, 4);
  torch::optim::Adam optimizer(layer->parameters(), 0.02);
  double first = 0;
  double last = 0;
  for (int step = 0; step < 300; ++step) {
    optimizer.zero_grad();
    const auto loss = torch::mse_loss(layer(x), target);
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    first = step == 0 ? last : first;
  }
  std::cout << "loss: " << first << " before, " << last << " after\n";
  return last < 0.05 * first;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (!trains()) {
      return 1;
    }
    if (count > 1) {
      auto module = torch::jit::load(arguments[1]);
      const auto x = torch::tensor({0.4, 1.6, -2.5}, torch::requires_grad());
      const auto y = module.forward({x}).toTensor();
      y.sum().backward();
      std::cout << "scripted: " << y.detach() << '\n' << x.grad() << '\n';
      return torch::equal(x.grad(), torch::ones({3})) ? 0 : 1;
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
