// Loops over one image for vectors of LANES floats, included after defining LANES, and AT_ONCE: floats of a run that `convolve`
// multiplies at once.
//
// An image is (rows, columns, channels), so the inputs of one kernel row are contiguous: a *run* of kernel columns * channels
// floats. A convolution broadcasts each float of each run and multiplies it with a vector of weights, a lane per filter. Of few
// filters, NARROW or less, it broadcasts two floats at once, so that a register holds two products of each filter.

#include "vectors.h"

#if LANES == WIDE
#define SHARED static
#else
#define SHARED  // with conv.c
#endif

// ------------------------------------------------------------------------------------------------------------- forward

#if LANES == WIDE
#define products vec
#define broadcast(from) (*(from))
#else
// Twice LANES products: lanes 2 f and 2 f + 1 are of filter f.
typedef float products __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef int32_t indices __attribute__((vector_size(4 * WIDE)));
typedef int64_t pairs __attribute__((vector_size(4 * WIDE)));
typedef int64_t pair __attribute__((aligned(4), may_alias));
#define broadcast(from) ((products)((pairs){0} + *(const pair *)(from)))

// Add up the two lanes of each filter, of two vectors: the first half of the result is of `a`, the second of `b`.
INLINE products add_pairs(products a, products b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD);
#else
  return __builtin_shuffle(a, b, (indices){EVEN}) + __builtin_shuffle(a, b, (indices){ODD});
#endif
}
#endif

// The sums of rows x columns outputs of LANES filters, in registers throughout.
INLINE void NAME(sum)(const int rows, const int columns, const struct walk *walk, const float *restrict x,
                      const float *restrict weights, vec *restrict sums) {
  // One pointer per four columns: an address is a pointer plus 0 to 3 steps, which saves registers.
  const int64_t step = walk->column_step;
  const int groups = (columns + 3) / 4;
  products totals[2 * MOST_COLUMNS];
  UNROLL(i, rows * columns) totals[i] = (products){0};
  for (int64_t k = 0; k < walk->kernel_rows; k++) {
    const float *from[2 * ((MOST_COLUMNS + 3) / 4)];
    UNROLL(r, rows)
      UNROLL(g, groups) from[r * groups + g] = x + k * walk->image_row + r * walk->row_step + 4 * g * step;
    for (int64_t j = 0; j < walk->run / AT_ONCE; j++) {
      const products weight = *(const products *)weights;
      weights += WIDE;
      UNROLL(r, rows)
        UNROLL(c, columns) totals[r * columns + c] += broadcast(from[r * groups + c / 4] + (c % 4) * step) * weight;
      UNROLL(i, rows * groups) from[i] += AT_ONCE;
    }
#if LANES == NARROW
    if (walk->run % 2) {  // the second weight of each filter is zero
      const products weight = *(const products *)weights;
      weights += WIDE;
      UNROLL(r, rows)
        UNROLL(c, columns) totals[r * columns + c] += from[r * groups + c / 4][(c % 4) * step] * weight;
    }
#endif
  }
#if LANES == WIDE
  UNROLL(i, rows * columns) sums[i] = totals[i];
#else
  UNROLL_BY(2, i, rows * columns) {
    const products both = add_pairs(totals[i], totals[i + 1 < rows * columns ? i + 1 : i]);
    const vec *halves = (const vec *)&both;
    sums[i] = halves[0];
    if (i + 1 < rows * columns) sums[i + 1] = halves[1];
  }
#endif
}

// The same with bias and relu; stores the outputs, or the maxima of 2x2 windows and their indices.
INLINE void NAME(tile)(const int rows, const int columns, const int pool, const struct walk *walk, const float *restrict x,
                       const float *restrict weights, const float *restrict bias, const struct sink *restrict sink) {
  vec sums[2 * MOST_COLUMNS];
  NAME(sum)(rows, columns, walk, x, weights, sums);
  const vec add = *(const vec *)bias, least = (vec){0} + (walk->relu ? 0 : -__builtin_inff());
  if (!pool) {
    UNROLL(r, rows)
      UNROLL(c, columns)
        *(vec *)(sink->y + r * sink->row + c * sink->column) = NAME(at_least)(least, sums[r * columns + c] + add);
    return;
  }
  const ints dead = (ints){0} + (walk->relu ? DEAD : 0);
  UNROLL_BY(2, c, columns) {
    ints which;
    const vec best = NAME(largest)(sums[c], sums[c + 1], sums[columns + c], sums[columns + c + 1], &which) + add;
    *(vec *)(sink->y + c / 2 * sink->column) = NAME(at_least)(least, best);
    which |= ~(best > 0) & dead;
    *(bytes *)(sink->winner + c / 2 * sink->column) = __builtin_convertvector(which, bytes);
  }
}

