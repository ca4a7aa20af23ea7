/* A program with a known number of calls: three functions of the shape of CPython's raw allocators, each behind a
 * one-byte NOP as a gate point is. It says `ready`, then answers each line of its input with one line of JSON: `where`
 * with the offsets of the functions in its file, `go` with what two threads did. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 2
#define CALLS 4000

/* The first byte of this program's file, as it is mapped. */
extern const char __executable_start[];

#define PROBED __attribute__((noinline, noclone, patchable_function_entry(1, 0)))

PROBED void *allocate(void *context, size_t size) {
    (void)context;
    return malloc(size);
}

PROBED void *reallocate(void *context, void *block, size_t size) {
    (void)context;
    return realloc(block, size);
}

PROBED void release(void *context, void *block) {
    (void)context;
    free(block);
}

struct work {
    uint64_t first_size, sizes, blocks, freed;
};

/* Every block is allocated, every third one resized, and all are freed. The sums wrap around, as those of the test. */
static void *work(void *argument) {
    struct work *work = argument;
    for (uint64_t call = 0; call < CALLS; call++) {
        uint64_t size = work->first_size + call % 600;
        void *block = allocate(NULL, size);
        work->sizes += size;
        work->blocks += (uint64_t)(uintptr_t)block;
        if (call % 3 == 0) {
            work->freed += (uint64_t)(uintptr_t)block;
            block = reallocate(NULL, block, size * 2);
            work->sizes += size * 2;
            work->blocks += (uint64_t)(uintptr_t)block;
        }
        work->freed += (uint64_t)(uintptr_t)block;
        release(NULL, block);
    }
    return NULL;
}

static void go(void) {
    pthread_t threads[THREADS];
    struct work works[THREADS] = {{.first_size = 1}, {.first_size = 1001}};
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, &works[i]) != 0)
            abort();
    struct work sum = {0};
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum.sizes += works[i].sizes;
        sum.blocks += works[i].blocks;
        sum.freed += works[i].freed;
    }
    printf("{\"allocate\": %d, \"reallocate\": %d, \"release\": %d, \"sizes\": %llu, \"blocks\": %llu, \"freed\": %llu}\n",
           THREADS * CALLS, THREADS * ((CALLS + 2) / 3), THREADS * CALLS, (unsigned long long)sum.sizes,
           (unsigned long long)sum.blocks, (unsigned long long)sum.freed);
}

static unsigned long offset(const void *function) {
    return (unsigned long)((const char *)function - __executable_start);
}

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready %d\n", getpid());
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "where\n") == 0)
            printf("{\"allocate\": %lu, \"reallocate\": %lu, \"release\": %lu}\n", offset(allocate), offset(reallocate),
                   offset(release));
        else if (strcmp(line, "go\n") == 0)
            go();
        else
            break;
    }
    return 0;
}
