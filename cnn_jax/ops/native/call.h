// What every call of XLA needs: macros, tasks and threads, and the parts of an XLA FFI handler.

#pragma once

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define MASKS 1  // AVX-512 mask registers: a bit per lane
#else
#define MASKS 0
#endif

#include "xla/ffi/api/c_api.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL(i, count) UNROLL_BY(1, i, count)  // for (int i = 0; i < count; i++), unrolled; `count`: a constant
#define UNROLL_BY(step, i, count) _Pragma("GCC unroll 64") for (int i = 0; i < (count); i += (step))
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define TASKS 16  // largest number of tasks for a batch

INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Allocate `bytes` zeros, at least 64, aligned to a cache line. NULL: there is no memory.
static inline void *zeros_of(int64_t bytes) {
  void *memory = NULL;
  const size_t size = (size_t)max_of(bytes, 64);
  return posix_memalign(&memory, 64, size) ? NULL : memset(memory, 0, size);
}

// ------------------------------------------------------------------------------------------------------------- tasks

// Process the images [first, last) of a call, whose arguments and buffers are `call`.
typedef void work(void *call, int64_t task, int64_t first, int64_t last);

struct batch {
  work *work;
  void *call;
  int64_t images, tasks;
  _Atomic int64_t next, done;
  _Atomic int holders;  // threads with a reference
};

// Drop a reference.
static inline void leave(struct batch *batch) {
  if (atomic_fetch_sub(&batch->holders, 1) == 1) free(batch);
}

// Process tasks until none is left.
static inline void take_tasks(struct batch *batch) {
  for (int64_t task; (task = atomic_fetch_add(&batch->next, 1)) < batch->tasks;) {
    batch->work(batch->call, task, task * batch->images / batch->tasks, (task + 1) * batch->images / batch->tasks);
    atomic_fetch_add(&batch->done, 1);
  }
}

static inline void help(void *data) {
  take_tasks(data);
  leave(data);
}

// Run all tasks on XLA's thread pool and on this thread, which waits only for tasks that have begun. Return 0 if there is no
// memory for them.
static inline int in_tasks(XLA_FFI_CallFrame *frame, work *function, void *call, int64_t images, int64_t tasks) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args ask = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, NULL, frame->ctx, &threads};
  XLA_FFI_Error *refused = frame->api->XLA_FFI_ThreadPool_NumThreads(&ask);
  if (refused) {
    XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, refused};
    frame->api->XLA_FFI_Error_Destroy(&destroy);
  }
  struct batch *batch = malloc(sizeof *batch);
  if (!batch) return 0;
  const int helpers = (int)(refused ? 0 : min_of(threads, tasks) - 1);
  *batch = (struct batch){function, call, images, tasks, 0, 0, helpers + 1};
  for (int i = 0; i < helpers; i++) {
    XLA_FFI_ThreadPool_Schedule_Args schedule = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, NULL, frame->ctx, help, batch};
    XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_Schedule(&schedule);
    if (error) {
      XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
      frame->api->XLA_FFI_Error_Destroy(&destroy);
      leave(batch);
    }
  }
  take_tasks(batch);
  while (atomic_load(&batch->done) < tasks) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  leave(batch);
  return 1;
}

// ---------------------------------------------------------------------------------------------------------- handlers
static inline XLA_FFI_Error *error(XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code, const char *message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
  return frame->api->XLA_FFI_Error_Create(&args);
}

// Answer a query for metadata. Return 0 if the call is an execution.
static inline int asked(XLA_FFI_CallFrame *frame) {
  // frame->extension_start has a type of another name since version 0.5 of the interface (jaxlib 0.12).
  XLA_FFI_Metadata_Extension *extension = (XLA_FFI_Metadata_Extension *)frame->extension_start;
  if (!extension || extension->extension_base.type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata *metadata = extension->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  metadata->traits = 0;
  return 1;
}

static inline XLA_FFI_Buffer *argument(XLA_FFI_CallFrame *frame, int i) { return frame->args.args[i]; }
static inline XLA_FFI_Buffer *result(XLA_FFI_CallFrame *frame, int i) { return frame->rets.rets[i]; }
