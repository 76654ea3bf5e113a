// Convolution with bias, relu and max-pool, and its two gradients, float32 on CPU, as XLA FFI handlers.
//
// x (images, rows, columns, channels), kernel (rows, columns, channels, filters): channels last. A task processes several
// images with buffers of its own. The division into tasks does not depend on the number of threads, and so neither do the
// results.
// `__init__.py` compiles this file for the host's processor. docs/how-a-kernel-works.md explains macros and loops.

#include "loops.h"

#define AT_ONCE 1
#define LANES WIDE
#include "lanes.h"
#undef LANES
#undef AT_ONCE

// The exported functions. N images of (H, W, C); kernel (K, L, C, F); (P, Q): rows and columns of y, halved if there is a pool.
// All arrays are float32, apart from `winners`, which is uint8. Each function has one attribute, an array of 7 int64: row
// stride, column stride, zeros above and left of the image, relu, pool, and whether the caller needs the gradient of the bias.

// x (N, H, W, C), kernel (K, L, C, F), bias (F) -> y (N, P, Q, F); with pool also winners (N, P, Q, F).
XLA_FFI_Error *cnn_jax_conv(XLA_FFI_CallFrame *frame);

// x (N, H, W, C), gradient of y (N, P, Q, F), seen -> gradient of kernel (K, L, C, F), gradient of bias (F).
// seen: winners (N, P, Q, F) with pool; y (N, P, Q, F) with relu and no pool; any array with neither.
XLA_FFI_Error *cnn_jax_conv_kernel_gradient(XLA_FFI_CallFrame *frame);

// gradient of y (N, P, Q, F), kernel (K, L, C, F), seen (as above) -> gradient of x (N, H, W, C).
XLA_FFI_Error *cnn_jax_conv_input_gradient(XLA_FFI_CallFrame *frame);

// Arguments and buffers of one call.
struct conv {
  union {
    struct shape shape;
    struct shape;
  };
  int plain;  // Winograd is ruled out for this kernel: see winograd.h
  const float *x, *kernel, *bias, *y_gradient, *y;
  const uint8_t *winner;
  float *out, *out_bias;
  uint8_t *out_winner;
  float *packed;       // weights in the order of the loops
  float *transformed;  // weights transformed for Winograd
  float *partials;     // per task: a kernel gradient and a bias gradient
  int64_t partial;     // floats per task
  _Atomic int failed;
};

// Width of the vectors for a number of filters; `count` rounded up to whole vectors.
static int64_t lanes_for(int64_t filters) { return filters <= NARROW ? NARROW : WIDE; }

// Floats of a run that `convolve` multiplies at once: see lanes.h.
static int64_t at_once(int64_t lanes) { return lanes == NARROW ? WIDE / NARROW : 1; }

// The weights of `filters` filters with `rows` kernel rows: (blocks of filters, rows, run / at once, lanes, at once).
static int64_t weights_of(int64_t filters, int64_t rows, int64_t run) {
  const int64_t lanes = lanes_for(filters);
  return whole(filters, lanes) * rows * whole(run, at_once(lanes));
}

// The place among them of filter `f`, kernel row `k`, float `j` of the run.
static int64_t weight_at(int64_t filters, int64_t rows, int64_t run, int64_t f, int64_t k, int64_t j) {
  const int64_t lanes = lanes_for(filters), together = at_once(lanes), runs = whole(run, together) / together;
  return ((((f / lanes * rows + k) * runs + j / together) * lanes) + f % lanes) * together + j % together;
}

// Allocate `count` zeros, at least 16, aligned to a cache line. On failure set c->failed and return NULL.
static float *floats(struct conv *c, int64_t count) {
  float *const memory = zeros_of(4 * count);
  if (!memory) c->failed = 1;
  return memory;
}

static void work_on(XLA_FFI_CallFrame *frame, struct conv *c, work *function) {
  if (!in_tasks(frame, function, c, c->images, c->tasks)) c->failed = 1;
}

// ------------------------------------------------------------------------------------------------------------ copies

// Whether the image must be copied into a padded buffer.
static int needs_copy(const struct conv *c) {
  return c->top || c->left || c->padded_rows > c->rows || c->padded_columns > c->columns;
}

