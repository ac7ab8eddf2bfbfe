// Calls ops, trains a layer with 4-bit weights and a learned scale, and then
// runs a scripted module that uses the ops.
//
//     train_quantized [MODULE]
#include <ste/ops.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <iostream>
#include <vector>

namespace {

struct QuantLinearImpl : torch::nn::Module {
  QuantLinearImpl(int64_t in_features, int64_t out_features) {
    weight =
        register_parameter("weight", torch::randn({out_features, in_features}) / 4);
    scale = register_parameter("scale", torch::full({out_features, 1}, 0.1));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    return torch::linear(x, ste::fake_quantize(weight, scale, std::nullopt, -8, 7));
  }

  torch::Tensor weight;
  torch::Tensor scale;
};
TORCH_MODULE(QuantLinear);

// Whether training finds the layer that produced the targets.
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

// Whether the ops return the right values, each with its arguments.
bool computes() {
  const auto x = torch::tensor({-9.0, -0.3, 0.6, 2.4}, torch::requires_grad());
  const auto is = [](const torch::Tensor& y, const std::vector<double>& expected) {
    return torch::equal(
        y.detach().to(torch::kDouble), torch::tensor(expected, torch::kDouble));
  };
  const auto gradient = [&](const torch::Tensor& y) {
    return torch::autograd::grad({y.sum()}, {x})[0];
  };
  return is(ste::fake_quantize_float(x, torch::ones({}), "e2m1fn"),
            {-6.0, -0.5, 0.5, 2.0}) &&
         is(gradient(ste::fake_quantize_float(x, torch::ones({}), "float4_e2m1fn")),
            {0, 1, 1, 1}) &&
         is(ste::fake_quantize_blocks(x, "int4", std::nullopt, "floor"),
            {-8.0, 0.0, 0.0, 2.0}) &&
         is(ste::fake_quantize(
                x, torch::ones({}), std::nullopt, -2, 1, 1.0, "scaled"),
            {-2, 0, 1, 1}) &&
         is(gradient(ste::binary_sign_ste(x, -1, "clipped", torch::tensor(0.5))),
            {0, 1, 0, 0}) &&
         is(ste::ternary_sign_ste(x, torch::tensor(0.5), "triangle"),
            {-1, 0, 1, 1}) &&
         is(ste::straight_through(x.detach().sign(), x), {-1, -1, 1, 1}) &&
         is(gradient(ste::trunc_ste(x)), {1, 1, 1, 1});
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (!computes() || !trains()) {
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
