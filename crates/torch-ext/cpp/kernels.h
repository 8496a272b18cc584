// What the kernels of each instruction set offer, as tables of functions on raw memory.
#pragma once

#include <cstdint>

namespace heldout {

/// Rows of one attention head: `rows[i * stride + d]` for `d < width`.
template <class T> struct Rows {
  T* data;
  int64_t stride;
};

struct HeadShape {
  int64_t queries, keys, width;
};

/// One group of a group norm: `channels` rows of `places` numbers; whether SiLU follows.
struct GroupShape {
  int64_t channels, places;
  double eps;
  bool silu;
};

/// Convolution of stride 1 with kernels of 3x3 and one zero around the image, channels in whole multiples of 16.
struct ConvShape {
  int64_t from, to, height, width;
};

template <class T> struct Kernels {
  /// Numbers of scratch memory that a head needs, forward or backward.
  int64_t (*attention_scratch)(HeadShape);
  /// `out = softmax(scale q k^T) v`; `lse` has the logarithm of each row's sum of exponentials.
  void (*attention_forward)(HeadShape, T scale, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> out, T* lse,
                            T* scratch);
  /// Gradients of the above from `out`, `lse` and the gradient `dy`.
  void (*attention_backward)(HeadShape, T scale, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<const T> out,
                             Rows<const T> dy, const T* lse, Rows<T> dq, Rows<T> dk, Rows<T> dv, T* scratch);
  /// Norm of `x + shift` for one group; `shift`, by channel, may be null.
  void (*group_forward)(GroupShape, const T* x, const T* shift, const T* weight, const T* bias, T* y, T* mean, T* rstd);
  void (*group_backward)(GroupShape, const T* x, const T* shift, const T* weight, const T* bias, const T* dy, T mean,
                         T rstd, T* dx, T* dweight, T* dbias, T* dshift);
  void (*modulate_forward)(int64_t rows, int64_t width, T eps, const T* x, const T* shift, const T* scale, T* y,
                           T* mean, T* rstd);
  void (*modulate_backward)(int64_t rows, int64_t width, const T* x, const T* scale, const T* dy, const T* mean,
                            const T* rstd, T* dx, T* dshift, T* dscale);
  void (*gated_forward)(int64_t rows, int64_t width, const T* x, const T* gate, const T* h, T* y);
  void (*gated_backward)(int64_t rows, int64_t width, const T* gate, const T* h, const T* dy, T* dh, T* dgate);
  void (*gelu_forward)(int64_t n, const T* x, T* y);
  void (*gelu_backward)(int64_t n, const T* x, const T* dy, T* dx);
};

/// The stages of a convolution; see kernel_conv.h.
struct ConvKernels {
  /// Channels out come in whole multiples of this, channels in of 16.
  int64_t (*panel)();
  int64_t (*scratch)(ConvShape);
  void (*weights)(int64_t from, const float* w, int64_t to_step, int64_t from_step, bool flip, int64_t begin,
                  int64_t end, float* u);
  void (*forward)(ConvShape, const float* x, const float* u, const float* bias, float* y, int64_t begin, int64_t end,
                  float* scratch);
  void (*transform)(ConvShape, const float* x, const float* dy, int64_t first, int64_t begin, int64_t end,
                    int64_t tiles, float* v, float* m, float* strip);
  void (*products)(ConvShape, const float* v, const float* m, int64_t tiles, int64_t used, int64_t begin, int64_t end,
                   float* du);
  void (*weight_gradient)(ConvShape, const float* du, int64_t begin, int64_t end, float* dw);
};

const ConvKernels& conv_kernels();
const Kernels<float>& kernels_f32();
const Kernels<double>& kernels_f64();

template <class T> const Kernels<T>& kernels();
template <> inline const Kernels<float>& kernels() { return kernels_f32(); }
template <> inline const Kernels<double>& kernels() { return kernels_f64(); }

} // namespace heldout
