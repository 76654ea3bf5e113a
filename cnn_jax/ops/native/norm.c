// Batch normalization in training with the addition of a shortcut and relu, and its gradient, on CPU, as XLA FFI handlers.
//
// x (..., C) is a sequence of rows of a *period*: the smallest number of floats that is a multiple of the channels and of
// GROUP vectors. So every channel count is processed by whole vectors; what is left after the last row, by single floats.
// Memory is swept twice, once for sums and once for results. A task processes several rows. The division into tasks depends on
// the shape alone, and so do the results.

#include "call.h"

// The exported functions. x (..., C) and the arrays of its shape are float32 or bfloat16, all of the same type; those of shape
// (C) are float32. Each function has one attribute, an array of 2 float64: epsilon, relu.

// x, scale (C), bias (C), perhaps a shortcut -> y, mean (C), variance (C). The shortcut is added before relu.
XLA_FFI_Error *cnn_jax_norm(XLA_FFI_CallFrame *frame);

// gradient of y, x, scale, mean, variance, gradient of mean, gradient of variance (C), with relu also y
// -> gradient of x, of scale, of bias, perhaps of the shortcut (only with relu: without, it is the gradient of y).
XLA_FFI_Error *cnn_jax_norm_gradient(XLA_FFI_CallFrame *frame);

#define BLOCK 32768       // floats between two additions to sums in float64: more lose precision
#define LEAST_TASK 32768  // floats

#if defined(__AVX512F__)
#define WIDE 16
#elif defined(__AVX__)
#define WIDE 8
#else
#define WIDE 4
#endif
#define GROUP 4  // vectors of a strip: independent sums, for the latency of additions

// Arguments and buffers of one call.
struct norm {
  int64_t channels, period;  // in floats
  int64_t rows, rest;        // whole rows of the period, and floats after them
  int64_t tasks;
  double epsilon;
  int half, relu;  // half: bfloat16
  const void *x, *y, *gradient, *shortcut;
  void *out, *masked;
  float *memory;     // of all arrays in `shared`
  double *per_task;  // the sums of each task: struct sums
  struct columns *shared;
  _Atomic int failed;
};

// Values for each float of the period: parameters, and sums.
struct columns {
  float *mean, *slope, *of_x, *constant, *sum, *product;
};

#define LANES WIDE
#include "strips.h"
#undef LANES
#define LANES 1
#include "strips.h"
#undef LANES

// SWEEP(strip) defines strip(norm, columns, first, last): the strips of rows [first, last), and the floats after the last row.
#define SWEEP_OF(strip, half)                                                                                                 \
  static void JOIN(strip##_rows, half)(const struct norm *n, const struct columns *columns, int64_t first, int64_t last) {    \
    const int64_t together = n->period == GROUP * WIDE ? max_of(1, last - first) : 1;                                         \
    for (int64_t r = first; r < last; r += together)                                                                          \
      for (int64_t j = 0; j < n->period; j += GROUP * WIDE)                                                                   \
        JOIN(strip, WIDE)(half, GROUP, n, columns, r * n->period + j, j, together);                                           \
    for (int64_t j = 0; last == n->rows && j < n->rest; j++) JOIN(strip, 1)(half, 1, n, columns, last * n->period + j, j, 1); \
  }
