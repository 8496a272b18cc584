// Normalisation with what surrounds it, in as few passes as the dependencies allow: a group or row is read from the
// first-level or second-level cache after the first pass.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace heldout {
namespace {

/// `n` numbers, then zeros.
template <class T> INLINE V<T> load_some(const T* p, int64_t n) {
  V<T> v = {};
  __builtin_memcpy(&v, p, n * sizeof(T));
  return v;
}

template <class T> INLINE void store_some(T* p, V<T> v, int64_t n) { __builtin_memcpy(p, &v, n * sizeof(T)); }

template <class T> INLINE V<T> sigmoid(V<T> z) { return T(1) / (T(1) + exp(-z)); }

/// Runs `f(offset, count)` for whole vectors, and once more for the rest.
template <class T, class F> INLINE void vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + W<T> <= n; i += W<T>) f(i, W<T>);
  if (i < n) f(i, n - i);
}

template <class T> INLINE V<T> get(const T* p, int64_t n) { return n == W<T> ? load(p) : load_some(p, n); }

template <class T> INLINE void put(T* p, V<T> v, int64_t n) {
  if (n == W<T>)
    store(p, v);
  else
    store_some(p, v, n);
}

/// The sum of `n` numbers.
template <class T> INLINE double total(const T* x, int64_t n) {
  V<T> a = {}, b = {};
  int64_t i = 0;
  for (; i + 2 * W<T> <= n; i += 2 * W<T>) a += load(x + i), b += load(x + i + W<T>);
  a += b;
  vectors<T>(n - i, [&](int64_t at, int64_t m) __attribute__((always_inline)) { a += get(x + i + at, m); });
  double sum = 0;
  for (int64_t lane = 0; lane < W<T>; lane++) sum += a[lane];
  return sum;
}

/// The sum of their squared distances from `mean`.
template <class T> INLINE double spread(const T* x, int64_t n, T mean) {
  V<T> a = {}, b = {};
  int64_t i = 0;
  for (; i + 2 * W<T> <= n; i += 2 * W<T>) {
    const V<T> p = load(x + i) - mean, q = load(x + i + W<T>) - mean;
    a += p * p;
    b += q * q;
  }
  a += b;
  double sum = 0;
  for (int64_t lane = 0; lane < W<T>; lane++) sum += a[lane];
  for (; i < n; i++) sum += double(x[i] - mean) * double(x[i] - mean);
  return sum;
}

/// One group: `channels` rows of `places` numbers.
template <class T, bool silu>
INLINE void group_forward_of(GroupShape s, const T* x, const T* shift, const T* weight, const T* bias, T* y, T* mean,
                             T* rstd) {
  const double n = double(s.channels) * double(s.places);
  double sum = 0, squares = 0;
  for (int64_t c = 0; c < s.channels; c++)
    sum += total(x + c * s.places, s.places) + (shift ? double(shift[c]) * double(s.places) : 0);
  const double center = sum / n;
  for (int64_t c = 0; c < s.channels; c++)
    squares += spread(x + c * s.places, s.places, T(center - (shift ? double(shift[c]) : 0)));
  const double scale = 1 / __builtin_sqrt(squares / n + s.eps);
  *mean = T(center);
  *rstd = T(scale);
  for (int64_t c = 0; c < s.channels; c++) {
    const T a = T(scale) * weight[c], b = bias[c] + ((shift ? shift[c] : T(0)) - T(center)) * a;
    vectors<T>(s.places, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> z = get(x + c * s.places + i, m) * a + b;
      put(y + c * s.places + i, silu ? z * sigmoid<T>(z) : z, m);
    });
  }
}

template <class T, bool silu>
INLINE void group_backward_of(GroupShape s, const T* x, const T* shift, const T* weight, const T* bias, const T* dy,
                              T mean, T rstd, T* dx, T* dweight, T* dbias, T* dshift) {
  const double n = double(s.channels) * double(s.places);
  double along_ones = 0, along_x = 0; // projections of the gradient on what the norm takes out
  for (int64_t c = 0; c < s.channels; c++) {
    const T offset = (shift ? shift[c] : T(0)) - mean, a = rstd * weight[c], b = bias[c] + offset * a;
    V<T> ones = {}, products = {};
    vectors<T>(s.places, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> v = get(x + c * s.places + i, m);
      V<T> g = get(dy + c * s.places + i, m);
      if (silu) {
        const V<T> z = v * a + b, p = sigmoid<T>(z);
        g = g * p * (T(1) + z * (T(1) - p));
      }
      ones += g;
      products += g * (v + offset);
      put(dx + c * s.places + i, g, m);
    });
    dbias[c] = sum<T>(ones);
    dweight[c] = sum<T>(products) * rstd;
    along_ones += double(weight[c]) * double(dbias[c]);
    along_x += double(weight[c]) * double(dweight[c]);
  }
  const T slope = T(-along_x / n) * rstd * rstd, level = T(-along_ones / n) * rstd;
  for (int64_t c = 0; c < s.channels; c++) {
    const T offset = (shift ? shift[c] : T(0)) - mean, a = rstd * weight[c], b = level + offset * slope;
    V<T> all = {};
    vectors<T>(s.places, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> g = get(dx + c * s.places + i, m) * a + (get(x + c * s.places + i, m) * slope + b);
      if (m == W<T>)
        all += g;
      else
        for (int64_t lane = 0; lane < m; lane++) all[0] += g[lane];
      put(dx + c * s.places + i, g, m);
    });
    if (dshift) dshift[c] = sum<T>(all);
  }
}