// Copy an image (rows, columns, channels) to `padded` (padded rows, padded columns, channels), at (top, left).
static void put(const struct conv *c, const float *image, float *padded) {
  const int64_t size = 4 * c->columns * c->channels;
  for (int64_t r = 0; r < c->rows; r++)
    memcpy(padded + ((r + c->top) * c->padded_columns + c->left) * c->channels, image + r * c->columns * c->channels,
           (size_t)size);
}

static struct walk walk_of(const struct conv *c) {
  return (struct walk){
      .image_row = c->padded_columns * c->channels,
      .row_step = c->row_stride * c->padded_columns * c->channels,
      .column_step = c->column_stride * c->channels,
      .kernel_rows = c->kernel_rows,
      .run = c->kernel_columns * c->channels,
      .rows = c->out_rows,
      .columns = c->out_columns,
      .filters = c->filters,
      .relu = c->relu,
      .pool = c->pool,
  };
}

// Copy the gradient of one image's outputs, masked by relu, to `to` with the given distances. Add it up in sum (filters).
static void pass_gradient(const struct conv *c, int64_t image, float *to, int64_t row, int64_t column, float *sum) {
  const int64_t at = image * c->out_rows * c->out_columns * c->filters;
  JOIN(pass_gradient, WIDE)(c->y_gradient + at, c->relu ? c->y + at : NULL, c->out_rows, c->out_columns, c->filters, to, row,
                            column, sum);
}

#include "winograd.h"

// ----------------------------------------------------------------------------------------------------------- forward

// The plain loops: direct convolution.
static void forward(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  (void)task;
  const struct walk walk = walk_of(c);
  const int64_t size = c->rows * c->columns * c->channels, y_size = c->y_rows * c->y_columns * c->filters;
  float *padded = needs_copy(c) ? floats(c, c->padded_rows * c->padded_columns * c->channels) : NULL;
  if (c->failed) goto end;
  const float *bias = c->packed + weights_of(c->filters, walk.kernel_rows, walk.run);
  for (int64_t i = first; i < last; i++) {
    const float *x = c->x + i * size;
    if (padded) put(c, x, padded), x = padded;
    const struct sink sink = {c->out + i * y_size, c->pool ? c->out_winner + i * y_size : NULL, c->y_columns * c->filters,
                              c->filters};
    (c->filters <= NARROW ? JOIN(convolve, NARROW) : JOIN(convolve, WIDE))(&walk, x, c->packed, bias, &sink);
  }
end:
  free(padded);
}

// Pack kernel (rows, run, filters), followed by the bias.
static void pack_forward(struct conv *c) {
  const int64_t run = c->kernel_columns * c->channels, size = weights_of(c->filters, c->kernel_rows, run);
  if (!(c->packed = floats(c, size + whole(c->filters, lanes_for(c->filters))))) return;
  for (int64_t k = 0; k < c->kernel_rows; k++)
    for (int64_t j = 0; j < run; j++)
      for (int64_t f = 0; f < c->filters; f++)
        c->packed[weight_at(c->filters, c->kernel_rows, run, f, k, j)] = c->kernel[(k * run + j) * c->filters + f];
  if (c->bias) memcpy(c->packed + size, c->bias, (size_t)(4 * c->filters));
}

// ---------------------------------------------------------------------------------------------------- kernel gradient

