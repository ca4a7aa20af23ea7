"""Does work of which it checks every result, in two threads, while a memory profiler (memray) comes and goes."""
import json
import random
import sys
import threading

import protocol

KEPT = {}


def kept(count, size):
    """So many blocks of one size, which stay."""
    blocks = [None] * count
    for number in range(count):
        blocks[number] = bytes(size)
    KEPT[size] = blocks
    return {"line": kept.__code__.co_firstlineno + 4, "blocks": count, "bytes": count * (sys.getsizeof(b"") + size)}


def forget():
    KEPT.clear()
    return {}


class Worker(threading.Thread):
    def __init__(self, seed):
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.rounds = self.wrong = 0

    def run(self):
        while True:
            numbers = [self.random.random() for _ in range(self.random.randrange(200))]
            text = json.dumps({"numbers": numbers, "text": "x" * self.random.randrange(3000)})
            self.wrong += json.loads(text)["numbers"] != numbers
            buffer = bytearray()
            for number in range(self.random.randrange(100)):
                buffer += b"%d," % number
            self.wrong += buffer != b"".join(b"%d," % number for number in range(buffer.count(b",")))
            self.rounds += 1
            # memray's debugger waits for a call of the allocator by any thread.
            STOPPED.wait(self.random.random() * 0.02)


STOPPED = threading.Event()
WORKERS = [Worker(seed) for seed in range(2)]


def result():
    return {"rounds": sum(worker.rounds for worker in WORKERS), "wrong": sum(worker.wrong for worker in WORKERS)}


# What a profiler imports as it comes is no part of what is measured: those modules are named as arguments.
for module in sys.argv[1:]:
    __import__(module)
for worker in WORKERS:
    worker.start()
protocol.serve({"kept": lambda count, size: kept(int(count), int(size)), "forget": forget, "result": result})
