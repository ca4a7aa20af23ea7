/* What a program that embeds CPython, or a profiler within it, may do to the allocators. Loaded into a running
   interpreter, whose functions it finds at run time: no headers of any version are needed. */
#include <stddef.h>
#include <string.h>
#include <time.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} Allocator;

extern void PyMem_GetAllocator(int, Allocator *);
extern void PyMem_SetAllocator(int, Allocator *);
extern void PyMem_SetupDebugHooks(void);
extern void *PyMem_RawMalloc(size_t), *PyMem_RawRealloc(void *, size_t);
extern void *PyMem_Malloc(size_t), *PyMem_Realloc(void *, size_t);
extern void *PyObject_Malloc(size_t), *PyObject_Realloc(void *, size_t);
extern void PyMem_RawFree(void *), PyMem_Free(void *), PyObject_Free(void *);

enum { DOMAINS = 3, BLOCKS = 20 };

static void *(*const mallocs[DOMAINS])(size_t) = {PyMem_RawMalloc, PyMem_Malloc, PyObject_Malloc};
static void *(*const reallocs[DOMAINS])(void *, size_t) = {PyMem_RawRealloc, PyMem_Realloc, PyObject_Realloc};
static void (*const frees[DOMAINS])(void *) = {PyMem_RawFree, PyMem_Free, PyObject_Free};

static Allocator saved[DOMAINS];

void save(void)
{
    for (int domain = 0; domain < DOMAINS; domain++) PyMem_GetAllocator(domain, &saved[domain]);
}

void put_back(void)
{
    for (int domain = 0; domain < DOMAINS; domain++) PyMem_SetAllocator(domain, &saved[domain]);
}

static void rest(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Blocks of all domains that live and die within; returns how many had wrong contents. */
static int use(long ms)
{
    unsigned char *blocks[DOMAINS][BLOCKS];
    int wrong = 0;
    for (int domain = 0; domain < DOMAINS; domain++)
        for (int i = 0; i < BLOCKS; i++) {
            blocks[domain][i] = mallocs[domain](40 + 60 * i);
            memset(blocks[domain][i], 1 + i, 40 + 60 * i);
        }
    rest(ms);
    for (int domain = 0; domain < DOMAINS; domain++)
        for (int i = 0; i < BLOCKS; i++) {
            unsigned char *block = reallocs[domain](blocks[domain][i], i % 2 ? 20 : 2000);
            for (int at = 0; at < 20; at++) wrong += block[at] != 1 + i;
            frees[domain](block);
        }
    return wrong;
}

/* Debug hooks over live allocators are legal only if nothing from before is freed or resized under them: so they come
   and go while the caller holds the GIL and no other thread runs. */
int debug_round(long ms)
{
    save();
    PyMem_SetupDebugHooks();
    int wrong = use(ms);
    put_back();
    return wrong;
}

/* Hooks of a profiler that keeps the tables where nobody finds them: its ctx is a number. */
static Allocator beneath[DOMAINS];
static size_t calls;

#define BENEATH beneath[(size_t)ctx - 1]

static void *hook_malloc(void *ctx, size_t size)
{
    calls++;
    return BENEATH.malloc(BENEATH.ctx, size);
}

static void *hook_calloc(void *ctx, size_t count, size_t size)
{
    calls++;
    return BENEATH.calloc(BENEATH.ctx, count, size);
}

static void *hook_realloc(void *ctx, void *block, size_t size)
{
    calls++;
    return BENEATH.realloc(BENEATH.ctx, block, size);
}

static void hook_free(void *ctx, void *block)
{
    calls++;
    BENEATH.free(BENEATH.ctx, block);
}

void hook(void)
{
    for (int domain = 0; domain < DOMAINS; domain++) {
        Allocator mine = {(void *)(size_t)(domain + 1), hook_malloc, hook_calloc, hook_realloc, hook_free};
        PyMem_GetAllocator(domain, &beneath[domain]);
        PyMem_SetAllocator(domain, &mine);
    }
}

size_t unhook(void)
{
    for (int domain = 0; domain < DOMAINS; domain++) PyMem_SetAllocator(domain, &beneath[domain]);
    return calls;
}