#if MASKS
// The kernel gradient of a k x k convolution with pool and few channels, for 16 filters at once. A permutation selects the
// input of each filter's winner from two rows of a window. (k + 1) * channels must fit a vector, and k * k * channels the
// registers.
INLINE void few_channels(const int k, const int channels, const struct conv *c, const struct walk *walk, const float *x,
                         const float *gradient, const uint8_t *winner, float *total, float *bias) {
  for (int64_t f = 0; f < c->filters; f += 16) {
    const __mmask16 real = c->filters - f >= 16 ? 0xffff : (__mmask16)((1u << (c->filters - f)) - 1);
    __m512 sums[27], sum = _mm512_loadu_ps(bias + f);
    float *to = total + f * k * k * channels;
    UNROLL(i, k * k * channels) sums[i] = _mm512_loadu_ps(to + 16 * i);
    for (int64_t r = 0; r < c->y_rows; r++)
      for (int64_t q = 0; q < c->y_columns; q++) {
        const int64_t at = (r * c->y_columns + q) * c->filters + f;
        const __m512i who = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(real, winner + at));
        const __mmask16 alive = _mm512_mask_cmplt_epi32_mask(real, who, _mm512_set1_epi32(DEAD));
        const __m512 g = _mm512_maskz_loadu_ps(alive, gradient + at);
        // Bit 4 of an index selects the row.
        const __m512i below = _mm512_slli_epi32(_mm512_srli_epi32(who, 1), 4);
        const __m512i right = _mm512_mullo_epi32(_mm512_and_epi32(who, _mm512_set1_epi32(1)), _mm512_set1_epi32(channels));
        const __m512i place = _mm512_add_epi32(below, right);
        const float *window = x + 2 * r * walk->image_row + 2 * q * channels;
        sum = _mm512_add_ps(sum, g);
        __m512 upper = _mm512_loadu_ps(window);
        UNROLL(i, k) {
          const __m512 lower = _mm512_loadu_ps(window + (i + 1) * walk->image_row);
          UNROLL(j, k * channels) {
            const __m512 seen = _mm512_permutex2var_ps(upper, _mm512_add_epi32(place, _mm512_set1_epi32(j)), lower);
            sums[i * k * channels + j] = _mm512_fmadd_ps(seen, g, sums[i * k * channels + j]);
          }
          upper = lower;
        }
      }
    UNROLL(i, k * k * channels) _mm512_storeu_ps(to + 16 * i, sums[i]);
    _mm512_storeu_ps(bias + f, sum);
  }
}

typedef void few(const struct conv *, const struct walk *, const float *, const float *, const uint8_t *, float *, float *);
#define FEW(k, channels)                                                                                                 \
  static void few_##k##_##channels(const struct conv *c, const struct walk *walk, const float *x, const float *gradient, \
                                   const uint8_t *winner, float *total, float *bias) {                                   \
    few_channels(k, channels, c, walk, x, gradient, winner, total, bias);                                                \
  }
FEW(1, 1)
FEW(2, 1)
FEW(3, 1)
FEW(4, 1)
FEW(5, 1)
FEW(1, 3)
FEW(2, 3)
FEW(3, 3)

static few *few_for(const struct conv *c) {
  static few *const one[] = {NULL, few_1_1, few_2_1, few_3_1, few_4_1, few_5_1};
  static few *const three[] = {NULL, few_1_3, few_2_3, few_3_3};
  if (c->kernel_rows != c->kernel_columns || c->row_stride != 1 || c->column_stride != 1) return NULL;
  if (c->channels == 1 && c->kernel_rows <= 5) return one[c->kernel_rows];
  return c->channels == 3 && c->kernel_rows <= 3 ? three[c->kernel_rows] : NULL;
}
#endif

// The methods for the kernel gradient. Each has a layout of its partial sums, see `kernel_gradient`.
enum way { DENSE, WINNERS, FEW, WINOGRAD };

static enum way way_of(const struct conv *c) {
#if MASKS
  if (c->pool && few_for(c)) return FEW;
#endif
  return c->pool ? WINNERS : by_winograd(c) ? WINOGRAD : DENSE;
}

// Width of the vectors in a partial sum.
static int64_t lanes_of(const struct conv *c) { return way_of(c) == DENSE ? lanes_for(c->filters) : WIDE; }

typedef void add_gradient(const struct walk *, const float *, const float *, int64_t, float *);

