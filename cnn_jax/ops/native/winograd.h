// Winograd's F(2x2, 3x3): four outputs of a 3x3 kernel from 16 products per channel, not 36 (Lavin and Gray 2016,
// arXiv:1509.09308).
//
// A tile is the 4x4 inputs d of 2x2 outputs y. With g the kernel, ' transposition and * the product by element,
//     y = A' [(G g G') * (B' d B)] A,   dL/dg = G' [(A dL/dy A') * (B' d B)] G,
// and dL/dd is a convolution with the mirrored kernel. At each of the 16 places of a tile the sum over channels is a matrix
// product, computed as a 1x1 convolution by lanes.h. The constants of A, B and G are 1 and 1/2, so small integers stay exact,
// and a sum has fewer terms than in direct convolution. Channels and filters are padded to whole vectors of WIDE.

#define vec JOIN(vec, WIDE)
#define ints JOIN(ints, WIDE)
#define PLACES 16
#define TILES (2 * MOST_COLUMNS)  // tiles per matrix product: with few channels they fit the first-level cache

// An image (rows, columns, pitch) with implicit zero padding; pitch: channels in whole vectors.
struct image {
  const float *pixels;
  int64_t rows, columns, pitch;
  int64_t top, left;   // zeros above and left; negative: rows and columns to skip
  const float *zeros;  // (columns, pitch)
};

static const float *row_of(const struct image *image, int64_t row) {
  row -= image->top;
  return row >= 0 && row < image->rows ? image->pixels + row * image->columns * image->pitch : image->zeros;
}

// The address of `row`, perhaps in the next image: for prefetch only.
static const float *rows_after(const struct image *image, int64_t row) {
  return image->pixels + (row - image->top) * image->columns * image->pitch;
}

INLINE vec pixel(const struct image *image, const float *row, int64_t column, int64_t channel) {
  column -= image->left;
  return column >= 0 && column < image->columns ? *(const vec *)(row + column * image->pitch + channel) : (vec){0};
}

// B' d for one column of d.
INLINE void down_inputs(const struct image *image, const float *const *rows, int64_t column, int64_t channel, vec *out) {
  vec seen[4];
  UNROLL(i, 4) seen[i] = pixel(image, rows[i], column, channel);
  out[0] = seen[0] - seen[2], out[1] = seen[1] + seen[2], out[2] = seen[2] - seen[1], out[3] = seen[1] - seen[3];
}

// B' d B of `count` adjacent tiles, the first at (row, column), to `to` (PLACES, plane), of which (count, pitch) are written.
static void transform_inputs(const struct image *image, int64_t row, int64_t column, int64_t count, float *to, int64_t plane) {
  const float *const rows[4] = {row_of(image, row), row_of(image, row + 1), row_of(image, row + 2), row_of(image, row + 3)};
  for (int64_t channel = 0; channel < image->pitch; channel += WIDE) {
    float *out = to + channel;
    vec columns[4][4];  // adjacent tiles share two columns
    down_inputs(image, rows, column, channel, columns[0]), down_inputs(image, rows, column + 1, channel, columns[1]);
    for (int64_t t = 0; t < count; t++, out += image->pitch) {
      down_inputs(image, rows, column + 2 * t + 2, channel, columns[2]);
      down_inputs(image, rows, column + 2 * t + 3, channel, columns[3]);
      UNROLL(i, 4) {
        float *place = out + 4 * i * plane;
        *(vec *)place = columns[0][i] - columns[2][i];
        *(vec *)(place + plane) = columns[1][i] + columns[2][i];
        *(vec *)(place + 2 * plane) = columns[2][i] - columns[1][i];
        *(vec *)(place + 3 * plane) = columns[1][i] - columns[3][i];
        columns[0][i] = columns[2][i], columns[1][i] = columns[3][i];
      }
    }
  }
}

// A dy A' of `count` adjacent tiles of 2x2 outputs, to the same layout.
static void transform_gradients(const struct image *image, int64_t row, int64_t column, int64_t count, float *to,
                                int64_t plane) {
  const float *const upper = row_of(image, row), *const lower = row_of(image, row + 1);
  for (int64_t channel = 0; channel < image->pitch; channel += WIDE) {
    float *out = to + channel;
    for (int64_t q = column; q < column + 2 * count; q += 2, out += image->pitch) {
      const vec a = pixel(image, upper, q, channel), b = pixel(image, upper, q + 1, channel);
      const vec d = pixel(image, lower, q, channel), e = pixel(image, lower, q + 1, channel);
      const vec left[4] = {a, a + d, a - d, -d}, right[4] = {b, b + e, b - e, -e};
      UNROLL(i, 4) {
        float *place = out + 4 * i * plane;
        *(vec *)place = left[i];
        *(vec *)(place + plane) = left[i] + right[i];
        *(vec *)(place + 2 * plane) = left[i] - right[i];
        *(vec *)(place + 3 * plane) = -right[i];
      }
    }
  }
}

