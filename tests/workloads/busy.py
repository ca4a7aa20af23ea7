"""Three threads that allocate and free without a pause and compare all that they make with what they made before
anybody looked: json; lists and bytearrays that grow and shrink; blocks over 512 bytes and dicts. The main thread
answers the commands of the test meanwhile. An argument `--rest=S` has each thread rest for so many seconds after a round:
for processors that are slow enough without."""
import binascii
import json
import os
import sys
import threading
import time
import tracemalloc

import protocol

CASES = 24
REST_S = sum(float(word[len("--rest="):]) for word in sys.argv[1:] if word.startswith("--rest="))
ROUNDS = [0, 0, 0]
MISMATCHES = []


def documents(case):
    document = {"id": case, "tags": ["red-%d" % i for i in range(case)], "nested": [{"x": i * 1.5} for i in range(9)]}
    text = json.dumps(document)
    if json.loads(text) != document:
        return None
    return binascii.crc32(text.encode())


def resized(case):
    values, buffer = [], bytearray()
    for i in range(300 + case * 7):
        values.append(i * 1000003)
        buffer.extend(b"%d," % i)
    while len(values) > 40:
        values.pop()
        if len(values) % 50 == 0:
            del buffer[len(buffer) // 2:]
    return sum(values), binascii.crc32(buffer)


def large(case):
    blocks = [bytes([case]) * (513 + case * 97 * i % 9000) for i in range(30)]
    index = {"key-%d" % i: block for i, block in enumerate(blocks)}
    for i in range(0, 30, 3):
        del index["key-%d" % i]
    for i in range(60):
        index["late-%d" % i] = {"n": i}
    joined = b"".join(block for block in index.values() if isinstance(block, bytes))
    return len(index), binascii.crc32(joined)


KINDS = [documents, resized, large]
EXPECTED = [[kind(case) for case in range(CASES)] for kind in KINDS]


def keep_busy(number):
    kind, expected = KINDS[number], EXPECTED[number]
    try:
        while True:
            case = ROUNDS[number] % CASES
            got = kind(case)
            if got != expected[case]:
                MISMATCHES.append("%s(%d): %r" % (kind.__name__, case, got))
            ROUNDS[number] += 1
            if REST_S:
                time.sleep(REST_S)
    except BaseException as error:
        MISMATCHES.append("%s: %r" % (kind.__name__, error))


def check():
    return {"rounds": list(ROUNDS), "mismatches": MISMATCHES[:5], "threads": sum(t.is_alive() for t in THREADS)}


def measure():
    """What the interpreter's own tracer says of a hundred objects that are made now."""
    tracemalloc.start()
    measure.kept = [bytes(1000 + i) for i in range(100)]
    return snapshot()


def snapshot():
    line = sum(s.count for s in tracemalloc.take_snapshot().statistics("lineno")
               if s.traceback[0].lineno == measure.__code__.co_firstlineno + 3
               and s.traceback[0].filename == __file__)
    return {"tracing": tracemalloc.is_tracing(), "made": line}


def unmeasure():
    before = snapshot()
    tracemalloc.stop()
    return before


def fork():
    """A child that waits to be killed, and allocates meanwhile."""
    child = os.fork()
    while child == 0:
        if large(3) != EXPECTED[2][3]:
            os._exit(1)
    return {"child": child}


def reap():
    child, status = os.waitpid(-1, os.WNOHANG)
    return {"child": child, "status": status}


THREADS = [threading.Thread(target=keep_busy, args=(number,), daemon=True) for number in range(3)]
for thread in THREADS:
    thread.start()
protocol.serve({
    "check": check, "measure": measure, "snapshot": snapshot, "unmeasure": unmeasure, "fork": fork, "reap": reap,
    "exit": lambda: sys.exit(0),
    "abort": lambda: os._exit(3),
    "exec": lambda: os.execv(sys.executable, [sys.executable, __file__]),
})
