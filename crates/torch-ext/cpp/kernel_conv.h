// Convolution with 3x3 kernels by Winograd's minimal filtering, F(4x4, 3x3): 36 products for 16 outputs instead of 144.
// Lavin and Gray 2016; the interpolation points 0, 3/4, -3/4, 3/2, -3/2 and infinity keep the error of f32 within about
// twice that of the direct sum, where the usual 0, 1, -1, 2, -2 lose a further factor of two.
//
// A vector's lanes are channels. Strips of the image are turned to channels last, transformed to 36 matrices
// `[tiles, channels]`, multiplied, and transformed back.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace heldout {
namespace {

typedef V<float> F;
constexpr int64_t LANES = W<float>;
constexpr int64_t PANEL = 2 * LANES; // columns that a product computes at once
constexpr int64_t GROUP = 16;        // channels in, in a transformed strip for the weights' gradient
constexpr int64_t STEP = 6;          // rows that a product computes at once
constexpr int64_t SKEW = 16;         // keeps matrices off each other's cache sets
constexpr int64_t TILES = 48;        // in a block: its matrices lie in the second-level cache

INLINE int64_t tiles_of(int64_t side) { return (side + 3) / 4; }

/// `B^T d`, for six values `stride` apart.
INLINE void input_points(const F (&d)[6], F (&x)[6]) {
  const F e1 = d[2] * 2.25f - d[4], o1 = d[1] * 1.6875f - d[3] * 0.75f;
  const F e2 = d[4] - d[2] * 0.5625f, o2 = d[3] * 1.5f - d[1] * 0.84375f;
  x[0] = d[0] * 1.265625f - d[2] * 2.8125f + d[4];
  x[1] = e1 + o1;
  x[2] = e1 - o1;
  x[3] = e2 + o2;
  x[4] = e2 - o2;
  x[5] = d[1] * 1.265625f - d[3] * 2.8125f + d[5];
}

/// `A^T m`.
INLINE void output_points(const F (&m)[6], F (&y)[4]) {
  const F s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
  y[0] = m[0] + s1 + s2;
  y[1] = d1 * 0.75f + d2 * 1.5f;
  y[2] = s1 * 0.5625f + s2 * 2.25f;
  y[3] = d1 * 0.421875f + d2 * 3.375f + m[5];
}

/// `A y`.
INLINE void output_gradient_points(const F (&y)[4], F (&m)[6]) {
  const F e1 = y[0] + y[2] * 0.5625f, o1 = y[1] * 0.75f + y[3] * 0.421875f;
  const F e2 = y[0] + y[2] * 2.25f, o2 = y[1] * 1.5f + y[3] * 3.375f;
  m[0] = y[0];
  m[1] = e1 + o1;
  m[2] = e1 - o1;
  m[3] = e2 + o2;
  m[4] = e2 - o2;
  m[5] = y[3];
}

/// `G g`.
INLINE void weight_points(const F (&g)[3], F (&u)[6]) {
  const F e1 = g[0] * (128.0f / 243) + g[2] * (8.0f / 27), o1 = g[1] * (32.0f / 81);
  const F e2 = g[0] * (32.0f / 243) + g[2] * (8.0f / 27), o2 = g[1] * (16.0f / 81);
  u[0] = g[0] * (64.0f / 81);
  u[1] = e1 + o1;
  u[2] = e1 - o1;
  u[3] = e2 + o2;
  u[4] = e2 - o2;
  u[5] = g[2];
}

/// `G^T u`.
INLINE void weight_gradient_points(const F (&u)[6], F (&g)[3]) {
  const F s1 = u[1] + u[2], d1 = u[1] - u[2], s2 = u[3] + u[4], d2 = u[3] - u[4];
  g[0] = u[0] * (64.0f / 81) + s1 * (128.0f / 243) + s2 * (32.0f / 243);
  g[1] = d1 * (32.0f / 81) + d2 * (16.0f / 81);
  g[2] = (s1 + s2) * (8.0f / 27) + u[5];
}

/// A transform of both dimensions of an `N x N` tile to `M x M`.
template <int N, int M, class P> INLINE void both(F (&tile)[N][N], F (&out)[M][M], P points) {
  F half[N][M];
#pragma GCC unroll 6
  for (int i = 0; i < N; i++) points(tile[i], half[i]);
#pragma GCC unroll 6
  for (int j = 0; j < M; j++) {
    F column[N], done[M];
#pragma GCC unroll 6
    for (int i = 0; i < N; i++) column[i] = half[i][j];
    points(column, done);
#pragma GCC unroll 6
    for (int i = 0; i < M; i++) out[i][j] = done[i];
  }
}

/// `strip[row][1 + x][c] = image[c][top + row][x]`, with zeros around the image.
INLINE void fill_strip(const float* image, int64_t channels, int64_t height, int64_t width, int64_t top, int64_t rows,
                       int64_t columns, int64_t left, float* strip) {
  const int64_t stride = channels + SKEW, plane = height * width;
  for (int64_t i = 0; i < rows; i++, strip += columns * stride) {
    const int64_t y = top + i;
    if (y < 0 || y >= height) {
      __builtin_memset(strip, 0, columns * stride * sizeof(float));
      continue;
    }
    if (left) __builtin_memset(strip, 0, stride * sizeof(float));
    if (columns > left + width)
      __builtin_memset(strip + (left + width) * stride, 0, (columns - left - width) * stride * sizeof(float));
    for (int64_t c = 0; c < channels; c += LANES) {
      const float* from = image + c * plane + y * width;
      float* to = strip + left * stride + c;
      int64_t x = 0;
      for (; x + LANES <= width; x += LANES) {
        F block[LANES];
        for (int64_t k = 0; k < LANES; k++) block[k] = load(from + k * plane + x);
        transpose(block);
        for (int64_t k = 0; k < LANES; k++) store(to + (x + k) * stride, block[k]);
      }
      for (; x < width; x++)
        for (int64_t k = 0; k < LANES; k++) to[x * stride + k] = from[k * plane + x];
    }
  }
}

/// `image[c][top + row][x] = strip[row][x][c]`, inside the image.
INLINE void empty_strip(const float* strip, int64_t channels, int64_t height, int64_t width, int64_t top,
                        int64_t columns, float* image) {
  const int64_t stride = channels + SKEW, plane = height * width;
  for (int64_t i = 0; i < 4 && top + i < height; i++, strip += columns * stride) {
    for (int64_t c = 0; c < channels; c += LANES) {
      const float* from = strip + c;
      float* to = image + c * plane + (top + i) * width;
      int64_t x = 0;
      for (; x + LANES <= width; x += LANES) {
        F block[LANES];
        for (int64_t k = 0; k < LANES; k++) block[k] = load(from + (x + k) * stride);
        transpose(block);
        for (int64_t k = 0; k < LANES; k++) store(to + k * plane + x, block[k]);
      }
      for (; x < width; x++)
        for (int64_t k = 0; k < LANES; k++) to[k * plane + x] = from[x * stride + k];
    }
  }
}

/// The tile at column `x` of a strip, `N x N`, for one vector of channels.
template <int N> INLINE void tile_at(const float* strip, int64_t columns, int64_t stride, F (&tile)[N][N]) {
#pragma GCC unroll 6
  for (int i = 0; i < N; i++)
#pragma GCC unroll 6
    for (int j = 0; j < N; j++) tile[i][j] = load(strip + (i * columns + j) * stride);
}

/// `c[i][..PANEL] = sum over k of a[i][k] * b[k][..PANEL]` for `N` rows, plus what is there if `add`.
template <int N, bool add>
INLINE void product(int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, float* c,
                    int64_t c_row) {
  F total[N][2];
#pragma GCC unroll 6
  for (int i = 0; i < N; i++) {
    total[i][0] = add ? load(c + i * c_row) : F{};
    total[i][1] = add ? load(c + i * c_row + LANES) : F{};
  }
  for (int64_t k = 0; k < depth; k++) {
    const F b0 = load(b + k * PANEL), b1 = load(b + k * PANEL + LANES);
#pragma GCC unroll 6
    for (int i = 0; i < N; i++) {
      const float x = a[i * a_row + k * a_step];
      total[i][0] += b0 * x;
      total[i][1] += b1 * x;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < N; i++) store(c + i * c_row, total[i][0]), store(c + i * c_row + LANES, total[i][1]);
}

INLINE int64_t block_rows(ConvShape s) {
  const int64_t across = tiles_of(s.width);
  return across >= TILES ? 1 : TILES / across;
}

INLINE int64_t block_tiles(ConvShape s) {
  return (block_rows(s) * tiles_of(s.width) + STEP - 1) / STEP * STEP;
}

int64_t conv_panel() { return PANEL; }

int64_t conv_scratch(ConvShape s) {
  const int64_t columns = 4 * tiles_of(s.width) + 2, widest = s.from > s.to ? s.from : s.to;
  return 36 * (block_tiles(s) * (s.from + s.to) + 2 * SKEW) + 2 * 6 * columns * (widest + SKEW) + 64;
}

/// The transformed weights of the panels `begin..end`, `[panel][36][from][PANEL]`. `to_step` and `from_step` are the
/// strides of `w`; `flip` turns the kernels round, for the gradient of the input.
void conv_weights(int64_t from, const float* w, int64_t to_step, int64_t from_step, bool flip, int64_t begin,
                  int64_t end, float* u) {
  for (int64_t p = begin; p < end; p++) {
    for (int64_t k = 0; k < from; k++) {
      for (int64_t h = 0; h < 2; h++) {
        const float* at = w + (p * PANEL + h * LANES) * to_step + k * from_step;
        F g[3][3], out[6][6];
        for (int tap = 0; tap < 9; tap++) {
          F& lanes = g[tap / 3][tap % 3];
          for (int64_t i = 0; i < LANES; i++) lanes[i] = at[i * to_step + (flip ? 8 - tap : tap)];
        }
        both<3, 6>(g, out, [](const F(&x)[3], F(&y)[6]) __attribute__((always_inline)) { weight_points(x, y); });
        float* place = u + (p * 36 * from + k) * PANEL + h * LANES;
        for (int xi = 0; xi < 36; xi++) store(place + xi * from * PANEL, out[xi / 6][xi % 6]);
      }
    }
  }
}

/// Rows of tiles `begin..end` of a batch, counted through all images; `u` has all panels; `bias` may be null.
void conv_forward(ConvShape s, const float* x, const float* u, const float* bias, float* y, int64_t begin, int64_t end,
                  float* scratch) {
  const int64_t across = tiles_of(s.width), down = tiles_of(s.height), columns = 4 * across + 2;
  const int64_t tiles = block_tiles(s), v_size = tiles * s.from + SKEW, m_size = tiles * s.to + SKEW;
  float* v = scratch;
  float* m = v + 36 * v_size;
  float* strip = m + 36 * m_size;
  const int64_t from_stride = s.from + SKEW, to_stride = s.to + SKEW;
  for (int64_t row = begin; row < end; row += block_rows(s)) {
    const int64_t rows = end - row < block_rows(s) ? end - row : block_rows(s);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t n = (row + r) / down, top = (row + r) % down * 4;
      fill_strip(x + n * s.from * s.height * s.width, s.from, s.height, s.width, top - 1, 6, columns, 1, strip);
      for (int64_t t = 0; t < across; t++) {
        for (int64_t c = 0; c < s.from; c += LANES) {
          F d[6][6], out[6][6];
          tile_at<6>(strip + 4 * t * from_stride + c, columns, from_stride, d);
          both<6, 6>(d, out, [](const F(&a)[6], F(&b)[6]) __attribute__((always_inline)) { input_points(a, b); });
          float* place = v + (r * across + t) * s.from + c;
#pragma GCC unroll 36
          for (int xi = 0; xi < 36; xi++) store(place + xi * v_size, out[xi / 6][xi % 6]);
        }
      }
    }
    const int64_t used = rows * across;
    for (int xi = 0; xi < 36; xi++) {
      for (int64_t p = 0; p < s.to / PANEL; p++) {
        const float* b = u + (p * 36 + xi) * s.from * PANEL;
        // Rows past the last tile are of no block: what they hold is computed and left.
        for (int64_t t = 0; t < used; t += STEP)
          product<STEP, false>(s.from, v + xi * v_size + t * s.from, s.from, 1, b,
                               m + xi * m_size + t * s.to + p * PANEL, s.to);
      }
    }
    for (int64_t r = 0; r < rows; r++) {
      const int64_t n = (row + r) / down, top = (row + r) % down * 4;
      for (int64_t t = 0; t < across; t++) {
        for (int64_t c = 0; c < s.to; c += LANES) {
          const float* place = m + (r * across + t) * s.to + c;
          const F b = bias ? load(bias + c) : F{};
          F half[6][4];
#pragma GCC unroll 6
          for (int i = 0; i < 6; i++) {
            F line[6];
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) line[j] = load(place + (i * 6 + j) * m_size);
            output_points(line, half[i]);
          }
#pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            F column[6], out[4];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) column[i] = half[i][j];
            output_points(column, out);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) store(strip + (i * 4 * across + 4 * t + j) * to_stride + c, out[i] + b);
          }
        }
      }
      empty_strip(strip, s.to, s.height, s.width, top, 4 * across, y + n * s.to * s.height * s.width);
    }
  }
}