// G g G'. weights (blocks of filters, 3, 3, channels, WIDE) -> to (PLACES, blocks of filters, channels, WIDE).
static void transform_weights(const float *weights, int64_t blocks, int64_t channels, float *to) {
  const int64_t tap = channels * WIDE, plane = blocks * tap;
  const vec half = (vec){0} + 0.5f;
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t c = 0; c < tap; c += WIDE) {
      vec rows[4][3];
      UNROLL(j, 3) {
        const float *g = weights + (9 * b + j) * tap + c;
        const vec upper = *(const vec *)g, middle = *(const vec *)(g + 3 * tap), lower = *(const vec *)(g + 6 * tap);
        rows[0][j] = upper, rows[1][j] = half * (upper + middle + lower), rows[2][j] = half * (upper - middle + lower);
        rows[3][j] = lower;
      }
      UNROLL(i, 4) {
        float *place = to + 4 * i * plane + b * tap + c;
        *(vec *)place = rows[i][0];
        *(vec *)(place + plane) = half * (rows[i][0] + rows[i][1] + rows[i][2]);
        *(vec *)(place + 2 * plane) = half * (rows[i][0] - rows[i][1] + rows[i][2]);
        *(vec *)(place + 3 * plane) = rows[i][2];
      }
    }
}

// to += G' du G: the reverse derivative of `transform_weights`. Layouts as there.
static void add_weights_gradient(const float *from, int64_t blocks, int64_t channels, float *to) {
  const int64_t tap = channels * WIDE, plane = blocks * tap;
  const vec half = (vec){0} + 0.5f;
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t c = 0; c < tap; c += WIDE) {
      vec rows[3][4];
      UNROLL(j, 4) {
        const float *place = from + j * plane + b * tap + c;
        const vec first = *(const vec *)place, last = *(const vec *)(place + 12 * plane);
        const vec second = *(const vec *)(place + 4 * plane), third = *(const vec *)(place + 8 * plane);
        const vec both = half * (second + third);
        rows[0][j] = first + both, rows[1][j] = half * (second - third), rows[2][j] = both + last;
      }
      UNROLL(i, 3) {
        float *g = to + (9 * b + 3 * i) * tap + c;
        const vec both = half * (rows[i][1] + rows[i][2]);
        *(vec *)g += rows[i][0] + both;
        *(vec *)(g + tap) += half * (rows[i][1] - rows[i][2]);
        *(vec *)(g + 2 * tap) += both + rows[i][3];
      }
    }
}

// ------------------------------------------------------------------------------------------------------------- range
// The rounding error of direct convolution is relative to each product; Winograd's is relative to the largest tap times the
// largest pixel of a window and channel. It is too large where a large pixel meets a tap that is zero or small beside others.
// Use the plain loops for
//   - kernels with zeros beside other taps of one channel and filter (masked and pruned kernels);
//   - images whose pixels span too wide a range (sentinels, outliers), or with a value that is not finite;
//   - values so large that a sum of four might overflow, or so small that a half might underflow.
// The decision is per image, so outputs do not depend on the rest of the batch.

#define BITS_OF_POWER(exponent) ((127 + (exponent)) << 23)  // magnitudes compare as integers as they do as floats
#define SMALLEST_SCALE BITS_OF_POWER(-100)
#define LARGEST_SCALE BITS_OF_POWER(50)
// A pixel is small below 2^-range of the largest. Gradients have a wider range.
#define PIXEL_RANGE 10
#define GRADIENT_RANGE 16
#define FEW_SMALL 16  // at most 1 / FEW_SMALL of the pixels other than zero may be small
#define SAMPLED 7     // check one vector of SAMPLED of a large image for small pixels

