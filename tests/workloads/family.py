"""Makes children of every kind when it is told to, and keeps those that are to be looked at until they are told to end.
Each child allocates, checks its own results, and answers on a pipe."""
import json
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

PATIENCE_S = 120
CHILD = "import json; values = json.loads(json.dumps(list(range(500)))); print(sum(values))"
KEPT = []
MEMBERS = {}
BACKWARDS = []


def work(number):
    """Small blocks, which the inlined allocator serves, and a sum that must be right."""
    items = {"k%d" % i: [i] * 9 for i in range(200 + number % 50)}
    pairs = [(str(i), i * 1.5) for i in range(2000)]
    return sum(sum(values) for values in items.values()) + len(pairs)


EXPECTED = [work(number) for number in range(50)]


class Member:
    """A process that was forked `depth` times, and answers each byte on its pipe with the seconds that it worked."""

    ASKING = []

    def __init__(self, depth):
        asked, self.ask = os.pipe()
        self.answer, answers = os.pipe()
        child = os.fork()
        if child == 0:
            for _ in range(depth - 1):
                if os.fork() != 0:
                    os._exit(0)
            # It ends with the one that asks.
            for ask in self.ASKING + [self.ask]:
                os.close(ask)
            self.answers(asked, answers)
        self.ASKING.append(self.ask)
        os.close(asked)
        os.close(answers)
        self.pid = int(self.read())
        if depth > 1:
            os.waitpid(child, 0)

    def read(self):
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(self.answer, 64) or sys.exit("a child died")
        return text

    @staticmethod
    def answers(asked, answers):
        signal.alarm(PATIENCE_S)
        # Two processors of a virtual machine are not always equally fast.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.write(answers, b"%d\n" % os.getpid())
        while os.read(asked, 1):
            started = time.process_time()
            right = all(work(number) == EXPECTED[number] for number in range(20))
            took = time.process_time() - started
            os.write(answers, b"%.9f\n" % (took if right else -1.0))
        os._exit(0)

    def work(self):
        os.write(self.ask, b"x")
        return float(self.read())


def member(name, depth):
    def make():
        MEMBERS[name] = Member(depth)
        return {"pid": MEMBERS[name].pid, "parent": os.getpid()}
    return make


def race():
    """One round of each member, one after the other and each of them first in turn: whatever else the machine does hits
    them alike."""
    BACKWARDS.append(len(BACKWARDS) % 2 == 1)
    return {name: member.work() for name, member in sorted(MEMBERS.items(), reverse=BACKWARDS[-1])}


def run(**options):
    def start():
        done = subprocess.run([sys.executable, "-S", "-c", CHILD], stdout=subprocess.PIPE, timeout=PATIENCE_S, **options)
        return {"status": done.returncode, "said": done.stdout.decode().strip()}
    return start


def pool():
    workers = multiprocessing.get_context("fork").Pool(2)
    KEPT.append(workers)
    right = workers.map(work, range(50), chunksize=5) == EXPECTED
    return {"right": right, "pids": [worker.pid for worker in workers._pool]}


def grow():
    """Something for the one who traces."""
    KEPT.append([bytes(100 + i) for i in range(1000)])
    return {"kept": len(KEPT)}


def crowd():
    """Three hundred threads that allocate at the same time, in functions of a known depth."""
    right = []

    def inner(number):
        blocks = [bytes(50 + number) for _ in range(20)]
        time.sleep(0.2)
        return len(blocks)

    def outer(number):
        right.append(sum(inner(number) for _ in range(5)) == 100)

    threads = [threading.Thread(target=outer, args=(number,)) for number in range(300)]
    for thread in threads:
        thread.start()
    alive = sum(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(PATIENCE_S)
    return {"right": sum(right), "alive": alive}


if __name__ == "__main__":
    protocol.serve({
        "before": member("before", 1), "child": member("child", 1), "grandchild": member("grandchild", 2), "race": race,
        "subprocess": run(), "preexec": run(preexec_fn=lambda: work(7)), "pool": pool, "grow": grow, "crowd": crowd,
    })