// Add the kernel and bias gradients of some images to the task's partial sums: `work`, by the plain loops.
static void add_to_partial(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  const struct walk walk = walk_of(c);
  const enum way way = way_of(c) == WINOGRAD ? DENSE : way_of(c);  // for images unfit for Winograd
  const int64_t lanes = lanes_of(c), size = c->rows * c->columns * c->channels;
  const int64_t windows = c->y_rows * c->y_columns, y_size = windows * c->filters;
  // 16 floats of slack: loads of whole vectors reach beyond the end of the image.
  float *padded = way != DENSE || needs_copy(c) ? floats(c, c->padded_rows * c->padded_columns * c->channels + 16) : NULL;
  const int64_t padded_filters = whole(c->filters, lanes);
  const int as_it_is = !c->relu && !c->biased && padded_filters == c->filters;
  float *gradient = way == DENSE && !as_it_is ? floats(c, windows * padded_filters) : NULL;
  struct winner *winners = way == WINNERS ? malloc((size_t)(c->filters * windows) * sizeof *winners) : NULL;
  int64_t *counts = way == WINNERS ? malloc((size_t)c->filters * sizeof *counts) : NULL;
  if (c->failed || (way == WINNERS && !(winners && counts))) {
    c->failed = 1;
    goto end;
  }
  float *total = c->partials + task * c->partial, *bias = total + c->partial - whole(c->filters, 16);
  for (int64_t i = first; i < last; i++) {
    const float *x = c->x + i * size, *g = c->y_gradient + i * y_size;
    if (padded) put(c, x, padded), x = padded;
    if (way == DENSE) {
      if (!as_it_is) pass_gradient(c, i, gradient, c->out_columns * padded_filters, padded_filters, bias), g = gradient;
      add_gradient *const add = lanes == NARROW ? JOIN(add_kernel_gradient, NARROW) : JOIN(add_kernel_gradient, WIDE);
      add(&walk, x, g, padded_filters, total);
      continue;
    }
    const uint8_t *who = c->winner + i * y_size;
#if MASKS
    if (way == FEW) {
      few_for(c)(c, &walk, x, g, who, total, bias);
      continue;
    }
#endif
    memset(counts, 0, (size_t)c->filters * sizeof *counts);
    const int64_t places[4] = {0, walk.column_step, walk.row_step, walk.row_step + walk.column_step};
    for (int64_t r = 0; r < c->y_rows; r++)
      for (int64_t q = 0; q < c->y_columns; q++) {
        const int64_t corner = 2 * r * walk.row_step + 2 * q * walk.column_step;
        for (int64_t f = 0; f < c->filters; f++, g++, who++) {
          const int alive = *who != DEAD;
          winners[f * windows + counts[f]] = (struct winner){corner + places[*who & 3], *g};
          counts[f] += alive;
          bias[f] += alive ? *g : 0;
        }
      }
    JOIN(add_winners_kernel_gradient, WIDE)(&walk, x, winners, counts, windows, total);
  }
end:
  free(padded), free(gradient), free(winners), free(counts);
}

// Sum up the tasks' partial sums and write kernel gradient (rows, run, filters) and bias gradient (filters).
static void kernel_gradient(XLA_FFI_CallFrame *frame, struct conv *c) {
  const enum way way = way_of(c);
  const int64_t lanes = lanes_of(c), run = c->kernel_columns * c->channels;
  const int64_t stride = way == WINNERS ? whole(run, lanes) : run;
  const int64_t filters = way == WINNERS ? c->filters : whole(c->filters, lanes), size = filters * c->kernel_rows * stride;
  c->partial = whole(size, 16) + whole(c->filters, 16);
  c->tasks = min_of(c->tasks, max_of(4, PARTIAL_FLOATS / c->partial));  // at least 4, for several threads
  if (!(c->partials = floats(c, c->tasks * c->partial))) return;
  work_on(frame, c, way == WINOGRAD ? add_to_partial_by_winograd : add_to_partial);
  if (c->failed) return;
  float *total = c->partials;
  for (int64_t task = 1; task < c->tasks; task++) JOIN(add, WIDE)(total, total + task * c->partial, c->partial);
  for (int64_t k = 0; k < c->kernel_rows; k++)
    for (int64_t j = 0; j < run; j++)
      for (int64_t f = 0; f < c->filters; f++)
        if (way == WINNERS)
          c->out[(k * run + j) * c->filters + f] = total[(f * c->kernel_rows + k) * stride + j];
        else
          c->out[(k * run + j) * c->filters + f] = total[((f / lanes * c->kernel_rows + k) * run + j) * lanes + f % lanes];
  memcpy(c->out_bias, total + c->partial - whole(c->filters, 16), (size_t)(4 * c->filters));
}

// ----------------------------------------------------------------------------------------------------- input gradient
// The convolution of the outputs' gradient with the mirrored kernel. With strides it splits into phases: inputs whose row and
// column have the same remainder modulo the strides use the same taps, and each phase is a convolution without strides.