INLINE ints magnitude(const float *x) { return *(const ints *)x & 0x7fffffff; }
INLINE ints larger(ints a, ints b) {
#if WIDE == 16
  return (ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
  const ints first = a > b;
  return (first & a) | (~first & b);
#endif
}

static int32_t largest_of(ints all) {
  int32_t most = 0;
  for (int i = 0; i < WIDE; i++) most = all[i] > most ? all[i] : most;
  return most;
}

static int64_t sum_of(ints all) {
  int64_t sum = 0;
  for (int i = 0; i < WIDE; i++) sum += all[i];
  return sum;
}

static int scale_fits(int32_t most) { return most == 0 || (most >= SMALLEST_SCALE && most < LARGEST_SCALE); }

// The largest magnitude, as an integer. `size` >= WIDE, here and below.
static int32_t scale_of(const float *pixels, int64_t size) {
  ints most = {0};
  for (int64_t i = 0; i < size; i += WIDE) most = larger(most, magnitude(pixels + min_of(i, size - WIDE)));
  return largest_of(most);
}

// Whether Winograd may be used for kernel (3, 3, slices); a slice: a pair of channel and filter.
static int kernel_fits(const float *kernel, int64_t slices) {
  ints most = {0}, mixed = {0};
  for (int64_t i = 0; i < slices; i += WIDE) {
    const float *g = kernel + min_of(i, slices - WIDE);
    ints any = {0}, all = ~(ints){0};
    UNROLL(t, 9) {
      const ints tap = magnitude(g + t * slices), counts = tap >= BITS_OF_POWER(-126);
      most = larger(most, tap), any |= counts, all &= counts;
    }
    mixed |= any & ~all;
  }
  return !sum_of(mixed) && scale_fits(largest_of(most));
}

// Whether Winograd may be used for an image.
static int image_fits(const float *image, int64_t size, int range) {
  const int32_t scale = scale_of(image, size);
  if (!scale || !scale_fits(scale)) return !scale;
  ints small = {0}, counted = {0};
  const ints limit = (ints){0} + (scale - (range << 23));
  const int64_t step = WIDE * (size < 64 * SAMPLED * WIDE ? 1 : SAMPLED);
  for (int64_t i = 0; i < size; i += step) {
    const ints pixels = magnitude(image + min_of(i, size - WIDE));
    counted -= pixels > 0, small -= (pixels > 0) & (pixels < limit);
  }
  return FEW_SMALL * sum_of(small) <= sum_of(counted);
}

// Destination of a tile's outputs, and the number of its rows and columns inside the image: 1 or 2.
struct tile {
  float *y;
  uint8_t *winner;
  int rows, columns;
};

// A buffer of tiles for the forward convolution: a matrix product runs when it holds TILES of them, of one or several images.
struct tiles {
  int64_t channels, channel_pitch, filters, filter_pitch;  // pitch: rounded up to whole vectors
  const float *weights, *bias;                             // weights: (PLACES, blocks of filters, channels, WIDE)
  int relu, pool;
  int64_t row, column;       // floats between outputs
  float *inputs, *products;  // (PLACES, TILES, pitch)
  int64_t count;
  struct tile to[TILES];
};

// A' m A, bias, relu and pool of one tile, for the filters [f, f + WIDE).
INLINE void finish_tile(const struct tiles *tiles, const float *m, const struct tile *to, int64_t f) {
  const int64_t plane = TILES * tiles->filter_pitch, real = min_of(WIDE, tiles->filters - f);
  vec upper[4], lower[4];
  UNROLL(j, 4) {
    const vec a = *(const vec *)(m + j * plane), b = *(const vec *)(m + (4 + j) * plane);
    const vec c = *(const vec *)(m + (8 + j) * plane), d = *(const vec *)(m + (12 + j) * plane);
    upper[j] = a + b + c, lower[j] = b - c - d;
  }
  const vec add = *(const vec *)(tiles->bias + f), least = (vec){0} + (tiles->relu ? 0 : -__builtin_inff());
  vec y[4] = {upper[0] + upper[1] + upper[2], upper[1] - upper[2] - upper[3], lower[0] + lower[1] + lower[2],
              lower[1] - lower[2] - lower[3]};
  if (tiles->pool) {
    ints which;
    y[0] = JOIN(at_least, WIDE)(least, JOIN(largest, WIDE)(y[0], y[1], y[2], y[3], &which) + add);
    which |= ~(y[0] > 0) & ((ints){0} + (tiles->relu ? DEAD : 0));
    const JOIN(bytes, WIDE) winner = __builtin_convertvector(which, JOIN(bytes, WIDE));
    memcpy(to->y + f, &y[0], (size_t)(4 * real)), memcpy(to->winner + f, &winner, (size_t)real);
    return;
  }
  UNROLL(i, 4) {
    if (i / 2 >= to->rows || i % 2 >= to->columns) continue;
    y[i] = JOIN(at_least, WIDE)(least, y[i] + add);
    float *place = to->y + i / 2 * tiles->row + i % 2 * tiles->column + f;
    if (real == WIDE)
      *(vec *)place = y[i];
    else
      memcpy(place, &y[i], (size_t)(4 * real));
  }
}

// Prefetch part `part` of PLACES of `size` floats: images come from memory, and loads overlap with the products.
INLINE void fetch(const float *from, int64_t size, int64_t part, const int to_write) {
  const char *begin = (const char *)(from + size * part / PLACES), *end = (const char *)(from + size * (part + 1) / PLACES);
  for (; begin < end; begin += 64) to_write ? __builtin_prefetch(begin, 1, 2) : __builtin_prefetch(begin, 0, 2);
}

// Run the matrix products, write the outputs and empty the buffer. `next`: inputs to prefetch.
static void flush_tiles(struct tiles *tiles, const float *next) {
  if (!tiles->count) return;
  JOIN(stamp, WIDE) *const *stamps = JOIN(stamps, WIDE)[1];
  const int64_t columns = JOIN(width_for, WIDE)((tiles->count + 1) / 2, stamps);
  const struct walk walk = {
      .row_step = columns * tiles->channel_pitch,
      .column_step = tiles->channel_pitch,
      .kernel_rows = 1,
      .run = tiles->channels,
  };
  static const float none[WIDE];
  const float *weights = tiles->weights;
  for (int64_t p = 0; p < PLACES; p++) {
    if (next) fetch(next, 4 * TILES * tiles->channel_pitch, p, 0);
    fetch(tiles->to[0].y, (tiles->pool ? 1 : 4) * TILES * tiles->filters, p, 1);
    for (int64_t f = 0; f < tiles->filter_pitch; f += WIDE, weights += tiles->channels * WIDE) {
      const struct sink sink = {tiles->products + p * TILES * tiles->filter_pitch + f, NULL, columns * tiles->filter_pitch,
                                tiles->filter_pitch};
      stamps[columns](&walk, tiles->inputs + p * TILES * tiles->channel_pitch, weights, none, &sink);
    }
  }
  for (int64_t f = 0; f < tiles->filter_pitch; f += WIDE)
    for (int64_t t = 0; t < tiles->count; t++)
      finish_tile(tiles, tiles->products + t * tiles->filter_pitch + f, &tiles->to[t], f);
  tiles->count = 0;
}

// rows x columns outputs of an image to y (and winner) with the distances tiles->row and tiles->column.
static void convolve_by_tiles(struct tiles *tiles, const struct image *image, int64_t rows, int64_t columns, float *y,
                              uint8_t *winner) {
  const int64_t step = tiles->pool ? 1 : 2;
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t q = 0, count; q < columns; q += 2 * count) {
      count = min_of((columns - q + 1) / 2, TILES - tiles->count);
      transform_inputs(image, r, q, count, tiles->inputs + tiles->count * tiles->channel_pitch, TILES * tiles->channel_pitch);
      int64_t at = step * (r / 2 * tiles->row + q / 2 * tiles->column);
      for (int64_t t = 0; t < count; t++, at += step * tiles->column)
        tiles->to[tiles->count++] =
            (struct tile){y + at, winner ? winner + at : NULL, (int)min_of(2, rows - r), (int)min_of(2, columns - q - 2 * t)};
      if (tiles->count == TILES) flush_tiles(tiles, rows_after(image, r + 4));
    }
}