template <class T>
void group_forward(GroupShape s, const T* x, const T* shift, const T* weight, const T* bias, T* y, T* mean, T* rstd) {
  if (s.silu)
    group_forward_of<T, true>(s, x, shift, weight, bias, y, mean, rstd);
  else
    group_forward_of<T, false>(s, x, shift, weight, bias, y, mean, rstd);
}

template <class T>
void group_backward(GroupShape s, const T* x, const T* shift, const T* weight, const T* bias, const T* dy, T mean,
                    T rstd, T* dx, T* dweight, T* dbias, T* dshift) {
  if (s.silu)
    group_backward_of<T, true>(s, x, shift, weight, bias, dy, mean, rstd, dx, dweight, dbias, dshift);
  else
    group_backward_of<T, false>(s, x, shift, weight, bias, dy, mean, rstd, dx, dweight, dbias, dshift);
}

/// `rows` rows of `width` numbers of one example, whose `shift` and `scale` they share.
template <class T>
void modulate_forward(int64_t rows, int64_t width, T eps, const T* x, const T* shift, const T* scale, T* y, T* mean,
                      T* rstd) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    const T center = T(total(x, width) / double(width));
    const T factor = T(1 / __builtin_sqrt(spread(x, width, center) / double(width) + double(eps)));
    mean[r] = center;
    rstd[r] = factor;
    vectors<T>(width, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> normed = (get(x + i, m) - center) * factor;
      put(y + i, normed * (T(1) + get(scale + i, m)) + get(shift + i, m), m);
    });
  }
}

/// Adds these rows' share to `dshift` and `dscale`.
template <class T>
void modulate_backward(int64_t rows, int64_t width, const T* x, const T* scale, const T* dy, const T* mean,
                       const T* rstd, T* dx, T* dshift, T* dscale) {
  for (int64_t r = 0; r < rows; r++, x += width, dy += width, dx += width) {
    const T center = mean[r], factor = rstd[r];
    V<T> ones = {}, products = {};
    vectors<T>(width, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> g = get(dy + i, m), normed = (get(x + i, m) - center) * factor;
      const V<T> inner = g * (T(1) + get(scale + i, m));
      ones += inner;
      products += inner * normed; // past the end `g` is 0
      put(dshift + i, get(dshift + i, m) + g, m);
      put(dscale + i, get(dscale + i, m) + g * normed, m);
    });
    const T level = sum<T>(ones) / T(width), slope = sum<T>(products) / T(width);
    vectors<T>(width, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> inner = get(dy + i, m) * (T(1) + get(scale + i, m));
      const V<T> normed = (get(x + i, m) - center) * factor;
      put(dx + i, (inner - level - normed * slope) * factor, m);
    });
  }
}

/// `y = x + gate * h`.
template <class T> void gated_forward(int64_t rows, int64_t width, const T* x, const T* gate, const T* h, T* y) {
  for (int64_t r = 0; r < rows; r++, x += width, h += width, y += width)
    vectors<T>(width, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      put(y + i, get(x + i, m) + get(gate + i, m) * get(h + i, m), m);
    });
}

/// Adds these rows' share to `dgate`.
template <class T>
void gated_backward(int64_t rows, int64_t width, const T* gate, const T* h, const T* dy, T* dh, T* dgate) {
  for (int64_t r = 0; r < rows; r++, dy += width, h += width, dh += width)
    vectors<T>(width, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
      const V<T> g = get(dy + i, m);
      put(dgate + i, get(dgate + i, m) + g * get(h + i, m), m);
      put(dh + i, g * get(gate + i, m), m);
    });
}

/// GELU by tanh, `x sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`; Hendrycks and Gimpel 2016.
template <class T> void gelu_forward(int64_t n, const T* x, T* y) {
  vectors<T>(n, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
    const V<T> v = get(x + i, m);
    put(y + i, v * sigmoid<T>(v * (T(1.5957691216057308) + T(0.07135481627159627) * v * v)), m);
  });
}

template <class T> void gelu_backward(int64_t n, const T* x, const T* dy, T* dx) {
  vectors<T>(n, [&](int64_t i, int64_t m) __attribute__((always_inline)) {
    const V<T> v = get(x + i, m), square = v * v;
    const V<T> p = sigmoid<T>(v * (T(1.5957691216057308) + T(0.07135481627159627) * square));
    const V<T> slope = v * (T(1.5957691216057308) + T(3 * 0.07135481627159627) * square);
    put(dx + i, get(dy + i, m) * p * (T(1) + slope * (T(1) - p)), m);
  });
}

} // namespace
} // namespace heldout
