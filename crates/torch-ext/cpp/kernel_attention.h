// softmax(q k^T) v for one head of small width, without the matrix of scores. Included once for each instruction set.
//
// Forward, a vector's lanes are queries, so that the softmax runs along no lane. Backward, they are keys, so that the
// gradients of keys and values stay in registers; the scores are computed again from the logarithm of each row's sum.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace heldout {
namespace {

constexpr int64_t KEY_BLOCK = 256;  // its scores for the lanes' queries lie in the first-level cache
constexpr int64_t QUERY_BLOCK = 64; // likewise, of two matrices

template <class T> INLINE int64_t lanes() { return 2 * W<T>; }

template <class T> INLINE int64_t padded(int64_t width) { return (width + W<T> - 1) / W<T> * W<T>; }

/// `to[i][d] = factor * from[i][d]`, with rows of `stride` numbers.
template <class T> INLINE void pack(Rows<const T> from, int64_t n, int64_t width, T factor, T* to, int64_t stride) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < width; d++) to[i * stride + d] = factor * from.data[i * from.stride + d];
}

/// `to[d][lane] = factor * from[lane][d]`, zero in the lanes from `n` on.
template <class T> INLINE void pack_lanes(Rows<const T> from, int64_t n, int64_t width, T factor, T* to) {
  const int64_t L = lanes<T>();
  for (int64_t i = 0; i < L; i++)
    for (int64_t d = 0; d < width; d++) to[d * L + i] = i < n ? factor * from.data[i * from.stride + d] : T(0);
}

/// `c[i] = sum over d of a[i][d] * b[d]`, for `N` rows of scalars against two vectors.
template <class T, int N> INLINE void scores(const T* a, const T* b, int64_t width, V<T> (&c)[N][2]) {
  for (int i = 0; i < N; i++) c[i][0] = c[i][1] = V<T>{};
  for (int64_t d = 0; d < width; d++) {
    const V<T> b0 = load(b + d * lanes<T>()), b1 = load(b + d * lanes<T>() + W<T>);
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      const T x = a[i * width + d];
      c[i][0] += b0 * x;
      c[i][1] += b1 * x;
    }
  }
}

/// `c[d] += sum over i of a[i][d] * b[i]`, for `N` columns of scalars against two vectors.
template <class T, int N> INLINE void gather(const T* a, int64_t width, const T* b, int64_t n, T* c) {
  const int64_t L = lanes<T>();
  V<T> total[N][2];
#pragma GCC unroll 8
  for (int d = 0; d < N; d++) total[d][0] = load(c + d * L), total[d][1] = load(c + d * L + W<T>);
  for (int64_t i = 0; i < n; i++) {
    const V<T> b0 = load(b + i * L), b1 = load(b + i * L + W<T>);
#pragma GCC unroll 8
    for (int d = 0; d < N; d++) {
      const T x = a[i * width + d];
      total[d][0] += b0 * x;
      total[d][1] += b1 * x;
    }
  }
#pragma GCC unroll 8
  for (int d = 0; d < N; d++) store(c + d * L, total[d][0]), store(c + d * L + W<T>, total[d][1]);
}

template <class T> INLINE void gather_all(const T* a, int64_t width, const T* b, int64_t n, T* c) {
  int64_t d = 0;
  for (; d + 4 <= width; d += 4) gather<T, 4>(a + d, width, b, n, c + d * lanes<T>());
  for (; d < width; d++) gather<T, 1>(a + d, width, b, n, c + d * lanes<T>());
}

template <class T> int64_t attention_scratch(HeadShape s) {
  const int64_t L = lanes<T>(), row = padded<T>(s.width);
  const int64_t forward = 2 * s.keys * s.width + 2 * s.width * L + KEY_BLOCK * L;
  const int64_t backward =
      s.queries * (2 * s.width + row + 1) + 4 * s.width * L + L * row + 2 * QUERY_BLOCK * L;
  return (forward > backward ? forward : backward) + 64;
}