// A buffer of tiles of inputs and gradients for the kernel gradient.
struct gradient_tiles {
  int64_t channels, channel_pitch, filter_pitch;
  float *inputs, *gradients;  // (PLACES, TILES, pitch)
  int64_t count;
  float *total;  // (PLACES, blocks of filters, channels, WIDE)
};

// Add the products of inputs and gradients to `total` and empty the buffer. `next`, `next_gradient`: to prefetch.
static void flush_gradient_tiles(struct gradient_tiles *tiles, const float *next, const float *next_gradient) {
  const struct walk walk = {
      .column_step = tiles->channel_pitch,
      .kernel_rows = 1,
      .run = tiles->channels,
      .rows = 1,
      .columns = tiles->count,
      .filters = tiles->filter_pitch,
  };
  for (int64_t p = 0; p < PLACES && tiles->count; p++) {
    if (next) fetch(next, 4 * TILES * tiles->channel_pitch, p, 0);
    if (next) fetch(next_gradient, 4 * TILES * tiles->filter_pitch, p, 0);
    JOIN(add_kernel_gradient, WIDE)(&walk, tiles->inputs + p * TILES * tiles->channel_pitch,
                                    tiles->gradients + p * TILES * tiles->filter_pitch, tiles->filter_pitch,
                                    tiles->total + p * tiles->channels * tiles->filter_pitch);
  }
  tiles->count = 0;
}

