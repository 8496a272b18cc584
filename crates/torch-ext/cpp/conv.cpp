// Convolution with 3x3 kernels, stride 1 and one zero around the image: Winograd's on the CPU in f32, with its gradients.
#include "shim.h"

#include <memory>

namespace heldout::conv {
namespace {

constexpr int64_t FEWEST = 8;  // tiles; with fewer, transforming the weights costs more than it saves
constexpr int64_t CHUNK = 192; // tiles whose transforms are held at once for the weights' gradient

Tensor composed(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (x.is_meta()) return at::empty({x.size(0), weight.size(0), x.size(2), x.size(3)}, x.options()); // it has no kernel
  return at::conv2d(x, weight, optional(bias), 1, 1);
}

/// `[N, from, H, W]` with these weights, `[to, from, 3, 3]`; as the gradient of the input, with those turned round.
Tensor convolve(const Tensor& x, const Tensor& weight, const Tensor& bias, bool transposed) {
  const auto& k = conv_kernels();
  const Tensor x_ = x.contiguous(), w = weight.contiguous();
  const int64_t to = w.size(transposed ? 1 : 0), from = x.size(1), taps = 9 * w.size(1);
  const ConvShape shape = {from, to, x.size(2), x.size(3)};
  const Tensor u = at::empty({36 * from * to}, x.options().requires_grad(false));
  const Tensor y = at::empty({x.size(0), to, x.size(2), x.size(3)}, u.options());
  const float* bias_ = bias.defined() ? bias.data_ptr<float>() : nullptr;
  at::parallel_for(0, to / k.panel(), 1, [&](int64_t begin, int64_t end) {
    k.weights(from, w.data_ptr<float>(), transposed ? 9 : taps, transposed ? taps : 9, transposed, begin, end,
              u.data_ptr<float>());
  });
  at::parallel_for(0, x.size(0) * ((x.size(2) + 3) / 4), 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[k.scratch(shape)]);
    k.forward(shape, x_.data_ptr<float>(), u.data_ptr<float>(), bias_, y.data_ptr<float>(), begin, end, scratch.get());
  });
  return y;
}

Tensor weight_gradient(const Tensor& x, const Tensor& dy, const Tensor& weight) {
  const auto& k = conv_kernels();
  const Tensor x_ = x.contiguous(), dy_ = dy.contiguous();
  const int64_t from = x.size(1), to = dy.size(1);
  const ConvShape shape = {from, to, x.size(2), x.size(3)};
  const int64_t across = (x.size(3) + 3) / 4, rows = x.size(0) * ((x.size(2) + 3) / 4);
  const int64_t chunk = std::min(rows, std::max<int64_t>(1, CHUNK / across)), tiles = chunk * across;
  const auto options = x.options().requires_grad(false);
  const Tensor v = at::empty({36 * (tiles * from + 16)}, options), m = at::empty({36 * (tiles * to + 16)}, options);
  const Tensor du = at::zeros({36 * from * to}, options), dw = at::empty(weight.sizes(), options);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t last = std::min(rows, first + chunk);
    at::parallel_for(first, last, 1, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<float[]> strip(new float[k.scratch(shape)]);
      k.transform(shape, x_.data_ptr<float>(), dy_.data_ptr<float>(), first, begin, end, tiles, v.data_ptr<float>(),
                  m.data_ptr<float>(), strip.get());
    });
    at::parallel_for(0, 36 * (to / k.panel()), 1, [&](int64_t begin, int64_t end) {
      k.products(shape, v.data_ptr<float>(), m.data_ptr<float>(), tiles, (last - first) * across, begin, end,
                 du.data_ptr<float>());
    });
  }
  at::parallel_for(0, from, 1, [&](int64_t begin, int64_t end) {
    k.weight_gradient(shape, du.data_ptr<float>(), begin, end, dw.data_ptr<float>());
  });
  return dw;
}

struct Conv3x3 : torch::autograd::Function<Conv3x3> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias_) {
    const Tensor bias = bias_.value_or(Tensor());
    ctx->save_for_backward({x, weight, bias});
    return convolve(x, weight, bias, false);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &dy = gradients[0];
    if (at::GradMode::is_enabled())
      return composed_gradients(saved, dy, [](const variable_list& t) { return composed(t[0], t[1], t[2]); });
    variable_list out(3);
    if (x.requires_grad()) out[0] = convolve(dy, weight, Tensor(), true);
    if (weight.requires_grad()) out[1] = weight_gradient(x, dy, weight);
    if (bias.defined() && bias.requires_grad()) out[2] = dy.sum(at::IntArrayRef{0, 2, 3});
    return out;
  }
};

Tensor conv3x3(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t multiple = std::max<int64_t>(16, conv_kernels().panel());
  const bool ours = plain(x) && plain(weight) && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                    x.dim() == 4 && weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                    x.size(1) == weight.size(1) && weight.size(0) % multiple == 0 && weight.size(1) % multiple == 0 &&
                    x.size(2) >= 3 && x.size(3) >= 3 &&
                    x.size(0) * ((x.size(2) + 3) / 4) * ((x.size(3) + 3) / 4) >= FEWEST &&
                    (!bias.defined() || (plain(bias) && bias.scalar_type() == at::kFloat && bias.is_contiguous() &&
                                         bias.numel() == weight.size(0)));
  if (!ours) return composed(x, weight, bias);
  return recorded({x, weight, bias}) ? Conv3x3::apply(x, weight, optional(bias)) : convolve(x, weight, bias, false);
}

} // namespace
} // namespace heldout::conv

extern "C" char* heldout_conv3x3(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                                 at::Tensor** out) {
  return heldout::guarded(
      [&] { *out = new at::Tensor(heldout::conv::conv3x3(*x, *weight, bias ? *bias : at::Tensor())); });
}