// A stamp is `tile` for constant rows, columns and pool. `stamps` has them by columns: of one row, of two rows, of two with
// pool.
typedef void NAME(stamp)(const struct walk *, const float *, const float *, const float *, const struct sink *);
#define STAMP(rows, columns, pool)                                                                                      \
  static void NAME(JOIN(stamp_##rows##_##columns, pool))(const struct walk *walk, const float *x, const float *weights, \
                                                         const float *bias, const struct sink *sink) {                  \
    NAME(tile)(rows, columns, pool, walk, x, weights, bias, sink);                                                      \
  }
#define ENTRY(rows, columns, pool) [columns] = NAME(JOIN(stamp_##rows##_##columns, pool)),
STAMP(1, 1, 0)
EACH_COLUMNS(STAMP, 2, 0)
EACH_EVEN_COLUMNS(STAMP, 2, 1)
static NAME(stamp) *const
    NAME(stamps)[3][MOST_COLUMNS + 1] = {{ENTRY(1, 1, 0)}, {EACH_COLUMNS(ENTRY, 2, 0)}, {EACH_EVEN_COLUMNS(ENTRY, 2, 1)}};

// Copy the first `count` lanes of rows x columns vectors. Store whole vectors where the next vector overwrites the excess.
static void NAME(store_parts)(const struct sink *from, const struct sink *to, int64_t rows, int64_t columns, int64_t count) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      const int64_t a = r * from->row + c * from->column, b = r * to->row + c * to->column;
      if (to->column == count && (columns - c) * count >= LANES) {
        *(vec *)(to->y + b) = *(const vec *)(from->y + a);
        if (to->winner) *(bytes *)(to->winner + b) = *(const bytes *)(from->winner + a);
        continue;
      }
      for (int64_t f = 0; f < count; f++) {
        to->y[b + f] = from->y[a + f];
        if (to->winner) to->winner[b + f] = from->winner[a + f];
      }
    }
}

// The width of the narrowest stamp with at least `columns` columns, or 0.
static int64_t NAME(width_for)(int64_t columns, NAME(stamp) *const *stamps) {
  while (columns <= MOST_COLUMNS && !stamps[columns]) columns++;
  return columns <= MOST_COLUMNS ? columns : 0;
}

// The number of pieces of a row of units * unit columns for the least work by stamps. `unit`: 2 with pool, or 1.
static int64_t NAME(pieces_of)(int64_t units, int64_t unit, NAME(stamp) *const *stamps) {
  int64_t best = units, cost = INT64_MAX;
  for (int64_t pieces = 1; pieces <= units; pieces++) {
    const int64_t wide = NAME(width_for)((units + pieces - 1) / pieces * unit, stamps);
    if (wide && wide <= units * unit && pieces * (wide + 1) < cost) best = pieces, cost = pieces * (wide + 1);
  }
  return best;
}