static void input_gradient_dense(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  (void)task;
  const int64_t size = c->rows * c->columns * c->channels, lanes = lanes_for(c->channels);
  const struct range r = range_of(c->rows, c->out_rows, c->kernel_rows, c->row_stride, c->top);
  const struct range q = range_of(c->columns, c->out_columns, c->kernel_columns, c->column_stride, c->left);
  const int64_t width = q.high - q.low, row = width * c->filters;
  float *gradient = floats(c, (r.high - r.low) * row), *none = floats(c, whole(c->channels, lanes));
  if (c->failed) goto end;
  for (int64_t i = first; i < last; i++) {
    pass_gradient(c, i, gradient - r.low * row - q.low * c->filters, row, c->filters, NULL);
    float *out = c->out + i * size;
    if (c->kernel_rows < c->row_stride || c->kernel_columns < c->column_stride) memset(out, 0, (size_t)(4 * size));
    const float *weights = c->packed;
    for (int64_t a = 0; a < c->row_stride; a++)
      for (int64_t b = 0; b < c->column_stride; b++) {
        const struct phase down = phase_of(a, c->rows, c->kernel_rows, c->row_stride, c->top);
        const struct phase across = phase_of(b, c->columns, c->kernel_columns, c->column_stride, c->left);
        if (down.taps && across.taps && down.count && across.count) {
          const struct walk walk = {
              .image_row = row,
              .row_step = row,
              .column_step = c->filters,
              .kernel_rows = down.taps,
              .run = across.taps * c->filters,
              .rows = down.count,
              .columns = across.count,
              .filters = c->channels,
          };
          const struct sink sink = {out + (down.first * c->columns + across.first) * c->channels, NULL,
                                    c->row_stride * c->columns * c->channels, c->column_stride * c->channels};
          (lanes == NARROW ? JOIN(convolve, NARROW) : JOIN(convolve, WIDE))(
              &walk, gradient + (down.begin - r.low) * row + (across.begin - q.low) * c->filters, weights, none, &sink);
        }
        weights += weights_of(c->channels, down.taps, across.taps * c->filters);
      }
  }
end:
  free(gradient), free(none);
}

// Pack the mirrored kernel, one phase after the other; its filters are channels of the result.
static void pack_mirrored(struct conv *c) {
  // A run is one of kernel columns * filters, divided among the phases, and perhaps a zero.
  const int64_t runs = c->kernel_columns * c->filters + c->column_stride;
  if (!(c->packed = floats(c, whole(c->channels, lanes_for(c->channels)) * c->kernel_rows * runs))) return;
  float *to = c->packed;
  for (int64_t a = 0; a < c->row_stride; a++)
    for (int64_t b = 0; b < c->column_stride; b++) {
      const int64_t down = phase_of(a, c->rows, c->kernel_rows, c->row_stride, c->top).taps;
      const int64_t across = phase_of(b, c->columns, c->kernel_columns, c->column_stride, c->left).taps;
      const int64_t run = across * c->filters;
      for (int64_t k = 0; k < down; k++)
        for (int64_t l = 0; l < across; l++) {
          const int64_t row = a + c->row_stride * (down - 1 - k), column = b + c->column_stride * (across - 1 - l);
          const float *from = c->kernel + (row * c->kernel_columns + column) * c->channels * c->filters;
          for (int64_t i = 0; i < c->channels; i++)
            for (int64_t f = 0; f < c->filters; f++)
              to[weight_at(c->channels, down, run, i, k, l * c->filters + f)] = from[i * c->filters + f];
        }
      to += weights_of(c->channels, down, run);
    }
}

// The input gradient with pool. Sort the winners of a window by their place, and add their filters' weights to the image.
static void input_gradient_winners(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  (void)task;
  const struct walk walk = walk_of(c);
  const int64_t size = c->rows * c->columns * c->channels, padded_size = c->padded_rows * c->padded_columns * c->channels;
  const int64_t windows = c->y_rows * c->y_columns, y_size = windows * c->filters;
  const int64_t weights = c->kernel_rows * whole(walk.run, WIDE);  // per filter
  float *padded = floats(c, padded_size + WIDE);
  struct winner *winners = malloc((size_t)(y_size + c->filters) * sizeof *winners);
  int32_t *starts = malloc((size_t)(4 * windows + 1) * sizeof *starts);
  int64_t *places = malloc((size_t)(4 * windows) * sizeof *places);
  struct winner *lists = malloc((size_t)(4 * c->filters) * sizeof *lists);
  if (c->failed || !winners || !starts || !places || !lists) {
    c->failed = 1;
    goto end;
  }
  for (int64_t i = first; i < last; i++) {
    const float *g = c->y_gradient + i * y_size;
    const uint8_t *who = c->winner + i * y_size;
    int32_t total = 0;
    for (int64_t w = 0; w < windows; w++) {
      int32_t counts[4] = {0};
      for (int64_t f = 0; f < c->filters; f++, g++, who++) {
        const int32_t place = *who & 3;
        lists[place * c->filters + counts[place]] = (struct winner){f * weights, *g};
        counts[place] += *who != DEAD;
      }
      for (int64_t p = 0; p < 4; p++) {
        starts[4 * w + p] = total;
        memcpy(winners + total, lists + p * c->filters, (size_t)counts[p] * sizeof *winners);
        total += counts[p];
        places[4 * w + p] =
            (2 * (w / c->y_columns) + p / 2) * walk.row_step + (2 * (w % c->y_columns) + p % 2) * walk.column_step;
      }
    }
    starts[4 * windows] = total;
    memset(padded, 0, (size_t)(4 * padded_size));
    JOIN(add_winners_input_gradient, WIDE)(&walk, padded, winners, starts, places, c->packed);
    for (int64_t r = 0; r < c->rows; r++)
      memcpy(c->out + i * size + r * c->columns * c->channels,
             padded + ((r + c->top) * c->padded_columns + c->left) * c->channels, (size_t)(4 * c->columns * c->channels));
  }
end:
  free(padded), free(winners), free(starts), free(places), free(lists);
}

