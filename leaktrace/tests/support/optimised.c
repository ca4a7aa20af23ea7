/* What link-time optimisation makes of CPython's allocators, in position-independent code: the wrappers compare the
   tables' pointers with functions that they contain. Real builds of that kind are not on every machine. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

struct table {
    void *ctx;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
};

static char pool[1 << 20];
static size_t used;

static void *raw_malloc(void *ctx, size_t n) { return malloc(n ? n : 1); }
static void *raw_calloc(void *ctx, size_t n, size_t size) { return calloc(n, size); }
static void *raw_realloc(void *ctx, void *block, size_t n) { return realloc(block, n); }
static void raw_free(void *ctx, void *block) { free(block); }
static void *obj_malloc(void *ctx, size_t n) { return n > 512 ? raw_malloc(ctx, n) : pool + (used += n); }
static void *obj_calloc(void *ctx, size_t n, size_t size) { return obj_malloc(ctx, n * size); }
static void *obj_realloc(void *ctx, void *block, size_t n) { return obj_malloc(ctx, n); }
static void obj_free(void *ctx, void *block) { used -= block != NULL; }

struct {
    long before[300];
    struct table raw, mem, obj;
} _PyRuntime = {
    { 1 },
    { NULL, raw_malloc, raw_calloc, raw_realloc, raw_free },
    { NULL, obj_malloc, obj_calloc, obj_realloc, obj_free },
    { NULL, obj_malloc, obj_calloc, obj_realloc, obj_free },
};

#define CALL(table, slot, inlined, ...)                                                            \
    (_PyRuntime.table.slot == inlined ? inlined(NULL, __VA_ARGS__)                                 \
                                      : _PyRuntime.table.slot(_PyRuntime.table.ctx, __VA_ARGS__))
#define WRAPPERS(prefix, table, kind)                                                              \
    void *prefix##Malloc(size_t n) { return CALL(table, malloc, kind##_malloc, n); }               \
    void *prefix##Calloc(size_t n, size_t m) { return CALL(table, calloc, kind##_calloc, n, m); }  \
    void *prefix##Realloc(void *p, size_t n) { return CALL(table, realloc, kind##_realloc, p, n); } \
    void prefix##Free(void *p) { CALL(table, free, kind##_free, p); }
WRAPPERS(PyMem_Raw, raw, raw)
WRAPPERS(PyMem_, mem, obj)
WRAPPERS(PyObject_, obj, obj)

const unsigned long Py_Version = 0x030d02f0;

int main(void) {
    puts("ready");
    fflush(stdout);
    return getchar();
}
