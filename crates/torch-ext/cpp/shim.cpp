// What of libtorch tch lacks: fused optimisers, lists of tensors in one call, the meta device.
#include "shim.h"

#include <cstdlib>
#include <cstring>

namespace heldout {

char* message(const char* text) {
  const size_t size = std::strlen(text) + 1;
  char* copy = static_cast<char*>(std::malloc(size));
  if (copy) std::memcpy(copy, text, size);
  return copy;
}

#define TABLES(clone)                            \
  extern const Kernels<float>* const f32_##clone;  \
  extern const Kernels<double>* const f64_##clone; \
  extern const ConvKernels* const conv_##clone;
TABLES(base)
#ifdef HELDOUT_X86
TABLES(avx2)
TABLES(avx512)

static int level() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx2 && avx512 ? 2 : avx2 ? 1 : 0;
}

const Kernels<float>& kernels_f32() {
  static const Kernels<float>* const table[] = {f32_base, f32_avx2, f32_avx512};
  static const int chosen = level();
  return *table[chosen];
}

const Kernels<double>& kernels_f64() {
  static const Kernels<double>* const table[] = {f64_base, f64_avx2, f64_avx512};
  static const int chosen = level();
  return *table[chosen];
}

const ConvKernels& conv_kernels() {
  static const ConvKernels* const table[] = {conv_base, conv_avx2, conv_avx512};
  static const int chosen = level();
  return *table[chosen];
}
#else
const ConvKernels& conv_kernels() { return *conv_base; }
const Kernels<float>& kernels_f32() { return *f32_base; }
const Kernels<double>& kernels_f64() { return *f64_base; }
#endif

static std::vector<Tensor> list(Tensor* const* pointers, size_t n) {
  std::vector<Tensor> tensors;
  tensors.reserve(n);
  for (size_t i = 0; i < n; i++) tensors.push_back(*pointers[i]);
  return tensors;
}

} // namespace heldout

using namespace heldout;

extern "C" {

void heldout_free(char* text) { std::free(text); }

char* heldout_adam(size_t n, Tensor* const* params, Tensor* const* grads, Tensor* const* first, Tensor* const* second,
                   double step, double rate, double beta1, double beta2, double eps, double weight_decay,
                   int decoupled) {
  return guarded([&] {
    at::NoGradGuard off;
    const auto p = list(params, n), g = list(grads, n), m = list(first, n), v = list(second, n);
    if (n == 0) return;
    // The kernels take a count for each parameter; they only read it.
    const Tensor count = at::full({}, step, p[0].options().dtype(at::kFloat).requires_grad(false));
    const std::vector<Tensor> counts(n, count);
    if (decoupled)
      at::_fused_adamw_(p, g, m, v, {}, counts, rate, beta1, beta2, weight_decay, eps, false, false);
    else
      at::_fused_adam_(p, g, m, v, {}, counts, rate, beta1, beta2, weight_decay, eps, false, false);
  });
}

char* heldout_norm(size_t n, Tensor* const* tensors, Tensor** out) {
  return guarded([&] {
    at::NoGradGuard off;
    *out = new Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(list(tensors, n))), 2));
  });
}

char* heldout_scale(size_t n, Tensor* const* tensors, Tensor* factor) {
  return guarded([&] {
    at::NoGradGuard off;
    if (n > 0) at::_foreach_mul_(list(tensors, n), *factor);
  });
}

char* heldout_forget_grads(size_t n, Tensor* const* tensors) {
  return guarded([&] {
    for (size_t i = 0; i < n; i++) tensors[i]->mutable_grad() = Tensor();
  });
}

char* heldout_lerp(size_t n, Tensor* const* tensors, Tensor* const* ends, double weight) {
  return guarded([&] {
    at::NoGradGuard off;
    if (n > 0) at::_foreach_lerp_(list(tensors, n), list(ends, n), weight);
  });
}

char* heldout_add(size_t n, Tensor* const* tensors, Tensor* const* others, double factor) {
  return guarded([&] {
    at::NoGradGuard off;
    if (n > 0) at::_foreach_add_(list(tensors, n), list(others, n), factor);
  });
}

char* heldout_set_grads(size_t n, Tensor* const* tensors, Tensor* const* grads) {
  return guarded([&] {
    for (size_t i = 0; i < n; i++) tensors[i]->mutable_grad() = *grads[i];
  });
}

char* heldout_meta(const int64_t* sizes, size_t dims, const Tensor* like, Tensor** out) {
  return guarded([&] {
    *out = new Tensor(at::empty(at::IntArrayRef(sizes, dims), like->options().device(at::kMeta)));
  });
}

int heldout_is_meta(const Tensor* t) { return t->is_meta(); }

} // extern "C"
