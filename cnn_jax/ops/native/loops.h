// Vectors of the loops over one image, and their arguments. lanes.h has the loops: for WIDE floats within conv.c, for NARROW,
// which is for few filters, in narrow.c. Two files are compiled at the same time.

#pragma once

#include "shape.h"

#define L1_BYTES 24576       // part of the first-level cache that weights may fill
#define OUTPUTS_AT_ONCE 192  // outputs per pass of a kernel gradient: amortize the loads of its sums

// Strides and sizes of the loops over one image. Distances are in floats; outputs are those before pooling.
struct walk {
  int64_t image_row, row_step, column_step;  // distance of image rows; of the windows of adjacent outputs, down and across
  int64_t kernel_rows, run;
  int64_t rows, columns, filters;  // of the output
  int relu, pool;
};

// Destination of the outputs (pooled ones with pool), and their row and column distance. `winner`: NULL without pool.
struct sink {
  float *y;
  uint8_t *winner;
  int64_t row, column;
};

// The maximum of a pooling window: offset of its inputs in the image, or of its filter's weights; and its gradient.
struct winner {
  int64_t at;
  float gradient;
};

// Sizes of the register tiles. Every size adds to the compile time, so some are left out.
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
#define MOST_COLUMNS 14
#define MOST_SUMS 24
#define MOST_VECTORS 6
#define EACH_EVEN_COLUMNS(macro, rows, pool)                                                                \
  macro(rows, 2, pool) macro(rows, 4, pool) macro(rows, 6, pool) macro(rows, 8, pool) macro(rows, 10, pool) \
      macro(rows, 12, pool) macro(rows, 14, pool)
#define EACH_COLUMNS(macro, rows, pool)                                                                    \
  macro(rows, 1, pool) macro(rows, 2, pool) macro(rows, 3, pool) macro(rows, 4, pool) macro(rows, 5, pool) \
      macro(rows, 6, pool) macro(rows, 7, pool) macro(rows, 8, pool) macro(rows, 11, pool) macro(rows, 14, pool)
#define EACH_SUMS(macro) \
  macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7) macro(8) macro(9) macro(12) macro(16) macro(24)
#define EACH_WINDOW(macro)                                                                                                \
  macro(1, 1) macro(1, 2) macro(1, 3) macro(1, 4) macro(1, 5) macro(1, 6) macro(2, 1) macro(2, 2) macro(2, 3) macro(2, 4) \
      macro(2, 5) macro(2, 6)
#else  // 16 registers
#define MOST_COLUMNS 6
#define MOST_SUMS 12
#define MOST_VECTORS 4
#define EACH_EVEN_COLUMNS(macro, rows, pool) macro(rows, 2, pool) macro(rows, 4, pool) macro(rows, 6, pool)
#define EACH_COLUMNS(macro, rows, pool) \
  macro(rows, 1, pool) macro(rows, 2, pool) macro(rows, 3, pool) macro(rows, 4, pool) macro(rows, 5, pool) macro(rows, 6, pool)
#define EACH_SUMS(macro) macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7) macro(8) macro(9) macro(12)
#define EACH_WINDOW(macro) macro(1, 1) macro(1, 2) macro(1, 3) macro(1, 4) macro(2, 1) macro(2, 2) macro(2, 3) macro(2, 4)
#endif

#if defined(__AVX512F__)
#define WIDE 16
#define NARROW 8
#elif defined(__AVX__)
#define WIDE 8
#define NARROW 4
#else
#define WIDE 4
#define NARROW 2
#endif

// Of narrow.c; lanes.h describes them.
__attribute__((visibility("hidden"))) void JOIN(convolve, NARROW)(const struct walk *walk, const float *x, const float *weights,
                                                                  const float *bias, const struct sink *sink);
__attribute__((visibility("hidden"))) void JOIN(add_kernel_gradient, NARROW)(const struct walk *walk, const float *x,
                                                                             const float *gradient, int64_t column,
                                                                             float *total);
