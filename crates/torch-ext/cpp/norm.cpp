// Group norm with SiLU after it and a vector added before it, in one operation.
#include "shim.h"

namespace heldout::norm {
namespace {

Tensor composed(const Tensor& x, const Tensor& shift, const Tensor& weight, const Tensor& bias, int64_t groups,
                double eps, bool silu) {
  if (x.is_meta()) return at::empty_like(x); // libtorch's has no kernel for it
  std::vector<int64_t> shape(x.dim(), 1);
  shape[0] = x.size(0), shape[1] = x.size(1);
  const Tensor shifted = shift.defined() ? x + shift.view(shape) : x;
  const Tensor y = at::group_norm(shifted, groups, weight, bias, eps);
  return silu ? at::silu(y) : y;
}

GroupShape shape_of(const Tensor& x, int64_t groups, double eps, bool silu) {
  return {x.size(1) / groups, x.numel() / (x.size(0) * x.size(1)), eps, silu};
}

template <class T> const T* data(const Tensor& t, int64_t at) {
  return t.defined() ? t.data_ptr<T>() + at : nullptr;
}

struct Normed {
  Tensor y, mean, rstd;
};

Normed forward(const Tensor& x, const Tensor& shift, const Tensor& weight, const Tensor& bias, int64_t groups,
               double eps, bool silu) {
  const auto options = x.options().requires_grad(false);
  const Normed out = {at::empty(x.sizes(), options), at::empty({x.size(0), groups}, options),
                      at::empty({x.size(0), groups}, options)};
  const GroupShape s = shape_of(x, groups, eps, silu);
  const int64_t size = s.channels * s.places;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "group_norm_silu", [&] {
    at::parallel_for(0, x.size(0) * groups, GRAIN / size + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t c = i % groups * s.channels;
        kernels<scalar_t>().group_forward(s, data<scalar_t>(x, i * size), data<scalar_t>(shift, i * s.channels),
                                          data<scalar_t>(weight, c), data<scalar_t>(bias, c),
                                          out.y.data_ptr<scalar_t>() + i * size, out.mean.data_ptr<scalar_t>() + i,
                                          out.rstd.data_ptr<scalar_t>() + i);
      }
    });
  });
  return out;
}

struct GroupNormSilu : torch::autograd::Function<GroupNormSilu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& shift_, const Tensor& weight,
                        const Tensor& bias, int64_t groups, double eps, bool silu) {
    const Tensor shift = shift_.value_or(Tensor());
    const Normed out = norm::forward(x, shift, weight, bias, groups, eps, silu);
    ctx->save_for_backward({x, shift, weight, bias, out.mean, out.rstd});
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["silu"] = silu;
    return out.y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &shift = saved[1], &weight = saved[2], &bias = saved[3];
    const int64_t groups = ctx->saved_data["groups"].toInt();
    const double eps = ctx->saved_data["eps"].toDouble();
    const bool silu = ctx->saved_data["silu"].toBool();
    if (at::GradMode::is_enabled()) {
      auto out = composed_gradients({x, shift, weight, bias}, gradients[0], [&](const variable_list& t) {
        return composed(t[0], t[1], t[2], t[3], groups, eps, silu);
      });
      out.resize(7);
      return out;
    }
    const Tensor dy = gradients[0].contiguous();
    const auto options = x.options().requires_grad(false);
    const Tensor dx = at::empty(x.sizes(), options), dweight = at::empty({x.size(0), x.size(1)}, options),
                 dbias = at::empty({x.size(0), x.size(1)}, options),
                 dshift = shift.defined() ? at::empty(shift.sizes(), options) : Tensor();
    const GroupShape s = shape_of(x, groups, eps, silu);
    const int64_t size = s.channels * s.places;
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "group_norm_silu_backward", [&] {
      using T = scalar_t;
      at::parallel_for(0, x.size(0) * groups, GRAIN / size + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t c = i % groups * s.channels, bc = i * s.channels;
          kernels<T>().group_backward(s, data<T>(x, i * size), data<T>(shift, bc), data<T>(weight, c), data<T>(bias, c),
                                      data<T>(dy, i * size), *data<T>(saved[4], i), *data<T>(saved[5], i),
                                      dx.data_ptr<T>() + i * size, dweight.data_ptr<T>() + bc,
                                      dbias.data_ptr<T>() + bc,
                                      shift.defined() ? dshift.data_ptr<T>() + bc : nullptr);
        }
      });
    });
    return {dx, dshift, dweight.sum(0), dbias.sum(0), Tensor(), Tensor(), Tensor()};
  }
};

Tensor group_norm(const Tensor& x, const Tensor& shift, const Tensor& weight, const Tensor& bias, int64_t groups,
                  double eps, bool silu) {
  const auto fits = [&](const Tensor& t) { return plain(t) && t.scalar_type() == x.scalar_type(); };
  const bool ours = plain(x) && x.dim() >= 2 && x.numel() > 0 && groups > 0 && x.size(1) % groups == 0 &&
                    (!shift.defined() || (fits(shift) && shift.dim() == 2 && shift.size(0) == x.size(0) &&
                                          shift.size(1) == x.size(1))) &&
                    fits(weight) && fits(bias) && weight.numel() == x.size(1) && bias.numel() == x.size(1);
  if (!ours) return composed(x, shift, weight, bias, groups, eps, silu);
  const Tensor x_ = x.contiguous(), shift_ = shift.defined() ? shift.contiguous() : shift, w = weight.contiguous(),
               b = bias.contiguous();
  if (!recorded({x, shift, weight, bias})) return forward(x_, shift_, w, b, groups, eps, silu).y;
  return GroupNormSilu::apply(x_, optional(shift_), w, b, groups, eps, silu);
}

} // namespace
} // namespace heldout::norm

extern "C" char* heldout_group_norm(const at::Tensor* x, const at::Tensor* shift, const at::Tensor* weight,
                                    const at::Tensor* bias, int64_t groups, double eps, int silu, at::Tensor** out) {
  return heldout::guarded([&] {
    *out = new at::Tensor(
        heldout::norm::group_norm(*x, shift ? *shift : at::Tensor(), *weight, *bias, groups, eps, silu != 0));
  });
}