#define SWEEP(strip)                                                                                    \
  SWEEP_OF(strip, 0)                                                                                    \
  SWEEP_OF(strip, 1)                                                                                    \
  static void strip(const struct norm *n, const struct columns *columns, int64_t first, int64_t last) { \
    (n->half ? JOIN(strip##_rows, 1) : JOIN(strip##_rows, 0))(n, columns, first, last);                 \
  }
typedef void sweep(const struct norm *, const struct columns *, int64_t, int64_t);
SWEEP(moments)
SWEEP(normalize)
SWEEP(gradient_sums)
SWEEP(gradient)

// ---------------------------------------------------------------------------------------------------------------- sums

// Two sums of each channel, of a task or of all.
struct sums {
  double count;            // of values
  double *first, *second;  // mean and sum of squared differences from it; or sums of gradients and of products
};

static struct sums sums_of(const struct norm *n, int64_t task) {
  double *memory = n->per_task + task * (2 * n->channels + 1);
  return (struct sums){memory[0], memory + 1, memory + 1 + n->channels};
}

static void put_count(const struct norm *n, int64_t task, double count) { n->per_task[task * (2 * n->channels + 1)] = count; }

// Number of values per channel in rows [first, last).
static double count_of(const struct norm *n, int64_t first, int64_t last) {
  return (double)(((last - first) * n->period + (last == n->rows ? n->rest : 0)) / n->channels);
}

// The sum of a channel over the floats of the period.
INLINE double fold(const struct norm *n, const float *values, int64_t channel) {
  double total = 0;
  for (int64_t k = channel; k < n->period; k += n->channels) total += (double)values[k];
  return total;
}

static void clear(const struct norm *n, const struct columns *columns) {
  memset(columns->sum, 0, (size_t)(4 * n->period));
  memset(columns->product, 0, (size_t)(4 * n->period));
}

// Repeat values (channels) over the period.
static void spread(const struct norm *n, const double *values, float *to) {
  for (int64_t k = 0; k < n->period; k += n->channels)
    for (int64_t c = 0; c < n->channels; c++) to[k + c] = (float)values[c];
}

// total += other, means and squared differences. Chan, Golub and LeVeque 1983, equation 2.1.
INLINE void merge(double count, double other_count, double other_mean, double other_squares, double *mean, double *squares) {
  const double share = other_count / (count + other_count), difference = other_mean - *mean;
  *mean += difference * share;
  *squares += other_squares + difference * difference * count * share;
}

// Rows between two additions to the sums in float64.
static int64_t block_of(const struct norm *n) { return max_of(8, BLOCK / n->period); }

// Buffers of a task. On failure set n->failed and return NULL.
static float *buffers_of(struct norm *n, struct columns *columns) {
  float *memory = zeros_of(4 * 3 * n->period);
  if (!memory) n->failed = 1;
  *columns = (struct columns){.mean = memory, .sum = memory + n->period, .product = memory + 2 * n->period};
  return memory;
}

// Means and squared differences of a task.
//
// A block's are summed up as differences from the mean of the blocks before it (the first's, from that of its beginning). The
// squares of such differences are at most three times those from the mean of all, so nothing cancels where the mean is far from
// zero.
static void task_moments(void *call, int64_t task, int64_t first, int64_t last) {
  struct norm *const n = call;
  struct columns columns;
  float *memory = buffers_of(n, &columns);
  if (!memory) return;
  struct sums total = sums_of(n, task);
  const int64_t block = block_of(n), some = min_of(last, first + block / 8);
  clear(n, &columns);
  moments(n, &columns, first, some);
  double count = count_of(n, first, some);
  for (int64_t c = 0; c < n->channels && count > 0; c++) total.first[c] = fold(n, columns.sum, c) / count;
  for (int64_t r = first; r < last || r == first; r += block) {
    const int64_t end = min_of(last, r + block);
    spread(n, total.first, columns.mean);
    clear(n, &columns);
    moments(n, &columns, r, end);
    count = count_of(n, r, end);
    for (int64_t c = 0; c < n->channels && count > 0; c++) {
      const double sum = fold(n, columns.sum, c), squares = fold(n, columns.product, c) - sum * sum / count;
      merge(total.count, count, (double)columns.mean[c] + sum / count, squares < 0 ? 0 : squares, total.first + c,
            total.second + c);
    }
    total.count += count;
  }
  put_count(n, task, total.count);
  free(memory);
}

static void task_gradient_sums(void *call, int64_t task, int64_t first, int64_t last) {
  struct norm *const n = call;
  struct columns columns;
  float *memory = buffers_of(n, &columns);
  if (!memory) return;
  const struct sums total = sums_of(n, task);
  columns.mean = n->shared->mean;
  const int64_t block = block_of(n);
  for (int64_t r = first; r < last || r == first; r += block) {
    clear(n, &columns);
    gradient_sums(n, &columns, r, min_of(last, r + block));
    for (int64_t c = 0; c < n->channels; c++)
      total.first[c] += fold(n, columns.sum, c), total.second[c] += fold(n, columns.product, c);
  }
  free(memory);
}

// Sweep a task's rows, from the last: those read most recently may still be in a cache.
INLINE void backwards(sweep *function, const struct norm *n, int64_t task) {
  task = n->tasks - 1 - task;
  const int64_t first = task * n->rows / n->tasks, last = (task + 1) * n->rows / n->tasks, block = block_of(n);
  int64_t r = last - 1 - (last - 1 - first) % block;
  if (r < first) r = first;
  function(n, n->shared, r, last);
  for (; r > first; r -= block) function(n, n->shared, r - block, r);
}

static void task_normalize(void *call, int64_t task, int64_t first, int64_t last) {
  (void)first, (void)last;
  backwards(normalize, call, task);
}

static void task_gradient(void *call, int64_t task, int64_t first, int64_t last) {
  (void)first, (void)last;
  backwards(gradient, call, task);
}

// ------------------------------------------------------------------------------------------------------------ handlers

static int64_t common_divisor(int64_t a, int64_t b) { return b ? common_divisor(b, a % b) : a; }

// Set sizes and attributes, and allocate buffers. On failure set n->failed.
static void begin(struct norm *n, XLA_FFI_CallFrame *frame, const XLA_FFI_Buffer *x, struct columns *shared) {
  const double *how = ((XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  n->epsilon = how[0], n->relu = how[1] > 0;
  n->half = x->dtype == XLA_FFI_DataType_BF16;
  n->x = x->data;
  int64_t size = 1;
  for (int64_t i = 0; i < x->rank; i++) size *= x->dims[i];
  n->channels = x->dims[x->rank - 1];
  n->period = n->channels / common_divisor(n->channels, GROUP * WIDE) * GROUP * WIDE;
  n->rows = size / n->period, n->rest = size % n->period;
  n->tasks = max_of(1, min_of(min_of(TASKS, n->rows), size / LEAST_TASK));
  n->memory = zeros_of(4 * 4 * n->period);
  n->per_task = zeros_of(8 * n->tasks * (2 * n->channels + 1));
  n->failed = !n->memory || !n->per_task;
  *shared = (struct columns){n->memory, n->memory + n->period, n->memory + 2 * n->period, n->memory + 3 * n->period, 0, 0};
  n->shared = shared;
}

static void work_on(XLA_FFI_CallFrame *frame, struct norm *n, work *function) {
  if (!n->failed && !in_tasks(frame, function, n, n->rows, n->tasks)) n->failed = 1;
}

static XLA_FFI_Error *finish(XLA_FFI_CallFrame *frame, struct norm *n) {
  free(n->memory), free(n->per_task);
  return n->failed ? error(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: normalization") : NULL;
}

// Set a parameter of one channel.
INLINE void put(const struct norm *n, float *columns, int64_t channel, double value) {
  for (int64_t k = channel; k < n->period; k += n->channels) columns[k] = (float)value;
}

XLA_FFI_Error *cnn_jax_norm(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct norm n = {0};
  struct columns shared;
  begin(&n, frame, argument(frame, 0), &shared);
  const float *scale = argument(frame, 1)->data, *bias = argument(frame, 2)->data;
  if (frame->args.size > 3) n.shortcut = argument(frame, 3)->data;
  n.out = result(frame, 0)->data;
  float *mean = result(frame, 1)->data, *variance = result(frame, 2)->data;
  work_on(frame, &n, task_moments);
  if (n.failed) return finish(frame, &n);
  const struct sums total = sums_of(&n, 0);
  double count = total.count;
  for (int64_t task = 1; task < n.tasks; task++) {
    const struct sums one = sums_of(&n, task);
    for (int64_t c = 0; c < n.channels; c++)
      merge(count, one.count, one.first[c], one.second[c], total.first + c, total.second + c);
    count += one.count;
  }
  for (int64_t c = 0; c < n.channels; c++) {
    mean[c] = (float)total.first[c], variance[c] = (float)(total.second[c] / count);
    const double slope = (double)scale[c] / __builtin_sqrt(total.second[c] / count + n.epsilon);
    put(&n, shared.mean, c, total.first[c]);
    put(&n, shared.slope, c, slope);
    // Part of it is what the mean lost when it was rounded to float32.
    put(&n, shared.constant, c, (double)bias[c] - slope * (total.first[c] - (double)mean[c]));
  }
  work_on(frame, &n, task_normalize);
  return finish(frame, &n);
}

XLA_FFI_Error *cnn_jax_norm_gradient(XLA_FFI_CallFrame *frame) {
  if (asked(frame)) return NULL;
  struct norm n = {0};
  struct columns shared;
  begin(&n, frame, argument(frame, 1), &shared);
  n.gradient = argument(frame, 0)->data;
  const float *given[5];  // scale, mean, variance, gradients of mean and variance
  for (int i = 0; i < 5; i++) given[i] = argument(frame, i + 2)->data;
  if (n.relu) n.y = argument(frame, 7)->data;
  n.out = result(frame, 0)->data;
  float *of_scale = result(frame, 1)->data, *of_bias = result(frame, 2)->data;
  if (frame->rets.size > 3) n.masked = result(frame, 3)->data;
  for (int64_t c = 0; c < n.channels && !n.failed; c++) put(&n, shared.mean, c, (double)given[1][c]);
  work_on(frame, &n, task_gradient_sums);
  if (n.failed) return finish(frame, &n);
  const struct sums total = sums_of(&n, 0);
  for (int64_t task = 1; task < n.tasks; task++) {
    const struct sums one = sums_of(&n, task);
    for (int64_t c = 0; c < n.channels; c++) total.first[c] += one.first[c], total.second[c] += one.second[c];
  }
  const double count = (double)((n.rows * n.period + n.rest) / n.channels);
  for (int64_t c = 0; c < n.channels; c++) {
    const double inverse = 1 / __builtin_sqrt((double)given[2][c] + n.epsilon), slope = (double)given[0][c] * inverse;
    const double scale_gradient = total.second[c] * inverse;
    of_scale[c] = (float)scale_gradient, of_bias[c] = (float)total.first[c];
    put(&n, shared.slope, c, slope);
    put(&n, shared.of_x, c, (2 * (double)given[4][c] - slope * inverse * scale_gradient) / count);
    put(&n, shared.constant, c, ((double)given[3][c] - slope * total.first[c]) / count);
  }
  if (n.masked) n.gradient = n.masked, n.relu = 0;
  work_on(frame, &n, task_gradient);
  return finish(frame, &n);
}
