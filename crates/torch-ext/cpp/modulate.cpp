// What a diffusion transformer does between its products: modulated layer norm, gated residual, GELU.
#include "shim.h"

namespace heldout::modulate {
namespace {

constexpr int64_t ROWS = 64; // whose gradients of shift, scale and gate are summed in one place

Tensor by_row(const Tensor& t) { return t.unsqueeze(1); }

Tensor composed_norm(const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
  if (x.is_meta()) return at::empty_like(x); // libtorch's has no kernel for it
  return at::layer_norm(x, {x.size(2)}, {}, {}, eps) * (1 + by_row(scale)) + by_row(shift);
}

Tensor composed_gate(const Tensor& x, const Tensor& gate, const Tensor& h) { return x + by_row(gate) * h; }

/// Runs `f(example, first row of all, rows, block)` over blocks of at most `ROWS` rows.
template <class F> void each_block(const Tensor& x, F&& f) {
  const int64_t blocks = (x.size(1) + ROWS - 1) / ROWS;
  at::parallel_for(0, x.size(0) * blocks, GRAIN / (ROWS * x.size(2)) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks, first = i % blocks * ROWS;
      f(b, b * x.size(1) + first, std::min(ROWS, x.size(1) - first), i);
    }
  });
}

/// Zeros for the sums of every block, `[B, blocks, D]`.
Tensor partial(const Tensor& x) {
  return at::zeros({x.size(0), (x.size(1) + ROWS - 1) / ROWS, x.size(2)}, x.options().requires_grad(false));
}

bool fits(const Tensor& x, const Tensor& by_example) {
  return plain(by_example) && by_example.scalar_type() == x.scalar_type() && by_example.dim() == 2 &&
         by_example.size(0) == x.size(0) && by_example.size(1) == x.size(2);
}

struct Modulate : torch::autograd::Function<Modulate> {
  static std::array<Tensor, 3> run(const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
    const auto options = x.options().requires_grad(false);
    const Tensor y = at::empty(x.sizes(), options), mean = at::empty({x.size(0), x.size(1)}, options),
                 rstd = at::empty({x.size(0), x.size(1)}, options);
    const int64_t width = x.size(2);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "layer_norm_modulate", [&] {
      using T = scalar_t;
      each_block(x, [&](int64_t b, int64_t row, int64_t rows, int64_t) {
        kernels<T>().modulate_forward(rows, width, T(eps), x.data_ptr<T>() + row * width,
                                      shift.data_ptr<T>() + b * width, scale.data_ptr<T>() + b * width,
                                      y.data_ptr<T>() + row * width, mean.data_ptr<T>() + row,
                                      rstd.data_ptr<T>() + row);
      });
    });
    return {y, mean, rstd};
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
    const auto [y, mean, rstd] = run(x, shift, scale, eps);
    ctx->save_for_backward({x, shift, scale, mean, rstd});
    ctx->saved_data["eps"] = eps;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &scale = saved[2], &mean = saved[3], &rstd = saved[4];
    if (at::GradMode::is_enabled()) {
      const double eps = ctx->saved_data["eps"].toDouble();
      auto out = composed_gradients({x, saved[1], scale}, gradients[0], [&](const variable_list& t) {
        return composed_norm(t[0], t[1], t[2], eps);
      });
      out.resize(4);
      return out;
    }
    const Tensor dy = gradients[0].contiguous();
    const Tensor dx = at::empty(x.sizes(), x.options().requires_grad(false)), dshift = partial(x), dscale = partial(x);
    const int64_t width = x.size(2);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "layer_norm_modulate_backward", [&] {
      using T = scalar_t;
      each_block(x, [&](int64_t b, int64_t row, int64_t rows, int64_t block) {
        kernels<T>().modulate_backward(rows, width, x.data_ptr<T>() + row * width, scale.data_ptr<T>() + b * width,
                                       dy.data_ptr<T>() + row * width, mean.data_ptr<T>() + row,
                                       rstd.data_ptr<T>() + row, dx.data_ptr<T>() + row * width,
                                       dshift.data_ptr<T>() + block * width, dscale.data_ptr<T>() + block * width);
      });
    });
    return {dx, dshift.sum(1), dscale.sum(1), Tensor()};
  }
};

