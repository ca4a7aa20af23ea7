/* A program with CPython in it, as plug-in hosts and servers are: `host SCRIPT` is linked with libpython, `host SCRIPT
   LIBRARY local|global` loads it while it runs. Declares the few functions that it needs: no headers of any version. It
   runs the script, which says `ready` itself and answers lines of text by its function `answer`; two of them are the host's
   own: `debug` for debug hooks that come and go while it holds the GIL, and `again` for an end of the interpreter and a new
   one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *ctx, *malloc, *calloc, *realloc, *free;
} Allocator;

#define FUNCTIONS(DO) \
    DO(void, Py_InitializeEx, (int)) \
    DO(void, Py_Finalize, (void)) \
    DO(int, PyRun_SimpleFileExFlags, (FILE *, const char *, int, void *)) \
    DO(int, PyRun_SimpleStringFlags, (const char *, void *)) \
    DO(void, PyMem_GetAllocator, (int, Allocator *)) \
    DO(void, PyMem_SetAllocator, (int, Allocator *)) \
    DO(void, PyMem_SetupDebugHooks, (void)) \
    DO(void *, PyMem_Malloc, (size_t)) \
    DO(void, PyMem_Free, (void *)) \
    DO(void *, PyEval_SaveThread, (void)) \
    DO(void, PyEval_RestoreThread, (void *))

#ifdef LINKED
#define DECLARE(type, name, arguments) extern type name arguments;
FUNCTIONS(DECLARE)
static void load(char **arguments) { (void)arguments; }
#else
#define DECLARE(type, name, arguments) static type(*name) arguments;
#define LOAD(type, name, arguments) \
    if (!(name = (type(*) arguments)dlsym(library, #name))) fprintf(stderr, "%s\n", dlerror()), exit(1);
FUNCTIONS(DECLARE)
static void load(char **arguments)
{
    int scope = strcmp(arguments[3], "global") ? RTLD_LOCAL : RTLD_GLOBAL;
    void *library = dlopen(arguments[2], RTLD_NOW | scope);
    if (!library) fprintf(stderr, "%s\n", dlerror()), exit(1);
    FUNCTIONS(LOAD)
}
#endif

static void run(const char *script)
{
    FILE *file = fopen(script, "r");
    if (!file || PyRun_SimpleFileExFlags(file, script, 1, NULL)) exit(1);
}

/* Blocks that live and die under debug hooks; the GIL is held all the while. */
static void debug_round(void)
{
    enum { BLOCKS = 50 };
    Allocator saved[3];
    void *blocks[BLOCKS];
    for (int domain = 0; domain < 3; domain++) PyMem_GetAllocator(domain, &saved[domain]);
    PyMem_SetupDebugHooks();
    for (int i = 0; i < BLOCKS; i++) memset(blocks[i] = PyMem_Malloc(20 * (i + 1)), i, 20 * (i + 1));
    for (int i = 0; i < BLOCKS; i++) PyMem_Free(blocks[i]);
    for (int domain = 0; domain < 3; domain++) PyMem_SetAllocator(domain, &saved[domain]);
}

int main(int count, char **arguments)
{
    (void)count;
    char line[100], code[200];
    load(arguments);
    Py_InitializeEx(0);
    run(arguments[1]);
    for (;;) {
        /* Waits without the GIL: the script has threads. */
        void *thread = PyEval_SaveThread();
        char *got = fgets(line, sizeof line, stdin);
        PyEval_RestoreThread(thread);
        if (!got || !strcmp(line, "quit\n")) break;
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "debug")) debug_round();
        if (!strcmp(line, "again")) {
            PyRun_SimpleStringFlags("end()", NULL);
            Py_Finalize();
            Py_InitializeEx(0);
            run(arguments[1]);
        }
        snprintf(code, sizeof code, "answer('%s')", line);
        if (PyRun_SimpleStringFlags(code, NULL)) return 1;
    }
    PyRun_SimpleStringFlags("end()", NULL);
    Py_Finalize();
    return 0;
}
