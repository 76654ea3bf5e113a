// Average pool of 2x2 with what is around it in LeNet-5, and the gradient, float32 on CPU, as XLA FFI handlers:
//
//   y = outer(scale * sum(inner(x)) + bias)
//
// with scale and bias per channel, or 1/4 and 0, and inner and outer the identity or a tanh(b z). x (images, rows, columns,
// channels): channels last. An image at a time stays in the first-level cache.

#include "call.h"

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#include "vectors.h"

// The exported functions. N images of (H, W, C); (P, Q) is (H, W) halved, without the remainder. All arrays are float32. Each
// function has one attribute, an array of 7 float32: whether there is an inner tanh, its a and b; the same for the outer; and
// whether there are scale and bias; without, they are neither arguments nor results.

// x (N, H, W, C), scale (C), bias (C) -> y (N, P, Q, C); with an inner tanh also tanh(b x) (N, H, W, C), in the place of x.
XLA_FFI_Error *cnn_jax_average_pool(XLA_FFI_CallFrame *frame);

// tanh(b x), without an inner tanh x (N, H, W, C), scale (C), bias (C), y (N, P, Q, C), gradient of y (N, P, Q, C)
// -> gradient of x (N, H, W, C), with an inner tanh in the place of tanh(b x); of scale (C), of bias (C).
XLA_FFI_Error *cnn_jax_average_pool_gradient(XLA_FFI_CallFrame *frame);

struct squash {
  int used;
  float a, b;
};

struct pool {
  int64_t images, rows, columns, channels, out_rows, out_columns;
  int64_t in_row, run, out_row;  // floats of a row of x, of its part under windows, and of a row of y
  int64_t tasks;
  struct squash inner, outer;
  int affine;
  const float *x, *y, *y_gradient;
  float *out, *out_inner, *out_scale, *out_bias;
  float *tiled;     // scale, then bias, for each value of a row of y
  float *partials;  // per task: sums for scale, then for bias, for each value of a row of y
  _Atomic int failed;
};

// --------------------------------------------------------------------------------------------------------------- tanh

// A polynomial x + x^3 P(x^2) below 0.625, 1 - 2 / (exp(2 |x|) + 1) with the sign of x above; exp(z) is 2^n exp(r) with
// r = z - n log 2 and a polynomial in r. Coefficients of Cephes's tanhf and expf, S. L. Moshier. At most 2 units in the last
// place from the exact value.
INLINE vec tanh_of(vec x) {
  const ints sign = (ints)x & INT32_MIN;
  const vec size = (vec)((ints)x ^ sign), square = x * x, most = (vec){0} + 20.0f;
  vec small = -5.70498872745e-3f * square + 2.06390887954e-2f;
  small = small * square - 5.37397155531e-2f;
  small = small * square + 1.33314422036e-1f;
  small = small * square - 3.33332819422e-1f;
  small = small * (square * x) + x;
  const vec twice = 2.0f * size, z = NAME(choose)(twice > most, most, twice);  // a NaN stays; above 18.1 the result is 1
  const vec shifted = z * 1.44269504088896341f + 12582912.0f;                  // 1.5 * 2^23: rounds to integers
  const vec n = shifted - 12582912.0f, r = z - n * 0.693359375f + n * 2.12194440e-4f;  // log 2: the first product is exact
  vec p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const vec power = (vec)((((ints)shifted - 0x4b400000) << 23) + 0x3f800000);  // 2^n
  const vec large = (vec)((ints)(1.0f - 2.0f / (power * p + 1.0f)) | sign);
  return NAME(choose)(size < 0.625f, small, large);
}

INLINE vec squashed(struct squash s, vec z) {
  if (s.used) z = s.a * tanh_of(s.b * z);
  return z;
}

// The gradient before a tanh whose result, without the factor a, is t.
INLINE vec through(struct squash s, vec t, vec gradient) {
  if (s.used) gradient *= (s.a * s.b) * ((1.0f - t) * (1.0f + t));
  return gradient;
}

// ------------------------------------------------------------------------------------------------------ parts of vectors

// The first `count` floats, the rest 0.
INLINE vec load(const float *from, int64_t count) {
  if (count >= LANES) return *(const vec *)from;
#if LANES == 16
  return (vec)_mm512_maskz_loadu_ps((__mmask16)((1 << count) - 1), from);
#else
  vec values = {0};
  for (int i = 0; i < LANES; i++)
    if (i < count) values[i] = from[i];
  return values;
#endif
}

