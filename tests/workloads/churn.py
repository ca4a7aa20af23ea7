"""Allocates and frees as fast as it can, from a stack of a given depth, for as long as each line of input says, and
says how many pairs it made and how long they took."""
import itertools
import json
import os
import sys
import time

BATCH = 20000


def churn(seconds):
    make = object
    pairs = 0
    started = time.perf_counter()
    while True:
        for _ in itertools.repeat(None, BATCH):
            make()
        pairs += BATCH
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return {"pairs": pairs, "seconds": elapsed}


def at_depth(depth, seconds):
    return churn(seconds) if depth <= 0 else at_depth(depth - 1, seconds)


def main():
    # The module, this function, and `churn` are frames, too.
    depth = int(sys.argv[1]) - 4
    sys.stdout.write("ready %d\n" % os.getpid())
    sys.stdout.flush()
    while True:
        line = sys.stdin.readline().strip()
        if line in ("", "quit"):
            os._exit(0)
        sys.stdout.write(json.dumps(at_depth(depth, float(line))) + "\n")
        sys.stdout.flush()


main()