/// For the weights' gradient: rows of tiles `begin..end` of a chunk that starts at row `first`, transformed to
/// `v` `[36][from / GROUP][tiles][GROUP]` and `m` `[36][to / PANEL][tiles][PANEL]`.
void conv_transform(ConvShape s, const float* x, const float* dy, int64_t first, int64_t begin, int64_t end,
                    int64_t tiles, float* v, float* m, float* strip) {
  const int64_t across = tiles_of(s.width), down = tiles_of(s.height), columns = 4 * across + 2;
  const int64_t from_stride = s.from + SKEW, to_stride = s.to + SKEW;
  const int64_t v_size = tiles * s.from + SKEW, m_size = tiles * s.to + SKEW;
  for (int64_t row = begin; row < end; row++) {
    const int64_t n = row / down, top = row % down * 4, at = (row - first) * across;
    fill_strip(x + n * s.from * s.height * s.width, s.from, s.height, s.width, top - 1, 6, columns, 1, strip);
    for (int64_t t = 0; t < across; t++) {
      for (int64_t c = 0; c < s.from; c += LANES) {
        F d[6][6], out[6][6];
        tile_at<6>(strip + 4 * t * from_stride + c, columns, from_stride, d);
        both<6, 6>(d, out, [](const F(&a)[6], F(&b)[6]) __attribute__((always_inline)) { input_points(a, b); });
        float* place = v + (c / GROUP * tiles + at + t) * GROUP + c % GROUP;
#pragma GCC unroll 36
        for (int xi = 0; xi < 36; xi++) store(place + xi * v_size, out[xi / 6][xi % 6]);
      }
    }
    fill_strip(dy + n * s.to * s.height * s.width, s.to, s.height, s.width, top, 4, 4 * across, 0, strip);
    for (int64_t t = 0; t < across; t++) {
      for (int64_t c = 0; c < s.to; c += LANES) {
        F d[4][4], out[6][6];
        tile_at<4>(strip + 4 * t * to_stride + c, 4 * across, to_stride, d);
        both<4, 6>(d, out,
                   [](const F(&a)[4], F(&b)[6]) __attribute__((always_inline)) { output_gradient_points(a, b); });
        float* place = m + (c / PANEL * tiles + at + t) * PANEL + c % PANEL;
#pragma GCC unroll 36
        for (int xi = 0; xi < 36; xi++) store(place + xi * m_size, out[xi / 6][xi % 6]);
      }
    }
  }
}