INLINE void store(float *to, vec values, int64_t count) {
  if (count >= LANES) {
    *(vec *)to = values;
    return;
  }
#if LANES == 16
  _mm512_mask_storeu_ps(to, (__mmask16)((1 << count) - 1), (__m512)values);
#else
  for (int i = 0; i < LANES; i++)
    if (i < count) to[i] = values[i];
#endif
}

// For the vectors of `size` floats from `i` on, of which the last may be a part: `count` floats.
#define EACH_VECTOR(i, count, size) for (int64_t i = 0, count; (count = (size) - i) > 0; i += LANES)

// Sums of adjacent columns: from (2 Q, C) -> to (Q, C). Both have room for a vector more: what is written beyond a column
// is written anew for the next.
INLINE void join_columns(const struct pool *c, const float *from, float *to) {
  for (int64_t q = 0; q < c->out_columns; q++)
    for (int64_t i = 0; i < c->channels; i += LANES) {
      const float *left = from + 2 * q * c->channels + i;
      *(vec *)(to + q * c->channels + i) = *(const vec *)left + *(const vec *)(left + c->channels);
    }
}

// The inverse: each of from (Q, C) to both of to (2 Q, C).
INLINE void part_columns(const struct pool *c, const float *from, float *to) {
  for (int64_t q = 0; q < 2 * c->out_columns; q++)
    for (int64_t i = 0; i < c->channels; i += LANES)
      *(vec *)(to + q * c->channels + i) = *(const vec *)(from + q / 2 * c->channels + i);
}

// ------------------------------------------------------------------------------------------------------------- forward

static void forward(void *call, int64_t task, int64_t first, int64_t last) {
  struct pool *c = call;
  (void)task;
  float *sums = zeros_of(4 * (c->run + LANES)), *joined = zeros_of(4 * (c->out_row + LANES));
  if (!sums || !joined) {
    c->failed = 1;
    goto end;
  }
  const int64_t size = c->rows * c->in_row;
  const float factor = c->inner.used ? c->inner.a : 1.0f;
  for (int64_t image = first; image < last; image++) {
    const float *x = c->x + image * size;
    if (c->inner.used) {
      float *inner = c->out_inner + image * size;
      EACH_VECTOR(i, count, size) store(inner + i, tanh_of(c->inner.b * load(x + i, count)), count);
      x = inner;
    }
    for (int64_t p = 0; p < c->out_rows; p++) {
      const float *upper = x + 2 * p * c->in_row, *lower = upper + c->in_row;
      EACH_VECTOR(i, count, c->run) * (vec *)(sums + i) = factor * (load(upper + i, count) + load(lower + i, count));
      join_columns(c, sums, joined);
      float *y = c->out + (image * c->out_rows + p) * c->out_row;
      EACH_VECTOR(i, count, c->out_row) {
        vec z = *(const vec *)(joined + i);
        z = c->affine ? z * load(c->tiled + i, count) + load(c->tiled + c->out_row + i, count) : 0.25f * z;
        store(y + i, squashed(c->outer, z), count);
      }
    }
  }
end:
  free(sums), free(joined);
}

// ------------------------------------------------------------------------------------------------------------ gradient

// Pixels that no window sees.
static void clear_rest(const struct pool *c, float *image) {
  const int64_t seen = 2 * c->out_rows;
  for (int64_t r = 0; r < seen && c->run < c->in_row; r++)
    memset(image + r * c->in_row + c->run, 0, 4 * (size_t)(c->in_row - c->run));
  memset(image + seen * c->in_row, 0, 4 * (size_t)((c->rows - seen) * c->in_row));
}