// All outputs of an image. weights: see `weight_at`; bias (blocks * LANES); sink (rows, columns, filters).
SHARED void NAME(convolve)(const struct walk *walk, const float *x, const float *weights, const float *bias,
                           const struct sink *sink) {
  const int64_t block = walk->kernel_rows * whole(walk->run, AT_ONCE) * LANES;
  const int64_t unit = walk->pool ? 2 : 1;  // columns of a pooling window
  const int64_t together = walk->rows > 1 ? 2 : 1, units = walk->columns / unit;
  NAME(stamp) *const *stamps = NAME(stamps)[walk->pool ? 2 : together - 1];
  const int64_t pieces = NAME(pieces_of)(units, unit, stamps);
  float y[2 * MOST_COLUMNS * LANES];
  uint8_t winner[2 * MOST_COLUMNS * LANES];
  const struct sink spare = {y, winner, MOST_COLUMNS * LANES, LANES};
  for (int64_t f = 0; f < walk->filters; f += LANES) {
    const int64_t count = min_of(LANES, walk->filters - f);
    for (int64_t i = 0; i < walk->rows; i += together) {
      const int64_t r = min_of(i, walk->rows - together);  // with an odd number of rows the last pair repeats a row
      for (int64_t p = 0; p < pieces; p++) {
        // A stamp wider than its piece computes columns that the next piece repeats.
        const int64_t piece = p * units / pieces * unit, end = (p + 1) * units / pieces * unit;
        const int64_t wide = NAME(width_for)(end - piece, stamps);
        const int64_t begin = min_of(piece, walk->columns - wide);
        const int64_t out = r / unit * sink->row + begin / unit * sink->column + f;
        const struct sink here = {sink->y + out, sink->winner ? sink->winner + out : NULL, sink->row, sink->column};
        stamps[wide](walk, x + r * walk->row_step + begin * walk->column_step, weights + f / LANES * block, bias + f,
                     count < LANES ? &spare : &here);
        if (count < LANES) NAME(store_parts)(&spare, &here, together / unit, wide / unit, count);
      }
    }
  }
}

// ----------------------------------------------------------------------------------------------------- kernel gradients

// total (width, LANES) += the outer products of `width` floats of a run and LANES gradients, over `rows` rows of outputs.
INLINE void NAME(outer)(const int width, const struct walk *walk, const float *restrict x, const float *restrict gradient,
                        int64_t gradient_column, int64_t rows, float *restrict total) {
  vec sums[MOST_SUMS];
  UNROLL(j, width) sums[j] = *(vec *)(total + j * LANES);
  for (int64_t r = 0; r < rows; r++) {
    const float *seen = x + r * walk->row_step, *g = gradient + r * walk->columns * gradient_column;
    for (int64_t c = 0; c < walk->columns; c++) {
      const vec now = *(const vec *)g;
      UNROLL(j, width) sums[j] += seen[j] * now;
      seen += walk->column_step, g += gradient_column;
    }
  }
  UNROLL(j, width) *(vec *)(total + j * LANES) = sums[j];
}

typedef void NAME(outer_stamp)(const struct walk *, const float *, const float *, int64_t, int64_t, float *);
#define OUTER(width)                                                                                                       \
  static void NAME(outer_##width)(const struct walk *walk, const float *x, const float *gradient, int64_t gradient_column, \
                                  int64_t rows, float *total) {                                                            \
    NAME(outer)(width, walk, x, gradient, gradient_column, rows, total);                                                   \
  }
#define OUTER_ENTRY(width) [width] = NAME(outer_##width),
EACH_SUMS(OUTER)
static NAME(outer_stamp) *const NAME(outers)[MOST_SUMS + 1] = {EACH_SUMS(OUTER_ENTRY)};

// total (blocks of filters, kernel rows, run, LANES) += the kernel gradient of an image. gradient (rows, columns, `column`).
SHARED void NAME(add_kernel_gradient)(const struct walk *walk, const float *x, const float *gradient, int64_t column,
                                      float *total) {
  const int64_t blocks = (walk->filters + LANES - 1) / LANES;
  // Process as many rows of outputs per pass as the first-level cache holds.
  const int64_t together = max_of(1, OUTPUTS_AT_ONCE / walk->columns);
  for (int64_t r = 0; r < walk->rows; r += together)
    for (int64_t b = 0; b < blocks; b++)
      for (int64_t k = 0; k < walk->kernel_rows; k++)
        for (int64_t begin = 0, width; begin < walk->run; begin += width) {
          for (width = min_of(MOST_SUMS, walk->run - begin); !NAME(outers)[width];) width--;
          NAME(outer_stamp) *const add_outer = NAME(outers)[width];
          add_outer(walk, x + r * walk->row_step + k * walk->image_row + begin,
                    gradient + r * walk->columns * column + b * LANES, column, min_of(together, walk->rows - r),
                    total + ((b * walk->kernel_rows + k) * walk->run + begin) * LANES);
        }
}

#if LANES == WIDE
// total += part. `count`: a multiple of LANES.
static void NAME(add)(float *total, const float *part, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) *(vec *)(total + i) += *(const vec *)(part + i);
}

