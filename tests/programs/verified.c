/* Preloaded, it has the kernel's verifier tell how many instructions it walked through for each BPF program that is
 * loaded, also on kernels that do not keep the number (before 5.16), and prints it: `@@ verified NAME COUNT`.
 *
 * It stands in front of the C library's syscall(), through which programs are loaded, and adds a buffer for the
 * verifier's log to loads that have none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

/* Of the verifier's log only the statistics: BPF_LOG_STATS of the kernel's bpf_verifier.h. */
#define STATISTICS 4
/* The name is the attribute's last field that is looked at here. */
#define NAME_END (offsetof(union bpf_attr, prog_name) + BPF_OBJ_NAME_LEN)

typedef long call(long, long, long, long, long, long, long);

static long load(call *next, const union bpf_attr *attributes, unsigned int size) {
    char log[4096] = "";
    union bpf_attr copy = {0};
    memcpy(&copy, attributes, size < sizeof copy ? size : sizeof copy);
    copy.log_level = STATISTICS;
    copy.log_buf = (unsigned long)log;
    copy.log_size = sizeof log;
    long program = next(SYS_bpf, BPF_PROG_LOAD, (long)&copy, size < sizeof copy ? size : sizeof copy, 0, 0, 0);
    const char *count = strstr(log, "processed ");
    if (program >= 0 && count)
        printf("\n@@ verified %s %lu\n", copy.prog_name, strtoul(count + strlen("processed "), NULL, 10));
    return program;
}

long syscall(long number, long a, long b, long c, long d, long e, long f) {
    static call *next;
    if (!next)
        next = (call *)dlsym(RTLD_NEXT, "syscall");
    const union bpf_attr *attributes = (const union bpf_attr *)b;
    if (number == SYS_bpf && a == BPF_PROG_LOAD && c >= (long)NAME_END && !attributes->log_buf && attributes->prog_name[0])
        return load(next, attributes, (unsigned int)c);
    return next(number, a, b, c, d, e, f);
}
