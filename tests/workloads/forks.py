"""Makes children in every way there is, each of which allocates and checks itself: by fork, by subprocess with and
without a preexec_fn, and in pools. Counts them, and those that came to harm."""
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import protocol

warnings.simplefilter("ignore", DeprecationWarning)

COUNTS = {"forks": 0, "subprocesses": 0, "preexec": 0, "pools": 0, "pool_tasks": 0}
HARM = []
CHILD = "import json; values = json.loads(json.dumps(list(range(500)))); assert sum(values) == 124750"
PATIENCE_S = 60


def work(number):
    items = {"k%d" % i: [i] * 9 for i in range(200 + number % 50)}
    blocks = [bytearray(600 + i) for i in range(20)]
    for block in blocks:
        block.extend(b"x" * 4000)
    return sum(sum(values) for values in items.values()) + sum(map(len, blocks))


EXPECTED = [work(number) for number in range(50)]


def fork():
    number = COUNTS["forks"]
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE_S)
        os._exit(0 if work(number) == EXPECTED[number % 50] else 2)
    _, status = os.waitpid(child, 0)
    COUNTS["forks"] += 1
    if status != 0:
        HARM.append("fork: status %d" % status)


def prepare():
    work(7)


def spawn(kind, **options):
    status = subprocess.run([sys.executable, "-S", "-c", CHILD], timeout=PATIENCE_S, **options).returncode
    COUNTS[kind] += 1
    if status != 0:
        HARM.append("%s: status %d" % (kind, status))


def pool():
    with multiprocessing.get_context("fork").Pool(3) as workers:
        results = workers.map_async(work, range(50), chunksize=5).get(PATIENCE_S)
        workers.close()
        workers.join()
    COUNTS["pools"] += 1
    COUNTS["pool_tasks"] += len(results)
    if results != EXPECTED:
        HARM.append("pool: wrong results")


def forever(pause_s, *steps):
    while RUNNING:
        started = time.monotonic()
        for step in steps:
            try:
                step()
            except BaseException as error:
                HARM.append(repr(error))
        time.sleep(max(0.0, pause_s - (time.monotonic() - started)))


def check():
    return dict(COUNTS, harm=HARM[:5], harmed=len(HARM), threads=sum(thread.is_alive() for thread in THREADS))


def stop():
    RUNNING.clear()
    for thread in THREADS:
        thread.join()
    return check()


RUNNING = [True]
THREADS = [
    threading.Thread(target=forever, args=(0.02, fork), daemon=True),
    threading.Thread(target=forever, args=(0.2, lambda: spawn("subprocesses"),
                                           lambda: spawn("preexec", preexec_fn=prepare)), daemon=True),
    threading.Thread(target=forever, args=(0.5, pool), daemon=True),
]
if __name__ == "__main__":
    for thread in THREADS:
        thread.start()
    protocol.serve({"check": check, "stop": stop})