// Add an image and the gradient of its outputs (rows, columns, pitch).
static void add_kernel_gradient_by_tiles(struct gradient_tiles *tiles, const struct image *image,
                                         const struct image *gradient) {
  for (int64_t r = 0; r < gradient->rows; r += 2)
    for (int64_t q = 0, count; q < gradient->columns; q += 2 * count) {
      count = min_of((gradient->columns - q + 1) / 2, TILES - tiles->count);
      transform_inputs(image, r, q, count, tiles->inputs + tiles->count * tiles->channel_pitch, TILES * tiles->channel_pitch);
      transform_gradients(gradient, r, q, count, tiles->gradients + tiles->count * tiles->filter_pitch,
                          TILES * tiles->filter_pitch);
      tiles->count += count;
      if (tiles->count == TILES) flush_gradient_tiles(tiles, rows_after(image, r + 4), rows_after(gradient, r + 2));
    }
}

// ------------------------------------------------------------------------------------------------------------- tasks

// Whether to use Winograd. With pool for the forward pass only: gradients of winners need fewer products.
static int by_winograd(const struct conv *c) {
  return !c->plain && c->kernel_rows == 3 && c->kernel_columns == 3 && c->row_stride == 1 && c->column_stride == 1 &&
         c->channels > NARROW && c->filters > NARROW &&
         min_of(min_of(c->rows, c->columns), min_of(c->out_rows, c->out_columns)) > 1;
}

// Set c->plain if the kernel rules out Winograd.
static void judge_kernel(struct conv *c) { c->plain = by_winograd(c) && !kernel_fits(c->kernel, c->channels * c->filters); }

// Allocate the buffers. Return 0 on failure.
static int begin_tiles(struct conv *c, struct tiles *tiles, int64_t channels, int64_t filters) {
  *tiles = (struct tiles){.channels = channels,
                          .channel_pitch = whole(channels, WIDE),
                          .filters = filters,
                          .filter_pitch = whole(filters, WIDE),
                          .weights = c->transformed};
  tiles->inputs = floats(c, PLACES * TILES * tiles->channel_pitch);
  tiles->products = floats(c, PLACES * TILES * tiles->filter_pitch);
  return !c->failed;
}

// Process the remaining tiles and free the buffers.
static void end_tiles(struct tiles *tiles) {
  if (tiles->inputs && tiles->products) flush_tiles(tiles, NULL);
  free(tiles->inputs), free(tiles->products);
}

// Transform c->packed, for `filters` outputs and `channels` inputs.
static void pack_transformed(struct conv *c, int64_t channels, int64_t filters) {
  const int64_t pitch = whole(filters, WIDE);
  if (!c->packed || !(c->transformed = floats(c, PLACES * channels * pitch))) return;
  transform_weights(c->packed, pitch / WIDE, channels, c->transformed);
}

// An image with its channels in whole vectors: x itself, or a padded copy of it in `copy`.
static const float *in_vectors(const struct conv *c, const float *x, float *copy) {
  if (!copy) return x;
  const int64_t pitch = whole(c->channels, WIDE);
  for (int64_t i = 0; i < c->rows * c->columns; i++) memcpy(copy + i * pitch, x + i * c->channels, (size_t)(4 * c->channels));
  return copy;
}

static work forward, input_gradient_dense, add_to_partial;  // in conv.c: the plain loops

