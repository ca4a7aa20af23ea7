"""How a workload of the benchmark says what it has done: it counts finished units of work in a file that it shares with
whoever measures, and prints one line of JSON when it is up. It then works until it is ended, or its time is over.

A slot of the file holds four words: units, when the last one was finished, the processor time of the process then, and
the units once more. They are written in this order and read in the opposite one, so that a reader who finds the same
units at both ends has what belongs together. Each thread has a slot of its own. A unit is a millisecond of work or
more: the few small objects that counting makes are lost among those of the work itself."""
import json
import mmap
import os
import signal
import struct
import time

SLOT = struct.Struct("<QQQQ")
SIZE = 4096


def shared_file():
    path = os.environ.get("LEAKTRACE_BENCH_METER")
    if path is None:
        # Nobody measures: the workload is tried out by hand.
        return mmap.mmap(-1, SIZE)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), SIZE)


FILE = shared_file()


class Meter:
    """The slot of one thread."""

    def __init__(self, slot=0):
        self.offset = slot * SLOT.size
        self.units = 0

    def add(self, units=1):
        self.units += units
        SLOT.pack_into(FILE, self.offset, self.units, time.monotonic_ns(), time.process_time_ns(), self.units)


def ready(**more):
    """Says which process is to be traced. The process also ends itself when nobody else did: whoever started it may be
    gone. An alarm, since it needs neither a thread nor anything else that would run meanwhile."""
    signal.alarm(int(os.environ.get("LEAKTRACE_BENCH_SECONDS", "60")))
    os.write(1, (json.dumps({"pid": os.getpid(), **more}) + "\n").encode())
