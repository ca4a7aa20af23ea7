"""Makes known numbers of blocks in sub-interpreters: those that share everything with the main one (`legacy`), or those
with a GIL and pools of their own (`isolated`, from 3.12 on), each on a thread of its own, while the main one works too."""
import sys
import threading

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

import protocol

KIND = sys.argv[1]
COUNT = 10000
# What each sub-interpreter does, number by number. All sizes, so that many pools are new to their class.
SCRIPT = """
def hold(keep):
    for i in range(len(keep)):
        keep[i] = object()

def hold_sizes(keep):
    for i in range(len(keep)):
        keep[i] = bytes(1 + i % 400)

def drop(keep):
    for i in range(len(keep)):
        keep[i] = None

objects = [None] * {count}
sizes = [None] * {count}
dropped = [None] * {count}
hold(objects)
hold_sizes(sizes)
hold(dropped)
drop(dropped)
"""
HELD = []


def create():
    if sys.version_info >= (3, 13):
        return interpreters.create(KIND)
    if sys.version_info >= (3, 12):
        return interpreters.create(isolated=KIND == "isolated")
    return interpreters.create()


SUBS = [create(), create()]


def warm():
    """Work for the main interpreter, so that predictions prove themselves."""
    for i in range(20000):
        HELD.append([i, str(i)])
    return {}


def run_all():
    script = SCRIPT.format(count=COUNT)
    threads = [threading.Thread(target=interpreters.run_string, args=(sub, script)) for sub in SUBS]
    for thread in threads:
        thread.start()
    warm()
    for thread in threads:
        thread.join()
    return {"count": COUNT, "interpreters": len(SUBS)}


protocol.serve({"warm": warm, "run": run_all})
