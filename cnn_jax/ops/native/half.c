// Convolution with bias, relu and max-pool, and its two gradients, in bfloat16 on processors with AMX, as XLA FFI handlers.
//
// As conv.c, which has the layouts, with all arrays in bfloat16 apart from `winners`. Products are exact and sums are float32;
// results are rounded once. A task copies each image into a padded buffer, so that tiles may be loaded beyond its borders.
// docs/how-a-kernel-works.md explains the layouts.

#include "shape.h"
#include "tiles.h"

// Whether this library has the functions below, and the process may use them.
int cnn_jax_has_half(void);

// As the functions of conv.c without `_half`.
XLA_FFI_Error *cnn_jax_conv_half(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *cnn_jax_conv_kernel_gradient_half(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *cnn_jax_conv_input_gradient_half(XLA_FFI_CallFrame *frame);

#if !HAVE_TILES
static XLA_FFI_Error *unavailable(XLA_FFI_CallFrame *frame) {
  return asked(frame) ? NULL : error(frame, XLA_FFI_Error_Code_UNIMPLEMENTED, "UNIMPLEMENTED: there are no tiles");
}
int cnn_jax_has_half(void) { return 0; }
XLA_FFI_Error *cnn_jax_conv_half(XLA_FFI_CallFrame *frame) { return unavailable(frame); }
XLA_FFI_Error *cnn_jax_conv_kernel_gradient_half(XLA_FFI_CallFrame *frame) { return unavailable(frame); }
XLA_FFI_Error *cnn_jax_conv_input_gradient_half(XLA_FFI_CallFrame *frame) { return unavailable(frame); }
#else

#define LANES TILE_FLOATS
#include "vectors.h"
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define SUMS (6 << 10)  // floats of a group of positions: a part of the first-level cache
#define POSITIONS 256   // of a kernel gradient's sums between loading and storing them: amortize both
#define BLOCKS 4        // tiles of sums at once
// Tile registers after those of the sums: macros, as their numbers become text.
#define A 4
#define A_REST 5
#define B 6
#define B_REST 7

struct half {
  union {
    struct shape shape;
    struct shape;
  };
  const uint16_t *x, *kernel, *bias, *y_gradient, *y;
  const uint8_t *winner;
  uint16_t *out, *out_bias;
  uint8_t *out_winner;
  uint16_t *packed;  // weights as tiles
  float *add;        // bias in whole vectors
  float *partials;   // per task: a kernel gradient and a bias gradient
  int64_t partial;   // floats per task
  _Atomic int failed;
};

static void *memory(struct half *c, int64_t size) {
  void *const found = zeros_of(size);
  if (!found) c->failed = 1;
  return found;
}

// ------------------------------------------------------------------------------------------------------------- values

// A bit for each of the first `count` of 16 values.
INLINE __mmask16 first_of(int64_t count) { return (__mmask16)(count >= LANES ? 0xffff : (1u << count) - 1); }

// Of 16 values those of the mask; the others are zero.
INLINE halves load(const uint16_t *from, __mmask16 mask) { return (halves)_mm256_maskz_loadu_epi16(mask, from); }
INLINE void store(halves values, uint16_t *to, __mmask16 mask) { _mm256_mask_storeu_epi16(to, mask, (__m256i)values); }

INLINE vec widen(halves values) { return (vec)((words)_mm512_cvtepu16_epi32((__m256i)values) << 16); }

// Rounded to nearest, ties to even; a NaN stays one.
INLINE halves narrow(vec values) {
#if defined(__AVX512BF16__)
  return (halves)_mm512_cvtneps_pbh((__m512)values);
#else
  const words bits = (words)values;
  const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const words nan = (words)(values != values);
  return __builtin_convertvector((nan & ((bits >> 16) | 0x40)) | (~nan & rounded), halves);
#endif
}

// Pairs (a, b) of 16 values each.
INLINE words interleaved(halves a, halves b) {
  return (words)_mm512_cvtepu16_epi32((__m256i)a) | ((words)_mm512_cvtepu16_epi32((__m256i)b) << 16);
}

// ----------------------------------------------------------------------------------------------------------- products

// The sums of an image's positions are a matrix (positions, filters), computed in tiles of 16 x 16. A position's inputs are
// `kernel_rows` runs of adjacent values, an even number. Positions are numbered along rows of `pitch` positions, some of which
// may lie between the image's rows: their sums are not used.
struct walk {
  int64_t image_row, row_step, column_step;  // distance of image rows; of adjacent outputs, down and across
  int64_t kernel_rows, run;
  int64_t rows, columns, filters;  // of the output
  int64_t pitch;
};

// Destination of the outputs, and their row and column distance. `winner`: NULL without pool. `add`: bias, or NULL.
struct sink {
  uint16_t *y;
  uint8_t *winner;
  const float *add;
  int64_t row, column;
  int relu;
};

// Number of tiles for `rows` rows of positions.
INLINE int64_t tiles_of(const struct walk *walk, int64_t rows, int64_t pitch) {
  return (rows ? ((rows - 1) * pitch + walk->columns + TILE_ROWS - 1) / TILE_ROWS : 0);
}

// Set the number of positions per row: as many as whole tiles have, or those of the image in memory, whichever wastes less.
static void set_pitch(struct walk *walk) {
  const int64_t tiles = whole(walk->columns, TILE_ROWS), adjacent = walk->row_step / walk->column_step;
  const int as_in_memory = walk->row_step % walk->column_step == 0 && adjacent >= walk->columns;
  walk->pitch = as_in_memory && tiles_of(walk, walk->rows, adjacent) < tiles_of(walk, walk->rows, tiles) ? adjacent : tiles;
}

// Values beyond an image's end that its tiles may reach.
static int64_t slack_of(const struct walk *walk) { return TILE_ROWS * walk->column_step + walk->run + TILE_HALVES; }

// Number of weights in tiles: (blocks of filters, kernel rows, run in whole pairs of 32, 16 filters).
static int64_t packed_size(int64_t filters, int64_t kernel_rows, int64_t run) {
  return whole(filters, TILE_FLOATS) * kernel_rows * whole(run, TILE_HALVES);
}

// Set one weight of the tiles: element `j` of the run of kernel row `k`, for filter `f`.
INLINE void set_weight(uint16_t *packed, int64_t kernel_rows, int64_t run, int64_t k, int64_t j, int64_t f, uint16_t value) {
  const int64_t padded = whole(run, TILE_HALVES);
  packed[(((f / TILE_FLOATS * kernel_rows + k) * padded + j / 2 * 2) * TILE_FLOATS) + f % TILE_FLOATS * 2 + j % 2] = value;
}

static struct tile_config config_for(int64_t rest) {
  struct tile_config config = {.palette = 1};
  for (int i = 0; i < 8; i++) config.rows[i] = TILE_ROWS, config.row_bytes[i] = 64;
  if (rest) config.row_bytes[A_REST] = (uint16_t)(2 * rest), config.rows[B_REST] = (uint8_t)(rest / 2);
  return config;
}

#define EACH_BLOCK(macro) macro(0) macro(1) macro(2) macro(3)

// `count` tiles of sums from position 16 * first on, of 16 filters, to sums (positions, filter pitch).
INLINE void sum(const int count, const struct walk *walk, const uint16_t *x, const uint16_t *weights, int64_t first,
                float *sums, int64_t filter_pitch) {
  const uint16_t *from[BLOCKS];
  for (int i = 0; i < count; i++) {
    const int64_t position = (first + i) * TILE_ROWS;
    from[i] = x + position / walk->pitch * walk->row_step + position % walk->pitch * walk->column_step;
  }
  const int64_t step = 2 * walk->column_step, rest = walk->run % TILE_HALVES;
#define ZERO(i) \
  if (i < count) tile_zero(i);
#define ADD(i)                        \
  if (i < count) {                    \
    tile_load(A, from[i] + at, step); \
    tile_product(i, A, B);            \
  }
#define ADD_REST(i)                        \
  if (i < count) {                         \
    tile_load(A_REST, from[i] + at, step); \
    tile_product(i, A_REST, B_REST);       \
  }
#define PUT(i) \
  if (i < count) tile_store(i, sums + (first + i) * TILE_ROWS * filter_pitch, 4 * filter_pitch);
  EACH_BLOCK(ZERO)
  for (int64_t k = 0; k < walk->kernel_rows; k++) {
    int64_t at = k * walk->image_row;
    for (int64_t j = 0; j + TILE_HALVES <= walk->run; j += TILE_HALVES, at += TILE_HALVES) {
      tile_load(B, weights, 64);
      weights += TILE_HALVES * TILE_FLOATS;
      EACH_BLOCK(ADD)
    }
    if (rest) {
      tile_load(B_REST, weights, 64);
      weights += TILE_HALVES * TILE_FLOATS;
      EACH_BLOCK(ADD_REST)
    }
  }
  EACH_BLOCK(PUT)
}

static void sum_1(const struct walk *w, const uint16_t *x, const uint16_t *weights, int64_t first, float *sums, int64_t pitch) {
  sum(1, w, x, weights, first, sums, pitch);
}
static void sum_2(const struct walk *w, const uint16_t *x, const uint16_t *weights, int64_t first, float *sums, int64_t pitch) {
  sum(2, w, x, weights, first, sums, pitch);
}
static void sum_3(const struct walk *w, const uint16_t *x, const uint16_t *weights, int64_t first, float *sums, int64_t pitch) {
  sum(3, w, x, weights, first, sums, pitch);
}
static void sum_4(const struct walk *w, const uint16_t *x, const uint16_t *weights, int64_t first, float *sums, int64_t pitch) {
  sum(4, w, x, weights, first, sums, pitch);
}
static void (*const sums_of[])(const struct walk *, const uint16_t *, const uint16_t *, int64_t, float *, int64_t) = {
    NULL, sum_1, sum_2, sum_3, sum_4};

// Bias, relu and rounding of a row of outputs.
static void finish_row(const struct walk *walk, const struct sink *sink, const float *sums, int64_t filter_pitch, uint16_t *y) {
  const vec least = (vec){0} + (sink->relu ? 0 : -__builtin_inff());
  for (int64_t f = 0; f < walk->filters; f += LANES) {
    const __mmask16 mask = first_of(walk->filters - f);
    const vec add = sink->add ? *(const vec *)(sink->add + f) : (vec){0};
    for (int64_t q = 0; q < walk->columns; q++) {
      const vec value = *(const vec *)(sums + q * filter_pitch + f) + add;
      store(narrow(NAME(at_least)(least, value)), y + q * sink->column + f, mask);
    }
  }
}

// The same for two rows with pool: the maxima of 2x2 windows and their indices.
static void finish_windows(const struct walk *walk, const struct sink *sink, const float *sums, int64_t filter_pitch,
                           uint16_t *y, uint8_t *winner) {
  const vec least = (vec){0} + (sink->relu ? 0 : -__builtin_inff());
  const ints dead = (ints){0} + (sink->relu ? DEAD : 0);
  const int64_t below = walk->pitch * filter_pitch;
  for (int64_t f = 0; f < walk->filters; f += LANES) {
    const __mmask16 mask = first_of(walk->filters - f);
    const vec add = *(const vec *)(sink->add + f);
    for (int64_t q = 0; q + 1 < walk->columns; q += 2) {
      const float *from = sums + q * filter_pitch + f;
      ints which;
      vec best = NAME(largest)(*(const vec *)from, *(const vec *)(from + filter_pitch), *(const vec *)(from + below),
                               *(const vec *)(from + below + filter_pitch), &which);
      best += add;
      which |= ~(best > 0) & dead;
      const bytes index = __builtin_convertvector(which, bytes);
      store(narrow(NAME(at_least)(least, best)), y + q / 2 * sink->column + f, mask);
      _mm_mask_storeu_epi8(winner + q / 2 * sink->column + f, mask, (__m128i)index);
    }
  }
}

// All outputs of an image. `sums`: room for SUMS floats, or for the sums of a row (two with pool) in whole tiles.
static void convolve(const struct walk *walk, const uint16_t *x, const uint16_t *weights, float *sums,
                     const struct sink *sink) {
  const int64_t filter_pitch = whole(walk->filters, TILE_FLOATS), unit = sink->winner ? 2 : 1;
  const int64_t block = packed_size(TILE_FLOATS, walk->kernel_rows, walk->run);
  const int64_t together = max_of(1, SUMS / filter_pitch / walk->pitch / unit) * unit;
  for (int64_t r = 0; r < walk->rows; r += together) {
    const int64_t rows = min_of(together, walk->rows - r), tiles = tiles_of(walk, rows, walk->pitch);
    const int64_t blocks = (tiles + BLOCKS - 1) / BLOCKS;
    for (int64_t f = 0; f < filter_pitch; f += TILE_FLOATS)
      for (int64_t i = 0; i < blocks; i++) {
        const int64_t first = i * tiles / blocks, end = (i + 1) * tiles / blocks;
        sums_of[end - first](walk, x + r * walk->row_step, weights + f / TILE_FLOATS * block, first, sums + f, filter_pitch);
      }
    for (int64_t i = 0; i < rows; i += unit) {
      const float *from = sums + i * walk->pitch * filter_pitch;
      const int64_t at = (r + i) / unit * sink->row;
      if (unit == 2)
        finish_windows(walk, sink, from, filter_pitch, sink->y + at, sink->winner + at);
      else
        finish_row(walk, sink, from, filter_pitch, sink->y + at);
    }
  }
}

// Floats that `convolve` needs for sums.
static int64_t sums_size(const struct walk *walk) {
  const int64_t filter_pitch = whole(walk->filters, TILE_FLOATS);
  return max_of(SUMS, (2 * walk->pitch + TILE_ROWS) * filter_pitch) + TILE_ROWS * filter_pitch;
}

// ------------------------------------------------------------------------------------------------------------- copies

// Copy `count` pixels of some channels to pixels of `pitch` channels.
INLINE void put_pixels(const int64_t channels, int64_t pitch, int64_t count, const uint16_t *restrict from,
                       uint16_t *restrict to) {
  for (int64_t q = 0; q < count; q++) memcpy(to + q * pitch, from + q * channels, (size_t)(2 * channels));
}

// Copy an image (rows, columns, channels) to `padded` (padded rows, padded columns, pitch), at (top, left).
static void put(const struct half *c, const uint16_t *image, uint16_t *padded, int64_t pitch) {
  for (int64_t r = 0; r < c->rows; r++) {
    uint16_t *to = padded + ((r + c->top) * c->padded_columns + c->left) * pitch;
    const uint16_t *from = image + r * c->columns * c->channels;
    if (pitch == c->channels)
      memcpy(to, from, (size_t)(2 * c->columns * c->channels));
    else if (c->channels == 1)
      put_pixels(1, 2, c->columns, from, to);
    else if (c->channels == 3)
      put_pixels(3, 4, c->columns, from, to);
    else
      put_pixels(c->channels, pitch, c->columns, from, to);
  }
}

// Write the gradient of one image's outputs, as far as relu and pool let it through, with the given distances. Add it up in sum
// (filters in whole vectors), if there is one.
static void put_gradient(const struct half *c, int64_t image, uint16_t *to, int64_t row, int64_t column, float *sum) {
  const int64_t unit = c->pool ? 2 : 1, at = image * c->y_rows * c->y_columns * c->filters;
  for (int64_t f = 0; f < c->filters; f += LANES) {
    const __mmask16 mask = first_of(c->filters - f);
    vec total = {0};
    for (int64_t r = 0; r < c->y_rows; r++) {
      int64_t from = at + r * c->y_columns * c->filters + f;
      uint16_t *place = to + unit * r * row + f;
      for (int64_t q = 0; q < c->y_columns; q++, from += c->filters, place += unit * column) {
        halves g = load(c->y_gradient + from, mask);
        if (c->pool) {
          const __m256i who = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(mask, c->winner + from));
          UNROLL(p, 4) {
            const __mmask16 here = _mm256_cmpeq_epi16_mask(who, _mm256_set1_epi16((short)p));
            store((halves)_mm256_maskz_mov_epi16(here, (__m256i)g), place + p / 2 * row + p % 2 * column, mask);
          }
          if (sum) g = (halves)_mm256_maskz_mov_epi16(_mm256_cmplt_epi16_mask(who, _mm256_set1_epi16(DEAD)), (__m256i)g);
        } else {
          if (c->relu) {  // positive numbers are 1 to 0x7f80, infinity; NaNs are above
            const halves above = load(c->y + from, mask) - 1;
            const __mmask16 alive = _mm256_cmplt_epu16_mask((__m256i)above, _mm256_set1_epi16(0x7f80));
            g = (halves)_mm256_maskz_mov_epi16(alive, (__m256i)g);
          }
          store(g, place, mask);
        }
        if (sum) total += widen(g);
      }
    }
    if (sum) *(vec *)(sum + f) += total;
  }
}

// ----------------------------------------------------------------------------------------------------------- forward

static struct walk forward_walk(const struct half *c, int64_t pitch) {
  struct walk walk = {
      .image_row = c->padded_columns * pitch,
      .row_step = c->row_stride * c->padded_columns * pitch,
      .column_step = c->column_stride * pitch,
      .kernel_rows = c->kernel_rows,
      .run = c->kernel_columns * pitch,
      .rows = c->out_rows,
      .columns = c->out_columns,
      .filters = c->filters,
  };
  set_pitch(&walk);
  return walk;
}

static void forward(void *call, int64_t task, int64_t first, int64_t last) {
  struct half *const c = call;
  (void)task;
  const int64_t pitch = whole(c->channels, 2);
  const struct walk walk = forward_walk(c, pitch);
  const int64_t size = c->rows * c->columns * c->channels, y_size = c->y_rows * c->y_columns * c->filters;
  uint16_t *padded = memory(c, 2 * (c->padded_rows * c->padded_columns * pitch + slack_of(&walk)));
  float *sums = memory(c, 4 * sums_size(&walk));
  if (!c->failed) {
    const struct tile_config config = config_for(walk.run % TILE_HALVES);
    tile_configure(&config);
    for (int64_t i = first; i < last; i++) {
      put(c, c->x + i * size, padded, pitch);
      const struct sink sink = {c->out + i * y_size,
                                c->pool ? c->out_winner + i * y_size : NULL,
                                c->add,
                                c->y_columns * c->filters,
                                c->filters,
                                c->relu};
      convolve(&walk, padded, c->packed, sums, &sink);
    }
    tile_release();
  }
  free(padded), free(sums);
}

static void pack_forward(struct half *c) {
  const int64_t pitch = whole(c->channels, 2), run = c->kernel_columns * pitch;
  c->packed = memory(c, 2 * packed_size(c->filters, c->kernel_rows, run));
  c->add = memory(c, 4 * whole(c->filters, LANES));
  if (c->failed) return;
  const uint16_t *from = c->kernel;
  for (int64_t k = 0; k < c->kernel_rows; k++)
    for (int64_t l = 0; l < c->kernel_columns; l++)
      for (int64_t i = 0; i < c->channels; i++)
        for (int64_t f = 0; f < c->filters; f++) set_weight(c->packed, c->kernel_rows, run, k, l * pitch + i, f, *from++);
  for (int64_t f = 0; f < c->filters; f += LANES) *(vec *)(c->add + f) = widen(load(c->bias + f, first_of(c->filters - f)));
}

// ----------------------------------------------------------------------------------------------------- input gradient
// The convolution of the outputs' gradient with the mirrored kernel, by phases (see shape.h).

static void input_gradient(void *call, int64_t task, int64_t first, int64_t last) {
  struct half *const c = call;
  (void)task;
  const int64_t size = c->rows * c->columns * c->channels, pitch = whole(c->filters, 2);
  const struct range r = range_of(c->rows, c->out_rows, c->kernel_rows, c->row_stride, c->top);
  const struct range q = range_of(c->columns, c->out_columns, c->kernel_columns, c->column_stride, c->left);
  const int64_t row = (q.high - q.low) * pitch;
  const struct walk widest = {
      .column_step = pitch,
      .run = c->kernel_columns * pitch,
      .columns = c->columns,
      .filters = c->channels,
      .pitch = max_of(whole(c->columns, TILE_ROWS), q.high - q.low),
  };
  uint16_t *gradient = memory(c, 2 * ((r.high - r.low) * row + slack_of(&widest)));
  float *sums = memory(c, 4 * sums_size(&widest));
  if (c->failed) goto end;
  for (int64_t i = first; i < last; i++) {
    put_gradient(c, i, gradient - r.low * row - q.low * pitch, row, pitch, NULL);
    uint16_t *out = c->out + i * size;
    if (c->kernel_rows < c->row_stride || c->kernel_columns < c->column_stride) memset(out, 0, (size_t)(2 * size));
    const uint16_t *weights = c->packed;
    for (int64_t a = 0; a < c->row_stride; a++)
      for (int64_t b = 0; b < c->column_stride; b++) {
        const struct phase down = phase_of(a, c->rows, c->kernel_rows, c->row_stride, c->top);
        const struct phase across = phase_of(b, c->columns, c->kernel_columns, c->column_stride, c->left);
        struct walk walk = {
            .image_row = row,
            .row_step = row,
            .column_step = pitch,
            .kernel_rows = down.taps,
            .run = across.taps * pitch,
            .rows = down.count,
            .columns = across.count,
            .filters = c->channels,
        };
        if (down.taps && across.taps && down.count && across.count) {
          set_pitch(&walk);
          const struct tile_config config = config_for(walk.run % TILE_HALVES);
          tile_configure(&config);
          const struct sink sink = {.y = out + (down.first * c->columns + across.first) * c->channels,
                                    .row = c->row_stride * c->columns * c->channels,
                                    .column = c->column_stride * c->channels};
          convolve(&walk, gradient + (down.begin - r.low) * row + (across.begin - q.low) * pitch, weights, sums, &sink);
        }
        weights += packed_size(c->channels, down.taps, across.taps * pitch);
      }
  }
  tile_release();
end:
  free(gradient), free(sums);
}

// Pack the mirrored kernel by phase.
static void pack_mirrored(struct half *c) {
  const int64_t pitch = whole(c->filters, 2);
  for (int pass = 0; pass < 2; pass++) {  // the size, then the weights
    int64_t size = 0;
    for (int64_t a = 0; a < c->row_stride; a++)
      for (int64_t b = 0; b < c->column_stride; b++) {
        const int64_t down = phase_of(a, c->rows, c->kernel_rows, c->row_stride, c->top).taps;
        const int64_t across = phase_of(b, c->columns, c->kernel_columns, c->column_stride, c->left).taps;
        for (int64_t k = 0; k < down && pass; k++)
          for (int64_t l = 0; l < across; l++) {
            const int64_t row = a + c->row_stride * (down - 1 - k), column = b + c->column_stride * (across - 1 - l);
            const uint16_t *from = c->kernel + (row * c->kernel_columns + column) * c->channels * c->filters;
            for (int64_t i = 0; i < c->channels; i++)
              for (int64_t f = 0; f < c->filters; f++)
                set_weight(c->packed + size, down, across * pitch, k, l * pitch + f, i, *from++);
          }
        size += packed_size(c->channels, down, across * pitch);
      }
    if (!pass && !(c->packed = memory(c, 2 * size))) return;
  }
}

// ---------------------------------------------------------------------------------------------------- kernel gradient
// The gradient of tap (k, l) is the product of two matrices over the positions of an image: gradients (filters, positions) and
// inputs (positions, channels) at the tap's offset. The outputs' gradient is therefore transposed, and the inputs are stored as
// pairs of adjacent positions: twice, since the first of a pair may be even or odd. With strides, inputs split into phases by
// the remainder of row and column. Few channels: the window's row is taken as the channels of a kernel of one column.

struct layout {
  int64_t run;                          // channels of a position: those of a window's row if they fit 16, and one column
  int64_t columns;                      // of the kernel, then
  int64_t channel_pitch, filter_pitch;  // in whole tiles
  int64_t phase_rows, phase_columns;    // phases that the taps use
  int64_t pitch, positions;             // per row; per image, a multiple of 32
  int64_t gradient_row;                 // an odd number of cache lines, so that those of a tile do not share a set
  int64_t pairs;                        // per image, phase and parity
  int64_t inputs, gradients;            // values per image
  int64_t together;                     // images whose sums are added up before they are stored
};

static struct layout layout_of(const struct half *c) {
  struct layout l = {.run = c->channels, .columns = c->kernel_columns};
  if (c->kernel_columns * c->channels <= TILE_FLOATS) l.run = c->kernel_columns * c->channels, l.columns = 1;
  l.channel_pitch = whole(l.run, TILE_FLOATS), l.filter_pitch = whole(c->filters, TILE_FLOATS);
  l.phase_rows = min_of(c->row_stride, c->kernel_rows), l.phase_columns = min_of(c->column_stride, l.columns);
  l.pitch = c->out_columns + (l.columns - 1) / c->column_stride;
  l.positions = whole(c->out_rows * l.pitch, TILE_HALVES);
  l.gradient_row = l.positions + (l.positions / TILE_HALVES % 2 ? 0 : TILE_HALVES);
  const int64_t offset = (c->kernel_rows - 1) / c->row_stride * l.pitch + (l.columns - 1) / c->column_stride;
  l.pairs = (l.positions + offset) / 2 + 1;
  l.inputs = l.phase_rows * l.phase_columns * 2 * l.pairs * l.channel_pitch * 2;
  l.gradients = l.filter_pitch * l.gradient_row;
  l.together = max_of(1, POSITIONS / l.positions);
  return l;
}

// Store the inputs of a padded image as pairs of positions: (phases, parity, pairs, channel pitch, 2). Return whether all are
// finite.
static int put_pairs(const struct half *c, const struct layout *l, const uint16_t *padded, uint16_t *to) {
  const int64_t width = l->channel_pitch * 2, rows = c->out_rows + (c->kernel_rows - 1) / c->row_stride;
  halves infinite = {0};
  for (int64_t a = 0; a < l->phase_rows; a++)
    for (int64_t b = 0; b < l->phase_columns; b++, to += 2 * l->pairs * width)
      for (int64_t i = 0; i < l->run; i += LANES) {
        const __mmask16 mask = first_of(l->run - i);
        // The pair of positions (p - 1, p) begins at an even one if p is odd. There is none for the first position.
        uint16_t *pairs[2] = {to + (l->pairs - 1) * width + 2 * i, to + 2 * i};
        halves before = {0};
        for (int64_t r = 0, p = 0; r <= rows; r++) {
          const int64_t row = r * c->row_stride + a, all = r < rows ? l->pitch : 1;  // one more completes the last pair
          const int64_t real =
              r < rows && row < c->padded_rows ? min_of(all, (c->padded_columns - b - 1) / c->column_stride + 1) : 0;
          const uint16_t *from = padded + (row * c->padded_columns + b) * c->channels + i;
          for (int64_t q = 0; q < all; q++, p++, from += c->column_stride * c->channels) {
            const halves now = q < real ? load(from, mask) : (halves){0};
            infinite |= (halves)((now & 0x7f80) == 0x7f80);
            if (p) *(words *)pairs[p % 2] = interleaved(before, now);
            pairs[p % 2] += width;
            before = now;
          }
        }
      }
  uint64_t any[4];
  memcpy(any, &infinite, sizeof any);
  return !(any[0] | any[1] | any[2] | any[3]);
}

// Transpose 16 x 16 words.
INLINE void transpose(words m[16]) {
  typedef int32_t order __attribute__((vector_size(4 * LANES)));
#define STAGE(width)                                                                                         \
  {                                                                                                          \
    order low, high;                                                                                         \
    UNROLL(i, 16) low[i] = i & (width) ? 16 + i - (width) : i, high[i] = i & (width) ? 16 + i : i + (width); \
    UNROLL(i, 16)                                                                                            \
      if (!(i & (width))) {                                                                                  \
        const words upper = m[i], lower = m[i + (width)];                                                    \
        m[i] = __builtin_shuffle(upper, lower, low), m[i + (width)] = __builtin_shuffle(upper, lower, high); \
      }                                                                                                      \
  }
  STAGE(8)
  STAGE(4)
  STAGE(2)
  STAGE(1)
#undef STAGE
}

// Transpose gradients (positions, filter pitch) to (filter pitch, gradient row).
static void put_transposed(const struct layout *l, const uint16_t *gradient, uint16_t *to) {
  for (int64_t f = 0; f < l->filter_pitch; f += LANES)
    for (int64_t p = 0; p < l->positions; p += 2 * LANES) {
      words m[LANES];
      const uint16_t *from = gradient + p * l->filter_pitch + f;
      UNROLL(i, LANES)
        m[i] = interleaved(*(const halves *)(from + 2 * i * l->filter_pitch),
                           *(const halves *)(from + (2 * i + 1) * l->filter_pitch));
      transpose(m);
      UNROLL(i, LANES) *(words *)(to + (f + i) * l->gradient_row + p) = m[i];
    }
}

// Place of the first pair of a column in the inputs of an image. Columns are (16 channels each, kernel rows, kernel columns):
// the taps of the same channels use the same inputs, which stay in the first-level cache.
static int64_t place_of(const struct half *c, const struct layout *l, int64_t column) {
  const int64_t taps = c->kernel_rows * l->columns, k = column % taps / l->columns, j = column % l->columns;
  const int64_t phase = k % c->row_stride * l->phase_columns + j % c->column_stride;
  const int64_t offset = k / c->row_stride * l->pitch + j / c->column_stride;
  return ((phase * 2 + offset % 2) * l->pairs + offset / 2) * l->channel_pitch * 2 + column / taps * 2 * TILE_FLOATS;
}

// Place of the gradient of a tap, of one channel and one filter, in `total`.
INLINE int64_t place_in_total(const struct half *c, const struct layout *l, int64_t tap, int64_t channel, int64_t filter) {
  const int64_t column = channel / TILE_FLOATS * c->kernel_rows * l->columns + tap;
  return (column * l->filter_pitch + filter) * TILE_FLOATS + channel % TILE_FLOATS;
}

// Add `f` x `n` products of gradients (tiles of 16 filters) and inputs (columns from `first` on) to total (columns, filters /
// 16, 16 filters, 16 channels).
INLINE void add_products(const int f, const int n, const struct half *c, const struct layout *l, const uint16_t *gradients,
                         const uint16_t *inputs, int64_t images, int64_t block, int64_t first, float *total) {
  const uint16_t *from[BLOCKS];
  float *to[BLOCKS];
  for (int j = 0; j < n; j++) from[j] = inputs + place_of(c, l, first + j);
  for (int i = 0; i < f * n; i++)
    to[i] = total + ((first + i % n) * (l->filter_pitch / TILE_FLOATS) + block + i / n) * TILE_ROWS * TILE_FLOATS;
  gradients += block * TILE_ROWS * l->gradient_row;
#define GET(i) \
  if (i < f * n) tile_load(i, to[i], 64);
#define KEEP(i) \
  if (i < f * n) tile_store(i, to[i], 64);
  EACH_BLOCK(GET)
  const int64_t stride = l->channel_pitch * 4;
  for (int64_t image = 0; image < images; image++)
    for (int64_t p = 0; p < l->positions; p += TILE_HALVES) {
      const uint16_t *const g = gradients + image * l->gradients + p;
      const int64_t at = image * l->inputs + p * l->channel_pitch;
      tile_load(4, g, 2 * l->gradient_row);
      if (f == 2) tile_load(5, g + TILE_ROWS * l->gradient_row, 2 * l->gradient_row);
      tile_load(6, from[0] + at, stride);
      tile_product(0, 4, 6);
      if (f == 2 && n == 1) tile_product(1, 5, 6);
      if (f == 2 && n == 2) tile_product(2, 5, 6);
      if (n >= 2) {
        tile_load(7, from[1] + at, stride);
        tile_product(1, 4, 7);
        if (f == 2) tile_product(3, 5, 7);
      }
      if (n >= 3) {
        tile_load(6, from[2] + at, stride);
        tile_product(2, 4, 6);
      }
      if (n == 4) {
        tile_load(7, from[3] + at, stride);
        tile_product(3, 4, 7);
      }
    }
  EACH_BLOCK(KEEP)
}

static void add_all_products(const struct half *c, const struct layout *l, const uint16_t *gradients, const uint16_t *inputs,
                             int64_t images, float *total) {
  const int64_t blocks = l->filter_pitch / TILE_FLOATS;
  const int64_t columns = c->kernel_rows * l->columns * (l->channel_pitch / TILE_FLOATS);
  for (int64_t b = 0, f; b < blocks; b += f) {
    f = min_of(2, blocks - b);
    for (int64_t j = 0, n; j < columns; j += n) {
      n = min_of(BLOCKS / f, columns - j);
#define CASE(rows, count) \
  if (f == (rows) && n == (count)) add_products(rows, count, c, l, gradients, inputs, images, b, j, total);
      CASE(2, 2) CASE(2, 1) CASE(1, 4) CASE(1, 3) CASE(1, 2) CASE(1, 1)
#undef CASE
    }
  }
}

// The same for an image with inputs that are not finite, without tiles: these would multiply by zero what a tap does not see.
static void add_plain_products(const struct half *c, const struct layout *l, const uint16_t *gradient, const uint16_t *padded,
                               float *total) {
  for (int64_t k = 0; k < c->kernel_rows; k++)
    for (int64_t j = 0; j < l->columns; j++)
      for (int64_t i = 0; i < l->run; i++)
        for (int64_t f = 0; f < l->filter_pitch; f += LANES) {
          vec sum = {0};
          for (int64_t r = 0; r < c->out_rows; r++)
            for (int64_t q = 0; q < c->out_columns; q++) {
              const int64_t row = r * c->row_stride + k, column = q * c->column_stride + j;
              const uint32_t bits = (uint32_t)padded[(row * c->padded_columns + column) * c->channels + i] << 16;
              float seen;
              memcpy(&seen, &bits, 4);
              sum += seen * widen(*(const halves *)(gradient + (r * l->pitch + q) * l->filter_pitch + f));
            }
          for (int64_t at = 0; at < LANES; at++) total[place_in_total(c, l, k * l->columns + j, i, f + at)] += sum[at];
        }
}

// Add the kernel and bias gradients of some images to the task's partial sums.
static void add_to_partial(void *call, int64_t task, int64_t first, int64_t last) {
  struct half *const c = call;
  const struct layout l = layout_of(c);
  const int64_t size = c->rows * c->columns * c->channels;
  uint16_t *padded = memory(c, 2 * (c->padded_rows * c->padded_columns * c->channels + TILE_HALVES));
  uint16_t *gradient = memory(c, 2 * l.positions * l.filter_pitch);
  uint16_t *inputs = memory(c, 2 * l.together * l.inputs), *gradients = memory(c, 2 * l.together * l.gradients);
  float *total = c->partials + task * c->partial, *bias = total + c->partial - l.filter_pitch;
  if (!c->failed) {
    const struct tile_config config = config_for(0);
    tile_configure(&config);
    for (int64_t i = first, held = 0; i < last; i++) {
      put(c, c->x + i * size, padded, c->channels);
      put_gradient(c, i, gradient, l.pitch * l.filter_pitch, l.filter_pitch, c->biased ? bias : NULL);
      if (put_pairs(c, &l, padded, inputs + held * l.inputs))
        put_transposed(&l, gradient, gradients + held++ * l.gradients);
      else
        add_plain_products(c, &l, gradient, padded, total);
      if (held == l.together || (held && i == last - 1)) add_all_products(c, &l, gradients, inputs, held, total), held = 0;
    }
    tile_release();
  }
  free(padded), free(gradient), free(inputs), free(gradients);
}

// Round a float.
static uint16_t rounded(float value) {
  const vec all = (vec){0} + value;
  return narrow(all)[0];
}

// Sum up the tasks' partial sums and write kernel gradient (rows, columns, channels, filters) and bias gradient (filters).
static void kernel_gradient(XLA_FFI_CallFrame *frame, struct half *c) {
  const struct layout l = layout_of(c);
  const int64_t taps = c->kernel_rows * l.columns, size = taps * l.channel_pitch * l.filter_pitch;
  c->partial = size + l.filter_pitch;
  c->tasks = min_of(c->tasks, max_of(4, PARTIAL_FLOATS / c->partial));  // at least 4, for several threads
  if (!(c->partials = memory(c, 4 * c->tasks * c->partial))) return;
  if (!in_tasks(frame, add_to_partial, c, c->images, c->tasks)) c->failed = 1;
  if (c->failed) return;
  float *total = c->partials;
  for (int64_t task = 1; task < c->tasks; task++)
    for (int64_t i = 0; i < c->partial; i += LANES) *(vec *)(total + i) += *(const vec *)(total + task * c->partial + i);
  for (int64_t tap = 0; tap < taps; tap++)
    for (int64_t i = 0; i < l.run; i++)
      for (int64_t f = 0; f < c->filters; f++)
        c->out[(tap * l.run + i) * c->filters + f] = rounded(total[place_in_total(c, &l, tap, i, f)]);
  for (int64_t f = 0; f < c->filters; f++) c->out_bias[f] = rounded(total[size + f]);
}

// ---------------------------------------------------------------------------------------------------------- handlers

int cnn_jax_has_half(void) { return tiles_permitted(); }

static void work_on(XLA_FFI_CallFrame *frame, struct half *c, work *function) {
  if (!c->failed && !in_tasks(frame, function, c, c->images, c->tasks)) c->failed = 1;
}

// Free the buffers and return the status.
static XLA_FFI_Error *finish(XLA_FFI_CallFrame *frame, struct half *c) {
  free(c->packed), free(c->add), free(c->partials);
  return c->failed ? error(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: convolution") : NULL;
}

XLA_FFI_Error *cnn_jax_conv_half(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct half c = {0};
  XLA_FFI_Buffer *x = argument(frame, 0), *kernel = argument(frame, 1), *bias = argument(frame, 2), *y = result(frame, 0);
  read_shapes(&c.shape, frame, x->dims, kernel->dims, y->dims);
  c.x = x->data, c.kernel = kernel->data, c.bias = bias->data, c.out = y->data;
  if (c.pool) c.out_winner = result(frame, 1)->data;
  pack_forward(&c);
  work_on(frame, &c, forward);
  return finish(frame, &c);
}

XLA_FFI_Error *cnn_jax_conv_kernel_gradient_half(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct half c = {0};
  XLA_FFI_Buffer *x = argument(frame, 0), *gradient = argument(frame, 1), *seen = argument(frame, 2);
  read_shapes(&c.shape, frame, x->dims, result(frame, 0)->dims, gradient->dims);
  c.x = x->data, c.y_gradient = gradient->data, c.y = seen->data, c.winner = seen->data;
  c.out = result(frame, 0)->data, c.out_bias = result(frame, 1)->data;
  kernel_gradient(frame, &c);
  return finish(frame, &c);
}

XLA_FFI_Error *cnn_jax_conv_input_gradient_half(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct half c = {0};
  XLA_FFI_Buffer *gradient = argument(frame, 0), *kernel = argument(frame, 1), *seen = argument(frame, 2);
  read_shapes(&c.shape, frame, result(frame, 0)->dims, kernel->dims, gradient->dims);
  c.y_gradient = gradient->data, c.kernel = kernel->data, c.y = seen->data, c.winner = seen->data;
  c.out = result(frame, 0)->data;
  pack_mirrored(&c);
  work_on(frame, &c, input_gradient);
  return finish(frame, &c);
}
#endif
