"""Does one thing for three seconds, and then another for three: the first asks for memory without a pause, the second
hardly ever. Each keeps one of a hundred blocks, at a line of its own."""
import itertools
import threading
import time

import protocol

PHASE_S = 3
of_the_first = []
of_the_second = []


class First:
    __slots__ = ("a",)


class Second:
    __slots__ = ("a", "b", "c")


def first():
    for _ in range(33):
        x = [object(), object()]
    of_the_first.append(First())  # FIRST


def second():
    # Numbers would be objects of their own.
    for _ in itertools.repeat(None, 10_000):
        pass
    for _ in range(33):
        x = [object(), object()]
    of_the_second.append(Second())  # SECOND


def work():
    while True:
        for phase in (first, second):
            end = time.monotonic() + PHASE_S
            while time.monotonic() < end:
                phase()


def count():
    return {"first": len(of_the_first), "second": len(of_the_second), "at_s": time.monotonic()}


threading.Thread(target=work, daemon=True).start()
protocol.serve({"count": count})