// `work` by Winograd, for each of the three operations.
static void forward_by_winograd(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  const int64_t size = c->rows * c->columns * c->channels, y_size = c->y_rows * c->y_columns * c->filters;
  struct image image = {NULL, c->rows, c->columns, whole(c->channels, WIDE), c->top, c->left, NULL};
  float *zeros = floats(c, c->columns * image.pitch);
  float *copy = image.pitch == c->channels ? NULL : floats(c, c->rows * c->columns * image.pitch);
  struct tiles tiles;
  if (begin_tiles(c, &tiles, c->channels, c->filters)) {
    image.zeros = zeros;
    tiles.bias = c->packed + tiles.filter_pitch * 9 * c->channels, tiles.relu = c->relu, tiles.pool = c->pool;
    tiles.row = c->y_columns * c->filters, tiles.column = c->filters;
    for (int64_t i = first; i < last; i++) {
      if (!image_fits(c->x + i * size, size, PIXEL_RANGE)) {
        forward(c, task, i, i + 1);
        continue;
      }
      image.pixels = in_vectors(c, c->x + i * size, copy);
      convolve_by_tiles(&tiles, &image, c->out_rows, c->out_columns, c->out + i * y_size,
                        c->pool ? c->out_winner + i * y_size : NULL);
    }
  }
  end_tiles(&tiles);
  free(zeros), free(copy);
}

static void input_gradient_by_winograd(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  const int64_t size = c->rows * c->columns * c->channels, y_size = c->out_rows * c->out_columns * c->filters;
  struct image image = {NULL, c->out_rows, c->out_columns, whole(c->filters, WIDE), 2 - c->top, 2 - c->left, NULL};
  float *zeros = floats(c, c->out_columns * image.pitch), *none = floats(c, whole(c->channels, WIDE));
  float *copy = image.pitch == c->filters && !c->relu ? NULL : floats(c, c->out_rows * c->out_columns * image.pitch);
  struct tiles tiles;
  if (begin_tiles(c, &tiles, c->filters, c->channels)) {
    image.zeros = zeros, tiles.bias = none;
    tiles.row = c->columns * c->channels, tiles.column = c->channels;
    for (int64_t i = first; i < last; i++) {
      if (copy) pass_gradient(c, i, copy, c->out_columns * image.pitch, image.pitch, NULL);
      image.pixels = copy ? copy : c->y_gradient + i * y_size;
      if (!image_fits(image.pixels, c->out_rows * c->out_columns * image.pitch, GRADIENT_RANGE)) {
        input_gradient_dense(c, task, i, i + 1);
        continue;
      }
      convolve_by_tiles(&tiles, &image, c->rows, c->columns, c->out + i * size, NULL);
    }
  }
  end_tiles(&tiles);
  free(zeros), free(none), free(copy);
}

static void add_to_partial_by_winograd(void *call, int64_t task, int64_t first, int64_t last) {
  struct conv *const c = call;
  const int64_t size = c->rows * c->columns * c->channels, y_size = c->out_rows * c->out_columns * c->filters;
  const int64_t pitch = whole(c->channels, WIDE), filter_pitch = whole(c->filters, WIDE);
  struct gradient_tiles tiles = {.channels = c->channels, .channel_pitch = pitch, .filter_pitch = filter_pitch};
  tiles.inputs = floats(c, PLACES * TILES * pitch), tiles.gradients = floats(c, PLACES * TILES * filter_pitch);
  tiles.total = floats(c, PLACES * c->channels * filter_pitch);
  float *zeros = floats(c, max_of(c->columns * pitch, c->out_columns * filter_pitch));
  float *copy = pitch == c->channels ? NULL : floats(c, c->rows * c->columns * pitch);
  const int as_it_is = !c->relu && !c->biased && filter_pitch == c->filters;
  float *passed = as_it_is ? NULL : floats(c, c->out_rows * c->out_columns * filter_pitch);
  float *total = c->partials + task * c->partial, *bias = total + c->partial - whole(c->filters, 16);
  if (!c->failed) {
    for (int64_t i = first; i < last; i++) {
      if (!image_fits(c->x + i * size, size, PIXEL_RANGE) || !scale_fits(scale_of(c->y_gradient + i * y_size, y_size))) {
        add_to_partial(c, task, i, i + 1);
        continue;
      }
      if (passed) pass_gradient(c, i, passed, c->out_columns * filter_pitch, filter_pitch, bias);
      const struct image image = {in_vectors(c, c->x + i * size, copy), c->rows, c->columns, pitch, c->top, c->left, zeros};
      const float *from = passed ? passed : c->y_gradient + i * y_size;
      const struct image gradient = {from, c->out_rows, c->out_columns, filter_pitch, 0, 0, zeros};
      add_kernel_gradient_by_tiles(&tiles, &image, &gradient);
    }
    flush_gradient_tiles(&tiles, NULL, NULL);
    add_weights_gradient(tiles.total, filter_pitch / WIDE, c->channels, total);
  }
  free(tiles.inputs), free(tiles.gradients), free(tiles.total), free(zeros), free(copy), free(passed);
}

#undef vec
#undef ints