// Copy gradient (rows, columns, filters) to `to`, with zeros where y is not positive (y NULL: nowhere). Add it up in sum
// (filters).
static void NAME(pass_gradient)(const float *gradient, const float *y, int64_t rows, int64_t columns, int64_t filters,
                                float *to, int64_t row, int64_t column, float *sum) {
  int64_t f = 0;
  for (; f + LANES <= filters; f += LANES) {
    const float *from = gradient + f, *seen = y ? y + f : NULL;
    vec total = sum ? *(const vec *)(sum + f) : (vec){0};
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < columns; c++, from += filters) {
        vec g = *(const vec *)from;
        if (seen) g = (vec)((*(const vec *)seen > 0) & (ints)g), seen += filters;
        *(vec *)(to + r * row + c * column + f) = g;
        total += g;
      }
    if (sum) *(vec *)(sum + f) = total;
  }
  if (f == filters) return;
#if MASKS
  const __mmask16 real = (__mmask16)((1u << (filters - f)) - 1);
  __m512 total = sum ? _mm512_maskz_loadu_ps(real, sum + f) : _mm512_setzero_ps();
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      const int64_t at = (r * columns + c) * filters + f;
      const __mmask16 passed =
          y ? _mm512_mask_cmp_ps_mask(real, _mm512_maskz_loadu_ps(real, y + at), _mm512_setzero_ps(), _CMP_GT_OQ) : real;
      const __m512 g = _mm512_maskz_loadu_ps(passed, gradient + at);
      _mm512_mask_storeu_ps(to + r * row + c * column + f, real, g);
      total = _mm512_add_ps(total, g);
    }
  if (sum) _mm512_mask_storeu_ps(sum + f, real, total);
#else
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++)
      for (int64_t i = f; i < filters; i++) {
        const int64_t at = (r * columns + c) * filters + i;
        const float g = !y || y[at] > 0 ? gradient[at] : 0;
        to[r * row + c * column + i] = g;
        if (sum) sum[i] += g;
      }
#endif
}

// ------------------------------------------------------------------------------------- gradients behind a max-pool
// With pool at most a quarter of the outputs, the winners, have a gradient: loop over lists of them.

// total (rows, vectors * LANES) += the sum over a filter's winners of gradient * inputs.
INLINE void NAME(winners_outer)(const int rows, const int vectors, const float *restrict x, int64_t image_row,
                                const struct winner *restrict winners, int64_t count, float *restrict total, int64_t stride) {
  vec sums[2 * MOST_VECTORS];
  UNROLL(r, rows)
    UNROLL(v, vectors) sums[r * vectors + v] = *(vec *)(total + r * stride + v * LANES);
  for (int64_t i = 0; i < count; i++) {
    const float *seen = x + winners[i].at;
    UNROLL(r, rows)
      UNROLL(v, vectors) sums[r * vectors + v] += winners[i].gradient * *(const vec *)(seen + r * image_row + v * LANES);
  }
  UNROLL(r, rows)
    UNROLL(v, vectors) *(vec *)(total + r * stride + v * LANES) = sums[r * vectors + v];
}

// x (rows, vectors * LANES) += the sum over the winners at one place of gradient * weights.
INLINE void NAME(winners_spread)(const int rows, const int vectors, float *restrict x, int64_t image_row,
                                 const struct winner *restrict winners, int64_t count, const float *restrict weights,
                                 int64_t stride) {
  vec sums[2 * MOST_VECTORS];
  UNROLL(r, rows)
    UNROLL(v, vectors) sums[r * vectors + v] = *(vec *)(x + r * image_row + v * LANES);
  for (int64_t i = 0; i < count; i++) {
    const float *weight = weights + winners[i].at;
    UNROLL(r, rows)
      UNROLL(v, vectors) sums[r * vectors + v] += winners[i].gradient * *(const vec *)(weight + r * stride + v * LANES);
  }
  UNROLL(r, rows)
    UNROLL(v, vectors) *(vec *)(x + r * image_row + v * LANES) = sums[r * vectors + v];
}

