"""Holds a heap of so many GiB in pymalloc's largest blocks. Told for how many seconds, it does the same small work again and
again, which touches what it holds and makes and frees objects, and answers how long that took: its operations, and in
microseconds their median, their 99th and 99.9th percentile and the longest."""
import gc
import os
import sys
import time

GIB = float(os.environ.get("LEAKTRACE_HEAP_GIB", "9"))
BLOCKS = int(GIB * (1 << 30) / 512)

gc.disable()
held = [None] * BLOCKS
for i in range(BLOCKS):
    held[i] = bytes(470)
print("ready", flush=True)

place = 0
for line in sys.stdin:
    end = time.perf_counter_ns() + int(float(line) * 1e9)
    took = []
    now = time.perf_counter_ns()
    while now < end:
        for _ in range(20):
            place = (place + 7919) % BLOCKS
            held[place][3]
        for _ in range(100):
            x = [object(), (object(), {"a": 1})]
        then, now = now, time.perf_counter_ns()
        took.append(now - then)
    took.sort()
    quantiles = [took[min(len(took) - 1, int(len(took) * part))] for part in (0.5, 0.99, 0.999, 1)]
    print(len(took), *quantiles, flush=True)
