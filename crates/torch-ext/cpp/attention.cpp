// Attention: the kernel for small heads with its gradients, and libtorch's for the rest.
#include "shim.h"

#include <cmath>

namespace heldout::attention {
namespace {

constexpr int64_t WIDEST = 16; // above, libtorch's products do as well or better

Tensor composed(const Tensor& q, const Tensor& k, const Tensor& v) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
  return at::matmul(at::softmax(at::matmul(q * scale, k.transpose(-2, -1)), -1), v);
}

/// `[B, heads, L, D]` in the memory order of `[B, L, heads, D]`: joining the heads again costs no copy.
Tensor by_place(const Tensor& like, int64_t length, int64_t width) {
  return at::empty({like.size(0), length, like.size(1), width}, like.options().requires_grad(false)).transpose(1, 2);
}

Tensor with_rows(const Tensor& t) { return t.stride(3) == 1 || t.size(3) == 1 ? t : t.contiguous(); }

template <class T> Rows<T> head(const Tensor& t, int64_t i) {
  const int64_t heads = t.size(1);
  return {static_cast<T*>(t.data_ptr()) + i / heads * t.stride(0) + i % heads * t.stride(1), t.stride(2)};
}

template <class T> Rows<const T> const_head(const Tensor& t, int64_t i) {
  const Rows<T> rows = head<T>(t, i);
  return {rows.data, rows.stride};
}

/// Runs `f` with scratch memory for every head of every example.
template <class T, class F> void each_head(const Tensor& q, HeadShape shape, F&& f) {
  const int64_t numbers = kernels<T>().attention_scratch(shape);
  at::parallel_for(0, q.size(0) * q.size(1), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(numbers);
    for (int64_t i = begin; i < end; i++) f(i, scratch.data());
  });
}

HeadShape shape_of(const Tensor& q, const Tensor& k) { return {q.size(2), k.size(2), q.size(3)}; }

double scale_of(const Tensor& q) { return 1 / std::sqrt(static_cast<double>(q.size(3))); }

/// The result and the logarithms of the rows' sums, `[B, heads, L]`.
std::pair<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor out = by_place(q, q.size(2), q.size(3));
  const Tensor lse = at::empty({q.size(0), q.size(1), q.size(2)}, q.options().requires_grad(false));
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "attend", [&] {
    using T = scalar_t;
    each_head<T>(q, shape_of(q, k), [&](int64_t i, T* scratch) {
      kernels<T>().attention_forward(shape_of(q, k), T(scale_of(q)), const_head<T>(q, i), const_head<T>(k, i),
                                     const_head<T>(v, i), head<T>(out, i), lse.data_ptr<T>() + i * q.size(2), scratch);
    });
  });
  return {out, lse};
}

struct Attend : torch::autograd::Function<Attend> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v) {
    const auto [out, lse] = attention::forward(q, k, v);
    ctx->save_for_backward({q, k, v, out, lse});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    if (at::GradMode::is_enabled())
      return composed_gradients({q, k, v}, gradients[0],
                                [](const variable_list& x) { return composed(x[0], x[1], x[2]); });
    const Tensor dy = with_rows(gradients[0]);
    const Tensor dq = by_place(q, q.size(2), q.size(3)), dk = by_place(k, k.size(2), k.size(3)),
                 dv = by_place(v, v.size(2), v.size(3));
    AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "attend_backward", [&] {
      using T = scalar_t;
      each_head<T>(q, shape_of(q, k), [&](int64_t i, T* scratch) {
        kernels<T>().attention_backward(shape_of(q, k), T(scale_of(q)), const_head<T>(q, i), const_head<T>(k, i),
                                        const_head<T>(v, i), const_head<T>(out, i), const_head<T>(dy, i),
                                        lse.data_ptr<T>() + i * q.size(2), head<T>(dq, i), head<T>(dk, i),
                                        head<T>(dv, i), scratch);
      });
    });
    return {dq, dk, dv};
  }
};

/// libtorch's blockwise kernel on the CPU has no derivative of its own backward pass: this one has.
struct Blockwise : torch::autograd::Function<Blockwise> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v) {
    const auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, false);
    ctx->save_for_backward({q, k, v, out, lse});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    if (at::GradMode::is_enabled())
      return composed_gradients({q, k, v}, gradients[0],
                                [](const variable_list& x) { return composed(x[0], x[1], x[2]); });
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        with_rows(gradients[0]), q, k, v, saved[3], saved[4], 0.0, false);
    return {dq, dk, dv};
  }
};

/// The kernels of other devices have no derivative of their own backward pass either; which of them libtorch takes is its
/// matter, so that its own graph is kept.
struct Elsewhere : torch::autograd::Function<Elsewhere> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v) {
    const bool q_wanted = q.requires_grad(), k_wanted = k.requires_grad(), v_wanted = v.requires_grad();
    at::AutoGradMode recording(true);
    const Tensor q_ = q.detach().requires_grad_(q_wanted), k_ = k.detach().requires_grad_(k_wanted),
                 v_ = v.detach().requires_grad_(v_wanted);
    const Tensor out = at::scaled_dot_product_attention(q_, k_, v_);
    ctx->save_for_backward({q, k, v});
    ctx->saved_data["out"] = out;
    ctx->saved_data["inputs"] = std::vector<Tensor>{q_, k_, v_};
    return out.detach();
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    if (at::GradMode::is_enabled())
      return composed_gradients({saved[0], saved[1], saved[2]}, gradients[0],
                                [](const variable_list& x) { return composed(x[0], x[1], x[2]); });
    const std::vector<Tensor> inputs = ctx->saved_data["inputs"].toTensorVector();
    variable_list wanted;
    for (const auto& t : inputs)
      if (t.requires_grad()) wanted.push_back(t);
    const auto found = torch::autograd::grad({ctx->saved_data["out"].toTensor()}, wanted, {gradients[0]},
                                             /*retain_graph=*/true);
    variable_list all;
    size_t next = 0;
    for (const auto& t : inputs) all.push_back(t.requires_grad() ? found[next++] : Tensor());
    return all;
  }
};

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && v.sizes() == k.sizes() && q.size(0) == k.size(0) &&
                  q.size(1) == k.size(1) && q.size(3) == k.size(3),
              "attend: q ", q.sizes(), ", k ", k.sizes(), ", v ", v.sizes(),
              " are not [B, heads, L, D] with the same B, heads and D");
  const bool ours = plain(q) && plain(k) && plain(v) && q.scalar_type() == k.scalar_type() &&
                    q.scalar_type() == v.scalar_type() && q.numel() > 0 && k.numel() > 0;
  if (q.is_meta()) return composed(q, k, v);
  if (!ours)
    return recorded({q, k, v}) ? Elsewhere::apply(q, k, v) : at::scaled_dot_product_attention(q, k, v);
  const Tensor q_ = with_rows(q), k_ = with_rows(k), v_ = with_rows(v);
  if (q.size(3) <= WIDEST)
    return recorded({q, k, v}) ? Attend::apply(q_, k_, v_) : forward(q_, k_, v_).first;
  return recorded({q, k, v}) ? Blockwise::apply(q_, k_, v_) : at::scaled_dot_product_attention(q_, k_, v_);
}

} // namespace
} // namespace heldout::attention

extern "C" char* heldout_attend(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v, at::Tensor** out) {
  return heldout::guarded([&] { *out = new at::Tensor(heldout::attention::attend(*q, *k, *v)); });
}