typedef void NAME(outer_winners)(const float *, int64_t, const struct winner *, int64_t, float *, int64_t);
typedef void NAME(spread_winners)(float *, int64_t, const struct winner *, int64_t, const float *, int64_t);
#define WINNERS(rows, vectors)                                                                                        \
  static void NAME(outer_winners_##rows##_##vectors)(const float *x, int64_t image_row, const struct winner *winners, \
                                                     int64_t count, float *total, int64_t stride) {                   \
    NAME(winners_outer)(rows, vectors, x, image_row, winners, count, total, stride);                                  \
  }                                                                                                                   \
  static void NAME(spread_winners_##rows##_##vectors)(float *x, int64_t image_row, const struct winner *winners,      \
                                                      int64_t count, const float *weights, int64_t stride) {          \
    NAME(winners_spread)(rows, vectors, x, image_row, winners, count, weights, stride);                               \
  }
EACH_WINDOW(WINNERS)
#define OUTER_WINDOW(rows, vectors) [rows][vectors] = NAME(outer_winners_##rows##_##vectors),
#define SPREAD_WINDOW(rows, vectors) [rows][vectors] = NAME(spread_winners_##rows##_##vectors),
static NAME(outer_winners) *const NAME(outer_windows)[3][MOST_VECTORS + 1] = {EACH_WINDOW(OUTER_WINDOW)};
static NAME(spread_winners) *const NAME(spread_windows)[3][MOST_VECTORS + 1] = {EACH_WINDOW(SPREAD_WINDOW)};

// total (filters, kernel rows, run padded to whole vectors) += the kernel gradient of an image. winners (filters, most), of
// which counts (filters) are in use.
static void NAME(add_winners_kernel_gradient)(const struct walk *walk, const float *x, const struct winner *winners,
                                              const int64_t *counts, int64_t most, float *total) {
  const int64_t vectors = (walk->run + LANES - 1) / LANES, stride = vectors * LANES;
  const int64_t pieces = (vectors + MOST_VECTORS - 1) / MOST_VECTORS, pairs = (walk->kernel_rows + 1) / 2;
  for (int64_t f = 0; f < walk->filters; f++)
    for (int64_t q = 0; q < pairs; q++)
      for (int64_t p = 0; p < pieces; p++) {
        const int64_t k = q * walk->kernel_rows / pairs, rows = (q + 1) * walk->kernel_rows / pairs - k;
        const int64_t v = p * vectors / pieces, wide = (p + 1) * vectors / pieces - v;
        NAME(outer_winners) *const add_outer = NAME(outer_windows)[rows][wide];
        add_outer(x + k * walk->image_row + v * LANES, walk->image_row, winners + f * most, counts[f],
                  total + (f * walk->kernel_rows + k) * stride + v * LANES, stride);
      }
}

// x, an image with WIDE floats of slack, += the input gradient. The list of place p of window w is
// winners[starts[4 * w + p]] to winners[starts[4 * w + p + 1]]; places (4 * windows): offsets in x.
static void NAME(add_winners_input_gradient)(const struct walk *walk, float *x, const struct winner *winners,
                                             const int32_t *starts, const int64_t *places, const float *weights) {
  const int64_t vectors = (walk->run + LANES - 1) / LANES, stride = vectors * LANES;
  const int64_t pieces = (vectors + MOST_VECTORS - 1) / MOST_VECTORS;
  // One or two kernel rows per pass, so that their weights stay in the first-level cache.
  const int64_t fitting = L1_BYTES / (4 * walk->filters * stride), together = max_of(1, min_of(2, fitting));
  const int64_t parts = (walk->kernel_rows + together - 1) / together;
  for (int64_t q = 0; q < parts; q++)
    for (int64_t p = 0; p < pieces; p++) {
      const int64_t k = q * walk->kernel_rows / parts, rows = (q + 1) * walk->kernel_rows / parts - k;
      const int64_t v = p * vectors / pieces, wide = (p + 1) * vectors / pieces - v;
      NAME(spread_winners) *spread = NAME(spread_windows)[rows][wide];
      for (int64_t w = 0; w < walk->rows / 2 * (walk->columns / 2); w++)
        for (int64_t i = 0; i < 4; i++) {
          const int32_t begin = starts[4 * w + i], end = starts[4 * w + i + 1];
          if (begin < end)
            spread(x + places[4 * w + i] + k * walk->image_row + v * LANES, walk->image_row, winners + begin, end - begin,
                   weights + k * stride + v * LANES, stride);
        }
    }
}
#endif

#undef SHARED
#undef products
#undef broadcast
#undef vec
#undef ints
#undef bytes
#undef NAME
