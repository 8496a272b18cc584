// Vectors of the widest kind that this translation unit is compiled for, by the vector extension that gcc and clang
// share. Everything here is inlined and internal: a function that the linker could share between the clones would run
// wide instructions on a narrow machine. For the same reason no header of the standard library with code is included.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define INLINE static inline __attribute__((always_inline))

namespace heldout {
namespace {

template <class T> struct Types;
template <> struct Types<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Int;
};
template <> struct Types<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Int;
};
template <class T> using V = typename Types<T>::V;
template <class T> constexpr int64_t W = VECTOR_BYTES / sizeof(T);

template <class T> INLINE V<T> load(const T* p) {
  V<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T> INLINE void store(T* p, V<T> v) { __builtin_memcpy(p, &v, sizeof v); }

template <class T> INLINE V<T> fill(T x) { return V<T>{} + x; }

template <int... J> struct Lanes {};
template <int N, int... J> struct AllLanes : AllLanes<N - 1, N - 1, J...> {};
template <int... J> struct AllLanes<0, J...> {
  typedef Lanes<J...> Type;
};

/// The larger; the second where the first is not a number.
template <class T> INLINE V<T> larger(V<T> a, V<T> b) { return a > b ? a : b; }

template <class T> INLINE T sum(V<T> v) {
  T total = 0;
  for (int64_t i = 0; i < W<T>; i++) total += v[i];
  return total;
}

/// `block[i]` becomes column `i` of what it was: pairs of vectors trade halves, quarters, and so on.
template <int S, class X, int... J> INLINE void trade(X& a, X& b, Lanes<J...>) {
  constexpr int n = sizeof...(J);
  const X low = __builtin_shufflevector(a, b, (J & S ? n + J - S : J)...);
  b = __builtin_shufflevector(a, b, (J & S ? n + J : J + S)...);
  a = low;
}

template <int S, class X, class L, int N> INLINE void transpose_step(X (&block)[N], L lanes) {
#pragma GCC unroll 16
  for (int i = 0; i < N; i++)
    if (!(i & S)) trade<S>(block[i], block[i + S], lanes);
  if constexpr (2 * S < N) transpose_step<2 * S>(block, lanes);
}

INLINE void transpose(V<float> (&block)[W<float>]) { transpose_step<1>(block, typename AllLanes<W<float>>::Type{}); }

/// The exponential: 2^n times a Taylor polynomial of the remainder, exact to about one unit in the last place; 0 where
/// the result would be denormal, the largest power of e where it would be infinite, and NaN for NaN.
INLINE V<float> exp(V<float> x) {
  typedef Types<float>::I I;
  const float lowest = -87.33654f, highest = 88.37626f, magic = 12582912.0f; // 1.5 * 2^23: rounds to whole numbers
  V<float> c = x < fill(lowest) ? fill(lowest) : x;
  c = c > fill(highest) ? fill(highest) : c;
  V<float> shifted = c * 1.44269504f + magic, n = shifted - magic;
  V<float> r = c - n * 0.693359375f + n * 2.12194440e-4f;
  V<float> p = fill(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  I power = ((I)shifted - 0x4B400000 + 127) << 23;
  return x < fill(lowest) ? fill(0.0f) : p * (V<float>)power;
}

INLINE V<double> exp(V<double> x) {
  typedef Types<double>::I I;
  const double lowest = -708.3964, highest = 709.0895, magic = 6755399441055744.0; // 1.5 * 2^52
  V<double> c = x < fill(lowest) ? fill(lowest) : x;
  c = c > fill(highest) ? fill(highest) : c;
  V<double> shifted = c * 1.4426950408889634 + magic, n = shifted - magic;
  V<double> r = c - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10;
  V<double> p = fill(1.0);
  for (int k = 13; k >= 1; k--) p = p * (r * (1.0 / k)) + 1.0;
  I power = ((I)shifted - 0x4338000000000000 + 1023) << 52;
  return x < fill(lowest) ? fill(0.0) : p * (V<double>)power;
}

} // namespace
} // namespace heldout