/// Adds the products of `used` tiles to `du` `[36][from][to]`, for the pairs `begin..end` of matrix and panel.
void conv_products(ConvShape s, const float* v, const float* m, int64_t tiles, int64_t used, int64_t begin, int64_t end,
                   float* du) {
  const int64_t panels = s.to / PANEL, v_size = tiles * s.from + SKEW, m_size = tiles * s.to + SKEW;
  for (int64_t i = begin; i < end; i++) {
    const int64_t xi = i / panels, p = i % panels;
    const float* b = m + xi * m_size + p * tiles * PANEL;
    for (int64_t group = 0; group < s.from / GROUP; group++) {
      const float* a = v + xi * v_size + group * tiles * GROUP;
      float* c = du + (xi * s.from + group * GROUP) * s.to + p * PANEL;
      product<6, true>(used, a, 1, GROUP, b, c, s.to);
      product<6, true>(used, a + 6, 1, GROUP, b, c + 6 * s.to, s.to);
      product<4, true>(used, a + 12, 1, GROUP, b, c + 12 * s.to, s.to);
    }
  }
}

/// The gradient of the weights `[to, from, 3, 3]` from `du`, for the channels in `begin..end`.
void conv_weight_gradient(ConvShape s, const float* du, int64_t begin, int64_t end, float* dw) {
  for (int64_t k = begin; k < end; k++) {
    for (int64_t c = 0; c < s.to; c += LANES) {
      F u[6][6], g[3][3];
      for (int xi = 0; xi < 36; xi++) u[xi / 6][xi % 6] = load(du + (xi * s.from + k) * s.to + c);
      both<6, 3>(u, g, [](const F(&a)[6], F(&b)[3]) __attribute__((always_inline)) { weight_gradient_points(a, b); });
      for (int tap = 0; tap < 9; tap++)
        for (int64_t i = 0; i < LANES; i++) dw[((c + i) * s.from + k) * 9 + tap] = g[tap / 3][tap % 3][i];
    }
  }
}

} // namespace
} // namespace heldout
