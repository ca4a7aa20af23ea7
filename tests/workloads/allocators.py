"""Makes and drops blocks of known sizes on known lines, and says how many and how large: what a tracer must say of each
line, whichever allocators and hooks the interpreter runs on. With the path of `hooks.c`, built, as its argument it also
does what that can do to the allocators."""
import ctypes
import gc
import random
import sys
import time
import tracemalloc

import protocol

COUNT = 2000
LARGE = 500
EMPTY = sys.getsizeof(b"")
KEPT = []


def small(keep):
    for i in range(COUNT):
        keep[i] = bytes(200)


def dropped(keep):
    for i in range(COUNT):
        keep[i] = bytes(300)
    for i in range(COUNT):
        keep[i] = None


def large(keep):
    for i in range(LARGE):
        keep[i] = bytes(30000)


def resized(keep):
    for i in range(LARGE):
        keep[i] = bytearray(80)
    for buffer in keep:
        buffer.extend(TAIL)
    for buffer in keep[::2]:
        del buffer[100:]


TAIL = b"x" * 5000


def line_of(function, behind):
    return function.__code__.co_firstlineno + behind


def make():
    """One lot of each kind; all but the dropped ones are kept."""
    lots = [[None] * COUNT, [None] * COUNT, [None] * LARGE, [None] * LARGE]
    for function, keep in zip((small, dropped, large, resized), lots):
        function(keep)
    assert all(block == bytes(200) for block in lots[0])
    assert lots[1] == [None] * COUNT
    assert all(block == bytes(30000) for block in lots[2])
    assert [len(buffer) for buffer in lots[3]] == [100, 5080] * (LARGE // 2)
    KEPT.append(lots)
    grown = sum(buffer.__alloc__() for buffer in lots[3][1::2])
    return {
        "small": {"line": line_of(small, 2), "made": COUNT, "kept": COUNT, "bytes": COUNT * (EMPTY + 200)},
        "dropped": {"line": line_of(dropped, 2), "made": COUNT, "kept": 0, "bytes": 0},
        "large": {"line": line_of(large, 2), "made": LARGE, "kept": LARGE, "bytes": LARGE * (EMPTY + 30000)},
        "grown": {"line": line_of(resized, 4), "made": LARGE, "kept": LARGE // 2, "bytes": grown},
    }


def forget():
    KEPT.clear()
    return {}


def measure():
    tracemalloc.start()
    return {"tracing": tracemalloc.is_tracing()}


def measured():
    """What tracemalloc itself says of the lines of the last lot."""
    snapshot = tracemalloc.take_snapshot()
    lines = {}
    for statistic in snapshot.statistics("lineno"):
        frame = statistic.traceback[0]
        if frame.filename == __file__:
            lines[frame.lineno] = {"bytes": statistic.size, "blocks": statistic.count}
    return lines


def unmeasure():
    tracemalloc.stop()
    return {"tracing": tracemalloc.is_tracing()}


def setup_debug_hooks():
    """Where debug hooks stand already, this changes nothing."""
    for _ in range(100):
        ctypes.pythonapi.PyMem_SetupDebugHooks()
    return {}


def library():
    # The GIL is held while it works.
    return ctypes.PyDLL(sys.argv[1])


def called(name):
    return lambda: {"result": getattr(library(), name)()}


def measure_round(pause_s):
    tracemalloc.start()
    kept = [bytes(1000 + i) for i in range(50)]
    time.sleep(pause_s)
    line = measure_round.__code__.co_firstlineno + 2
    statistics = tracemalloc.take_snapshot().statistics("lineno")
    traced = sum(s.count for s in statistics if s.traceback[0].filename == __file__ and s.traceback[0].lineno == line)
    tracemalloc.stop()
    return traced >= len(kept) and not tracemalloc.is_tracing()


def debug_round(pause_s):
    return library().debug_round(int(pause_s * 1000)) == 0


def saved_round(pause_s):
    """A host that saves the allocators and puts them back some time later."""
    library().save()
    time.sleep(pause_s)
    library().put_back()
    return True


def hooked_round(pause_s):
    library().hook()
    time.sleep(pause_s)
    return library().unhook() > 0


ROUNDS = {"measure": measure_round, "debug": debug_round, "saved": saved_round, "hooked": hooked_round}


def rounds(kind, count, longest_pause_s):
    """So many rounds of what changes the tables, with work before, in and after them."""
    wrong = 0
    for _ in range(int(count)):
        wrong += not ROUNDS[kind](random.random() * float(longest_pause_s))
        make()
        forget()
        time.sleep(random.random() * float(longest_pause_s))
    return {"kind": kind, "rounds": int(count), "wrong": wrong}


COMMANDS = {
    "make": make, "forget": forget, "measure": measure, "measured": measured, "unmeasure": unmeasure,
    "setup_debug_hooks": setup_debug_hooks, "blocks": lambda: {"blocks": sys.getallocatedblocks()}, "rounds": rounds,
}
for name in ("save", "put_back", "hook", "unhook"):
    COMMANDS[name] = called(name)
gc.disable()
protocol.serve(COMMANDS)