/// Scores of `N` keys against the lanes' queries; raises `most` to their maximum.
template <class T, int N>
INLINE void score_keys(const T* k, const T* qt, int64_t width, T* s, V<T> (&most)[2]) {
  V<T> c[N][2];
  scores<T, N>(k, qt, width, c);
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) {
    for (int h = 0; h < 2; h++) {
      store(s + i * lanes<T>() + h * W<T>, c[i][h]);
      most[h] = larger<T>(c[i][h], most[h]);
    }
  }
}

template <class T>
void attention_forward(HeadShape shape, T scale, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> out, T* lse,
                       T* scratch) {
  const int64_t L = lanes<T>(), width = shape.width;
  T* kp = scratch;
  T* vp = kp + shape.keys * width;
  T* qt = vp + shape.keys * width;
  T* out_t = qt + width * L;
  T* s = out_t + width * L;
  pack(k, shape.keys, width, T(1), kp, width);
  pack(v, shape.keys, width, T(1), vp, width);
  for (int64_t q0 = 0; q0 < shape.queries; q0 += L) {
    const int64_t n = shape.queries - q0 < L ? shape.queries - q0 : L;
    pack_lanes<T>({q.data + q0 * q.stride, q.stride}, n, width, scale, qt);
    for (int64_t i = 0; i < width * L; i++) out_t[i] = 0;
    V<T> most[2] = {fill(-T(__builtin_inf())), fill(-T(__builtin_inf()))}, total[2] = {};
    for (int64_t k0 = 0; k0 < shape.keys; k0 += KEY_BLOCK) {
      const int64_t m = shape.keys - k0 < KEY_BLOCK ? shape.keys - k0 : KEY_BLOCK;
      const V<T> before[2] = {most[0], most[1]};
      int64_t j = 0;
      for (; j + 4 <= m; j += 4) score_keys<T, 4>(kp + (k0 + j) * width, qt, width, s + j * L, most);
      for (; j < m; j++) score_keys<T, 1>(kp + (k0 + j) * width, qt, width, s + j * L, most);
      for (int h = 0; k0 > 0 && h < 2; h++) {
        const V<T> shrink = exp(before[h] - most[h]);
        total[h] *= shrink;
        for (int64_t d = 0; d < width; d++) store(out_t + d * L + h * W<T>, load(out_t + d * L + h * W<T>) * shrink);
      }
      for (j = 0; j < m; j++) {
        for (int h = 0; h < 2; h++) {
          const V<T> p = exp(load(s + j * L + h * W<T>) - most[h]);
          total[h] += p;
          store(s + j * L + h * W<T>, p);
        }
      }
      gather_all(vp + k0 * width, width, s, m, out_t);
    }
    for (int64_t i = 0; i < n; i++) {
      const T sum = total[i / W<T>][i % W<T>];
      lse[q0 + i] = most[i / W<T>][i % W<T>] + T(__builtin_log(sum));
      for (int64_t d = 0; d < width; d++) out.data[(q0 + i) * out.stride + d] = out_t[d * L + i] / sum;
    }
  }
}

/// For `N` queries against the lanes' keys: the probabilities `p` and the gradient of the scores, `ds`.
template <class T, int N>
INLINE void score_gradients(const T* q, const T* dy, const T* kt, const T* vt, const T* lse, const T* delta,
                            int64_t width, T* p, T* ds) {
  V<T> c[N][2];
  scores<T, N>(q, kt, width, c);
#pragma GCC unroll 8
  for (int i = 0; i < N; i++)
    for (int h = 0; h < 2; h++) store(p + i * lanes<T>() + h * W<T>, exp(c[i][h] - lse[i]));
  scores<T, N>(dy, vt, width, c);
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) {
    for (int h = 0; h < 2; h++) {
      const int64_t at = i * lanes<T>() + h * W<T>;
      store(ds + at, load(p + at) * (c[i][h] - delta[i]));
    }
  }
}

