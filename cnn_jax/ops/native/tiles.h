// Tile registers: 16 rows of 64 bytes each, and products of bfloat16 tiles with float32 sums, by AMX.
//
// With -DEMULATED_TILES, in C: for processors with AVX-512 but no AMX, and for sanitizers, which do not see what AMX reads and
// writes.

#pragma once

#include "call.h"

#define TILE_ROWS 16
#define TILE_FLOATS 16  // of a row
#define TILE_HALVES 32  // bfloat16 values of a row

struct tile_config {
  uint8_t palette, start, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

#if defined(EMULATED_TILES) && MASKS
#define HAVE_TILES 1

struct emulated {
  struct tile_config config;
  uint8_t data[8][TILE_ROWS][64];
};
static _Thread_local struct emulated emulated;

INLINE int tiles_permitted(void) { return 1; }
INLINE void tile_configure(const struct tile_config *config) { emulated.config = *config; }
INLINE void tile_release(void) {}
INLINE void tile_zero(const int to) { memset(emulated.data[to], 0, sizeof emulated.data[to]); }

// Load rows, `stride` bytes apart.
INLINE void tile_load(const int to, const void *from, int64_t stride) {
  tile_zero(to);
  for (int64_t i = 0; i < emulated.config.rows[to]; i++)
    memcpy(emulated.data[to][i], (const char *)from + i * stride, emulated.config.row_bytes[to]);
}

INLINE void tile_store(const int from, void *to, int64_t stride) {
  for (int64_t i = 0; i < emulated.config.rows[from]; i++)
    memcpy((char *)to + i * stride, emulated.data[from][i], emulated.config.row_bytes[from]);
}

// to (rows, columns) += a (rows, pairs * 2) @ b (pairs, columns * 2): pairs of b's rows are interleaved.
INLINE void tile_product(const int to, const int a, const int b) {
  for (int i = 0; i < emulated.config.rows[to]; i++)
    for (int j = 0; j < emulated.config.row_bytes[to] / 4; j++) {
      float sum, sums[2] = {0, 0};
      memcpy(&sum, emulated.data[to][i] + 4 * j, 4);
      for (int k = 0; k < emulated.config.rows[b]; k++)
        for (int half = 0; half < 2; half++) {
          uint32_t bits[2] = {0, 0};
          float values[2];
          memcpy((char *)&bits[0] + 2, emulated.data[a][i] + 4 * k + 2 * half, 2);
          memcpy((char *)&bits[1] + 2, emulated.data[b][k] + 4 * j + 2 * half, 2);
          memcpy(values, bits, 8);
          sums[half] += values[0] * values[1];
        }
      sum += sums[0] + sums[1];
      memcpy(emulated.data[to][i] + 4 * j, &sum, 4);
    }
}

#elif defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAVE_TILES 1
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

// Whether the kernel lets this process use tiles: it must be asked, once.
static int tiles_permitted(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; }

// The compiler's intrinsics do not say that they access memory.
#define BARRIER __asm__ volatile("" ::: "memory")
INLINE void tile_configure(const struct tile_config *config) {
  BARRIER;
  _tile_loadconfig(config);
}
INLINE void tile_release(void) {
  BARRIER;
  _tile_release();
}
// Macros, as the register must be a constant.
#define tile_zero(to) _tile_zero(to)
#define tile_load(to, from, stride)        \
  do {                                     \
    BARRIER;                               \
    _tile_loadd(to, from, (long)(stride)); \
  } while (0)
#define tile_store(from, to, stride)        \
  do {                                      \
    _tile_stored(from, to, (long)(stride)); \
    BARRIER;                                \
  } while (0)
#define tile_product(to, a, b) _tile_dpbf16ps(to, a, b)

#else
#define HAVE_TILES 0
#endif