struct Gate : torch::autograd::Function<Gate> {
  static Tensor run(const Tensor& x, const Tensor& gate, const Tensor& h) {
    const Tensor y = at::empty(x.sizes(), x.options().requires_grad(false));
    const int64_t width = x.size(2);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gated_residual", [&] {
      using T = scalar_t;
      each_block(x, [&](int64_t b, int64_t row, int64_t rows, int64_t) {
        kernels<T>().gated_forward(rows, width, x.data_ptr<T>() + row * width, gate.data_ptr<T>() + b * width,
                                   h.data_ptr<T>() + row * width, y.data_ptr<T>() + row * width);
      });
    });
    return y;
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gate, const Tensor& h) {
    ctx->save_for_backward({gate, h});
    return run(x, gate, h);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &h = saved[1], &upstream = gradients[0];
    if (at::GradMode::is_enabled())
      return {upstream, (upstream * h).sum(1), upstream * by_row(gate)};
    const Tensor dy = upstream.contiguous(), dh = at::empty(h.sizes(), h.options().requires_grad(false)),
                 dgate = partial(h);
    const int64_t width = h.size(2);
    AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "gated_residual_backward", [&] {
      using T = scalar_t;
      each_block(h, [&](int64_t b, int64_t row, int64_t rows, int64_t block) {
        kernels<T>().gated_backward(rows, width, gate.data_ptr<T>() + b * width, h.data_ptr<T>() + row * width,
                                    dy.data_ptr<T>() + row * width, dh.data_ptr<T>() + row * width,
                                    dgate.data_ptr<T>() + block * width);
      });
    });
    return {upstream, dgate.sum(1), dh};
  }
};

struct Gelu : torch::autograd::Function<Gelu> {
  static Tensor run(const Tensor& x) {
    const Tensor y = at::empty(x.sizes(), x.options().requires_grad(false));
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gelu_tanh", [&] {
      at::parallel_for(0, x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
        kernels<scalar_t>().gelu_forward(end - begin, x.data_ptr<scalar_t>() + begin, y.data_ptr<scalar_t>() + begin);
      });
    });
    return y;
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    ctx->save_for_backward({x});
    return run(x);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const Tensor x = ctx->get_saved_variables()[0];
    if (at::GradMode::is_enabled())
      return composed_gradients({x}, gradients[0], [](const variable_list& t) { return at::gelu(t[0], "tanh"); });
    const Tensor dy = gradients[0].contiguous(), dx = at::empty(x.sizes(), x.options().requires_grad(false));
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gelu_tanh_backward", [&] {
      at::parallel_for(0, x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
        kernels<scalar_t>().gelu_backward(end - begin, x.data_ptr<scalar_t>() + begin, dy.data_ptr<scalar_t>() + begin,
                                          dx.data_ptr<scalar_t>() + begin);
      });
    });
    return {dx};
  }
};

Tensor modulate(const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
  TORCH_CHECK(x.dim() == 3 && shift.dim() == 2 && scale.dim() == 2, "layer_norm_modulate: x ", x.sizes(), ", shift ",
              shift.sizes(), ", scale ", scale.sizes(), " are not [B, L, D], [B, D], [B, D]");
  if (!plain(x) || x.numel() == 0 || !fits(x, shift) || !fits(x, scale)) return composed_norm(x, shift, scale, eps);
  const Tensor x_ = x.contiguous(), shift_ = shift.contiguous(), scale_ = scale.contiguous();
  if (recorded({x, shift, scale})) return Modulate::apply(x_, shift_, scale_, eps);
  return Modulate::run(x_, shift_, scale_, eps)[0];
}

Tensor gated(const Tensor& x, const Tensor& gate, const Tensor& h) {
  TORCH_CHECK(x.dim() == 3 && gate.dim() == 2 && h.sizes() == x.sizes(), "gated_residual: x ", x.sizes(), ", gate ",
              gate.sizes(), ", h ", h.sizes(), " are not [B, L, D], [B, D], [B, L, D]");
  if (!plain(x) || !plain(h) || h.scalar_type() != x.scalar_type() || x.numel() == 0 || !fits(x, gate))
    return composed_gate(x, gate, h);
  const Tensor x_ = x.contiguous(), gate_ = gate.contiguous(), h_ = h.contiguous();
  return recorded({x, gate, h}) ? Gate::apply(x_, gate_, h_) : Gate::run(x_, gate_, h_);
}

Tensor gelu(const Tensor& x) {
  if (!plain(x) || x.numel() == 0) return at::gelu(x, "tanh");
  const Tensor x_ = x.contiguous();
  return recorded({x}) ? Gelu::apply(x_) : Gelu::run(x_);
}

} // namespace
} // namespace heldout::modulate

extern "C" {

char* heldout_modulate(const at::Tensor* x, const at::Tensor* shift, const at::Tensor* scale, double eps,
                       at::Tensor** out) {
  return heldout::guarded([&] { *out = new at::Tensor(heldout::modulate::modulate(*x, *shift, *scale, eps)); });
}

char* heldout_gated(const at::Tensor* x, const at::Tensor* gate, const at::Tensor* h, at::Tensor** out) {
  return heldout::guarded([&] { *out = new at::Tensor(heldout::modulate::gated(*x, *gate, *h)); });
}

char* heldout_gelu(const at::Tensor* x, at::Tensor** out) {
  return heldout::guarded([&] { *out = new at::Tensor(heldout::modulate::gelu(*x)); });
}

} // extern "C"