// Pack the kernel as (filters, kernel rows, run padded to whole vectors).
static void pack_by_filter(struct conv *c) {
  const int64_t run = c->kernel_columns * c->channels, stride = whole(run, WIDE);
  if (!(c->packed = floats(c, c->filters * c->kernel_rows * stride))) return;
  for (int64_t f = 0; f < c->filters; f++)
    for (int64_t k = 0; k < c->kernel_rows; k++)
      for (int64_t j = 0; j < run; j++)
        c->packed[(f * c->kernel_rows + k) * stride + j] = c->kernel[(k * run + j) * c->filters + f];
}

// ---------------------------------------------------------------------------------------------------------- handlers
// Free the buffers and return the status.
static XLA_FFI_Error *finish(XLA_FFI_CallFrame *frame, struct conv *c) {
  free(c->packed), free(c->transformed), free(c->partials);
  return c->failed ? error(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: convolution") : NULL;
}

XLA_FFI_Error *cnn_jax_conv(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct conv c = {0};
  XLA_FFI_Buffer *x = argument(frame, 0), *kernel = argument(frame, 1), *bias = argument(frame, 2), *y = result(frame, 0);
  read_shapes(&c.shape, frame, x->dims, kernel->dims, y->dims);
  c.x = x->data, c.kernel = kernel->data, c.bias = bias->data, c.out = y->data;
  if (c.pool) c.out_winner = result(frame, 1)->data;
  pack_forward(&c);
  judge_kernel(&c);
  if (by_winograd(&c)) pack_transformed(&c, c.channels, c.filters);
  if (!c.failed) work_on(frame, &c, by_winograd(&c) ? forward_by_winograd : forward);
  return finish(frame, &c);
}

XLA_FFI_Error *cnn_jax_conv_kernel_gradient(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct conv c = {0};
  XLA_FFI_Buffer *x = argument(frame, 0), *gradient = argument(frame, 1), *seen = argument(frame, 2);
  read_shapes(&c.shape, frame, x->dims, result(frame, 0)->dims, gradient->dims);
  c.x = x->data, c.y_gradient = gradient->data, c.y = seen->data, c.winner = seen->data;
  c.out = result(frame, 0)->data, c.out_bias = result(frame, 1)->data;
  kernel_gradient(frame, &c);
  return finish(frame, &c);
}

XLA_FFI_Error *cnn_jax_conv_input_gradient(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct conv c = {0};
  XLA_FFI_Buffer *gradient = argument(frame, 0), *kernel = argument(frame, 1), *seen = argument(frame, 2);
  read_shapes(&c.shape, frame, result(frame, 0)->dims, kernel->dims, gradient->dims);
  c.y_gradient = gradient->data, c.kernel = kernel->data, c.y = seen->data, c.winner = seen->data;
  c.out = result(frame, 0)->data;
  if (c.pool) {
    pack_by_filter(&c);
    if (!c.failed) work_on(frame, &c, input_gradient_winners);
  } else {
    pack_mirrored(&c);
    judge_kernel(&c);
    if (by_winograd(&c)) pack_transformed(&c, c.filters, c.channels);
    if (!c.failed) work_on(frame, &c, by_winograd(&c) ? input_gradient_by_winograd : input_gradient_dense);
  }
  return finish(frame, &c);
}
