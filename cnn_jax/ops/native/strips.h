// Inner loops of normalization, for vectors of LANES floats. norm.c includes this file once per width, after defining LANES.
//
// A strip is `vectors` adjacent vectors of a row of the period, and those below them in `rows` rows: `at` is its first element
// in the arrays, `j` in a row. `half`: arrays are bfloat16. Both are constants after inlining.

#include "vectors.h"
#define words NAME(words)
#define halves NAME(halves)
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// bfloat16 is the upper half of a float.
INLINE vec NAME(load)(const int half, const void *from, int64_t i) {
  if (!half) return *(const vec *)((const float *)from + i);
  return (vec)(__builtin_convertvector(*(const halves *)((const uint16_t *)from + i), words) << 16);
}

// Rounds to the nearest bfloat16, and to the even one of two.
INLINE void NAME(store)(const int half, void *to, int64_t i, vec value) {
  if (!half) {
    *(vec *)((float *)to + i) = value;
    return;
  }
  halves *const place = (halves *)((uint16_t *)to + i);
#if LANES == 16 && defined(__AVX512BF16__)
  *place = (halves)_mm512_cvtneps_pbh((__m512)value);
#else
  const words bits = (words)value, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 64;
  *place = __builtin_convertvector((words)NAME(choose)(value == value, (vec)rounded, (vec)quiet), halves);
#endif
}

// columns.sum += differences from columns.mean; columns.product += their squares.
INLINE void NAME(moments)(const int half, const int vectors, const struct norm *n, const struct columns *columns, int64_t at,
                          int64_t j, int64_t rows) {
  vec mean[GROUP], sum[GROUP], square[GROUP];
  UNROLL(v, vectors) {
    mean[v] = *(const vec *)(columns->mean + j + v * LANES);
    sum[v] = *(const vec *)(columns->sum + j + v * LANES);
    square[v] = *(const vec *)(columns->product + j + v * LANES);
  }
  for (int64_t r = 0; r < rows; r++, at += n->period)
    UNROLL(v, vectors) {
      const vec difference = NAME(load)(half, n->x, at + v * LANES) - mean[v];
      sum[v] += difference;
      square[v] += difference * difference;
    }
  UNROLL(v, vectors) {
    *(vec *)(columns->sum + j + v * LANES) = sum[v];
    *(vec *)(columns->product + j + v * LANES) = square[v];
  }
}

// y = (x - mean) * slope + constant, plus the shortcut, then relu. A NaN goes through relu.
INLINE void NAME(normalize)(const int half, const int vectors, const struct norm *n, const struct columns *columns, int64_t at,
                            int64_t j, int64_t rows) {
  vec mean[GROUP], slope[GROUP], constant[GROUP];
  UNROLL(v, vectors) {
    mean[v] = *(const vec *)(columns->mean + j + v * LANES);
    slope[v] = *(const vec *)(columns->slope + j + v * LANES);
    constant[v] = *(const vec *)(columns->constant + j + v * LANES);
  }
  for (int64_t r = 0; r < rows; r++, at += n->period) {
    vec y[GROUP];
    UNROLL(v, vectors) y[v] = (NAME(load)(half, n->x, at + v * LANES) - mean[v]) * slope[v] + constant[v];
    if (n->shortcut)
      UNROLL(v, vectors) y[v] += NAME(load)(half, n->shortcut, at + v * LANES);
    if (n->relu)
      UNROLL(v, vectors) y[v] = NAME(at_least)((vec){0}, y[v]);
    UNROLL(v, vectors) NAME(store)(half, n->out, at + v * LANES, y[v]);
  }
}

// The gradients behind relu.
INLINE void NAME(load_gradient)(const int half, const int vectors, const struct norm *n, int64_t at, vec *gradient) {
  UNROLL(v, vectors) gradient[v] = NAME(load)(half, n->gradient, at + v * LANES);
  if (n->relu)
    UNROLL(v, vectors) gradient[v] = (vec)((NAME(load)(half, n->y, at + v * LANES) > 0) & (ints)gradient[v]);
}

// columns.sum += gradients; columns.product += gradients * differences from columns.mean. Stores the gradients in n->masked,
// unless it is NULL.
INLINE void NAME(gradient_sums)(const int half, const int vectors, const struct norm *n, const struct columns *columns,
                                int64_t at, int64_t j, int64_t rows) {
  vec mean[GROUP], sum[GROUP], product[GROUP];
  UNROLL(v, vectors) {
    mean[v] = *(const vec *)(columns->mean + j + v * LANES);
    sum[v] = *(const vec *)(columns->sum + j + v * LANES);
    product[v] = *(const vec *)(columns->product + j + v * LANES);
  }
  for (int64_t r = 0; r < rows; r++, at += n->period) {
    vec gradient[GROUP];
    NAME(load_gradient)(half, vectors, n, at, gradient);
    if (n->masked)
      UNROLL(v, vectors) NAME(store)(half, n->masked, at + v * LANES, gradient[v]);
    UNROLL(v, vectors) {
      sum[v] += gradient[v];
      product[v] += gradient[v] * (NAME(load)(half, n->x, at + v * LANES) - mean[v]);
    }
  }
  UNROLL(v, vectors) {
    *(vec *)(columns->sum + j + v * LANES) = sum[v];
    *(vec *)(columns->product + j + v * LANES) = product[v];
  }
}

// The gradient of x: gradient * slope + (x - mean) * of_x + constant.
INLINE void NAME(gradient)(const int half, const int vectors, const struct norm *n, const struct columns *columns, int64_t at,
                           int64_t j, int64_t rows) {
  vec mean[GROUP], slope[GROUP], of_x[GROUP], constant[GROUP];
  UNROLL(v, vectors) {
    mean[v] = *(const vec *)(columns->mean + j + v * LANES);
    slope[v] = *(const vec *)(columns->slope + j + v * LANES);
    of_x[v] = *(const vec *)(columns->of_x + j + v * LANES);
    constant[v] = *(const vec *)(columns->constant + j + v * LANES);
  }
  for (int64_t r = 0; r < rows; r++, at += n->period) {
    vec gradient[GROUP];
    NAME(load_gradient)(half, vectors, n, at, gradient);
    UNROLL(v, vectors) {
      const vec centred = NAME(load)(half, n->x, at + v * LANES) - mean[v];
      NAME(store)(half, n->out, at + v * LANES, gradient[v] * slope[v] + (centred * of_x[v] + constant[v]));
    }
  }
}

#undef vec
#undef ints
#undef bytes
#undef words
#undef halves
#undef NAME