static void gradient(void *call, int64_t task, int64_t first, int64_t last) {
  struct pool *c = call;
  const int64_t size = c->out_row + LANES;
  float *of_scale = c->affine ? c->partials + task * 2 * size : NULL, *of_bias = c->affine ? of_scale + size : NULL;
  float *sums = zeros_of(4 * (c->run + LANES)), *joined = zeros_of(4 * size);
  float *before = zeros_of(4 * size), *small = zeros_of(4 * size), *spread = zeros_of(4 * (c->run + LANES));
  if (!sums || !joined || !before || !small || !spread) {
    c->failed = 1;
    goto end;
  }
  const float factor = c->inner.used ? c->inner.a : 1.0f;
  for (int64_t image = first; image < last; image++) {
    for (int64_t p = 0; p < c->out_rows; p++) {
      const int64_t pixel = (image * c->out_rows + p) * c->out_row, place = (image * c->rows + 2 * p) * c->in_row;
      EACH_VECTOR(i, count, c->out_row) {
        vec z = load(c->y_gradient + pixel + i, count);
        z = through(c->outer, load(c->y + pixel + i, count) / c->outer.a, z);
        *(vec *)(before + i) = z;
        *(vec *)(small + i) = c->affine ? z * load(c->tiled + i, count) : 0.25f * z;
      }
      part_columns(c, small, spread);
      for (int row = 0; row < 2; row++) {
        const float *x = c->x + place + row * c->in_row;
        float *out = c->out + place + row * c->in_row;
        EACH_VECTOR(i, count, c->run) {
          const vec g = *(const vec *)(spread + i), t = load(x + i, count);
          *(vec *)(sums + i) = t + (row ? *(const vec *)(sums + i) : (vec){0});
          store(out + i, through(c->inner, t, g), count);
        }
      }
      if (!c->affine) continue;
      join_columns(c, sums, joined);
      EACH_VECTOR(i, count, c->out_row) {
        const vec z = *(const vec *)(before + i);
        *(vec *)(of_bias + i) += z;
        *(vec *)(of_scale + i) += z * (factor * *(const vec *)(joined + i));
      }
    }
    clear_rest(c, c->out + image * c->rows * c->in_row);
  }
end:
  free(sums), free(joined), free(before), free(small), free(spread);
}

// Add the sums of all tasks, in order.
static void merge(const struct pool *c) {
  const int64_t size = c->out_row + LANES;
  for (int64_t channel = 0; channel < c->channels; channel++) {
    float of_scale = 0, of_bias = 0;
    for (int64_t task = 0; task < c->tasks; task++)
      for (int64_t i = channel; i < c->out_row; i += c->channels) {
        of_scale += c->partials[task * 2 * size + i];
        of_bias += c->partials[(task * 2 + 1) * size + i];
      }
    c->out_scale[channel] = of_scale, c->out_bias[channel] = of_bias;
  }
}

// ---------------------------------------------------------------------------------------------------------- handlers

// Read sizes and attributes; x is (N, H, W, C).
static void read_call(struct pool *c, XLA_FFI_CallFrame *frame) {
  const float *how = ((XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const XLA_FFI_Buffer *x = argument(frame, 0);
  c->inner = (struct squash){how[0] > 0, how[1], how[2]}, c->outer = (struct squash){how[3] > 0, how[4], how[5]};
  c->affine = how[6] > 0;
  c->images = x->dims[0], c->rows = x->dims[1], c->columns = x->dims[2], c->channels = x->dims[3];
  c->out_rows = c->rows / 2, c->out_columns = c->columns / 2;
  c->in_row = c->columns * c->channels, c->out_row = c->out_columns * c->channels, c->run = 2 * c->out_row;
  c->tasks = max_of(1, min_of(TASKS, c->images));
  c->x = x->data;
  if (!c->affine) return;
  if (!(c->tiled = zeros_of(8 * c->out_row))) {
    c->failed = 1;
    return;
  }
  const float *scale = argument(frame, 1)->data, *bias = argument(frame, 2)->data;
  for (int64_t i = 0; i < c->out_row; i++) {
    c->tiled[i] = scale[i % c->channels];
    c->tiled[c->out_row + i] = bias[i % c->channels];
  }
}

static XLA_FFI_Error *finish(XLA_FFI_CallFrame *frame, struct pool *c) {
  free(c->tiled), free(c->partials);
  return c->failed ? error(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: average pool") : NULL;
}

XLA_FFI_Error *cnn_jax_average_pool(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct pool c = {0};
  read_call(&c, frame);
  c.out = result(frame, 0)->data;
  if (c.inner.used) c.out_inner = result(frame, 1)->data;
  if (!c.failed && !in_tasks(frame, forward, &c, c.images, c.tasks)) c.failed = 1;
  return finish(frame, &c);
}

XLA_FFI_Error *cnn_jax_average_pool_gradient(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct pool c = {0};
  read_call(&c, frame);
  const int next = c.affine ? 3 : 1;
  c.y = argument(frame, next)->data, c.y_gradient = argument(frame, next + 1)->data;
  c.out = result(frame, 0)->data;
  if (c.affine) c.out_scale = result(frame, 1)->data, c.out_bias = result(frame, 2)->data;
  if (c.affine && !(c.partials = zeros_of(8 * c.tasks * (c.out_row + LANES)))) c.failed = 1;
  if (!c.failed && !in_tasks(frame, gradient, &c, c.images, c.tasks)) c.failed = 1;
  if (!c.failed && c.affine) merge(&c);
  return finish(frame, &c);
}