/// `dq[i] += sum over the keys of ds[i][key] * k[key]`, for `N` queries and one vector of the width.
template <class T, int N> INLINE void add_dq(const T* ds, const T* k, int64_t keys, int64_t row, T* dq) {
  V<T> total[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) total[i] = load(dq + i * row);
  for (int64_t j = 0; j < keys; j++) {
    const V<T> x = load(k + j * row);
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) total[i] += x * ds[i * lanes<T>() + j];
  }
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) store(dq + i * row, total[i]);
}

template <class T>
void attention_backward(HeadShape shape, T scale, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<const T> out,
                        Rows<const T> dy, const T* lse, Rows<T> dq, Rows<T> dk, Rows<T> dv, T* scratch) {
  const int64_t L = lanes<T>(), width = shape.width, row = padded<T>(width), queries = shape.queries;
  T* qp = scratch; // scaled
  T* dop = qp + queries * width;
  T* delta = dop + queries * width;
  T* dqp = delta + queries;
  T* kt = dqp + queries * row;
  T* vt = kt + width * L;
  T* dkt = vt + width * L;
  T* dvt = dkt + width * L;
  T* kp = dvt + width * L;
  T* p = kp + L * row;
  T* ds = p + QUERY_BLOCK * L;
  pack(q, queries, width, scale, qp, width);
  pack(dy, queries, width, T(1), dop, width);
  for (int64_t i = 0; i < queries; i++) {
    T total = 0;
    for (int64_t d = 0; d < width; d++) total += dop[i * width + d] * out.data[i * out.stride + d];
    delta[i] = total;
  }
  for (int64_t i = 0; i < queries * row; i++) dqp[i] = 0;
  for (int64_t i = 0; i < L * row; i++) kp[i] = 0;
  for (int64_t k0 = 0; k0 < shape.keys; k0 += L) {
    const int64_t n = shape.keys - k0 < L ? shape.keys - k0 : L;
    const Rows<const T> keys = {k.data + k0 * k.stride, k.stride};
    pack_lanes<T>(keys, n, width, T(1), kt);
    pack_lanes<T>({v.data + k0 * v.stride, v.stride}, n, width, T(1), vt);
    pack(keys, n, width, T(1), kp, row);
    for (int64_t i = 0; i < 2 * width * L; i++) dkt[i] = 0;
    for (int64_t q0 = 0; q0 < queries; q0 += QUERY_BLOCK) {
      const int64_t m = queries - q0 < QUERY_BLOCK ? queries - q0 : QUERY_BLOCK;
      int64_t i = 0;
      for (; i + 4 <= m; i += 4)
        score_gradients<T, 4>(qp + (q0 + i) * width, dop + (q0 + i) * width, kt, vt, lse + q0 + i, delta + q0 + i, width,
                              p + i * L, ds + i * L);
      for (; i < m; i++)
        score_gradients<T, 1>(qp + (q0 + i) * width, dop + (q0 + i) * width, kt, vt, lse + q0 + i, delta + q0 + i, width,
                              p + i * L, ds + i * L);
      gather_all(dop + q0 * width, width, p, m, dvt);
      gather_all(qp + q0 * width, width, ds, m, dkt);
      for (int64_t d = 0; d < row; d += W<T>) {
        for (i = 0; i + 8 <= m; i += 8) add_dq<T, 8>(ds + i * L, kp + d, n, row, dqp + (q0 + i) * row + d);
        for (; i < m; i++) add_dq<T, 1>(ds + i * L, kp + d, n, row, dqp + (q0 + i) * row + d);
      }
    }
    for (int64_t i = 0; i < n; i++) {
      for (int64_t d = 0; d < width; d++) {
        dk.data[(k0 + i) * dk.stride + d] = dkt[d * L + i];
        dv.data[(k0 + i) * dv.stride + d] = dvt[d * L + i];
      }
    }
  }
  for (int64_t i = 0; i < queries; i++)
    for (int64_t d = 0; d < width; d++) dq.data[i * dq.stride + d] = scale * dqp[i * row + d];
}

} // namespace
} // namespace heldout
