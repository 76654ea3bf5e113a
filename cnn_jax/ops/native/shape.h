// Sizes of a convolution, with pool or without; read from the arguments of a call.

#pragma once

#include "call.h"

#define DEAD 255                  // in `winners`: relu made the pooled output zero
#define PARTIAL_FLOATS (1 << 20)  // limit for the partial kernel gradients of all tasks: the size of a cache

// Sizes of x exclude padding; `padded_*` include it.
struct shape {
  int64_t images, rows, columns, channels, filters;
  int64_t kernel_rows, kernel_columns, row_stride, column_stride, top, left;
  int64_t out_rows, out_columns;  // of the convolution, without a remainder that pooling drops
  int64_t y_rows, y_columns;      // of the result: pooled with pool
  int64_t padded_rows, padded_columns;
  int relu, pool, biased;
  int64_t tasks;
};

// `count` rounded up to a multiple of `lanes`.
INLINE int64_t whole(int64_t count, int64_t lanes) { return (count + lanes - 1) / lanes * lanes; }

// Set sizes and attributes from the shapes of image, kernel and forward result.
static inline void read_shapes(struct shape *c, XLA_FFI_CallFrame *frame, const int64_t *x, const int64_t *kernel,
                               const int64_t *y) {
  const int64_t *how = ((XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  c->images = x[0], c->rows = x[1], c->columns = x[2], c->channels = x[3];
  c->kernel_rows = kernel[0], c->kernel_columns = kernel[1], c->filters = kernel[3];
  c->row_stride = how[0], c->column_stride = how[1], c->top = how[2], c->left = how[3];
  c->relu = (int)how[4], c->pool = (int)how[5], c->biased = (int)how[6];
  c->y_rows = y[1], c->y_columns = y[2];
  c->out_rows = c->y_rows * (c->pool ? 2 : 1), c->out_columns = c->y_columns * (c->pool ? 2 : 1);
  c->padded_rows = max_of(c->top + c->rows, (c->out_rows - 1) * c->row_stride + c->kernel_rows);
  c->padded_columns = max_of(c->left + c->columns, (c->out_columns - 1) * c->column_stride + c->kernel_columns);
  c->tasks = max_of(1, min_of(TASKS, c->images));
}

// The input gradient of a convolution with strides splits into phases: inputs whose row (column) has the same remainder modulo
// the stride use the same taps. `place` is the first of these taps; `before`, the zeros before the image.
struct phase {
  int64_t first, count;  // inputs of the phase: first, first + stride, ...
  int64_t taps, begin;   // number of kernel taps; first output that the first input contributes to, perhaps negative
};

static inline struct phase phase_of(int64_t place, int64_t size, int64_t kernel, int64_t stride, int64_t before) {
  struct phase p;
  p.first = ((place - before) % stride + stride) % stride;
  p.count = p.first < size ? (size - p.first + stride - 1) / stride : 0;
  p.taps = place < kernel ? (kernel - place + stride - 1) / stride : 0;
  p.begin = (p.first + before - place) / stride - (p.taps - 1);
  return p;
}

// The range of outputs that the phases read: zeros outside of the image.
struct range {
  int64_t low, high;
};

static inline struct range range_of(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t before) {
  struct range range = {0, out};
  for (int64_t i = 0; i < stride; i++) {
    const struct phase p = phase_of(i, size, kernel, stride, before);
    range.low = min_of(range.low, p.begin), range.high = max_of(range.high, p.begin + p.count + p.taps);
  }
  return range;
}
