"""Makes a known number of objects of eleven kinds, keeps one lot and drops another, and says what the interpreter's
own count of blocks says of it."""
import gc
import sys

import protocol

COUNT = 3000


class Plain:
    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("value",)


def make_object(keep):
    for i in range(COUNT):
        keep[i] = object()


def make_slotted(keep):
    for i in range(COUNT):
        keep[i] = Slotted()


def make_instance(keep):
    for i in range(COUNT):
        keep[i] = Plain(None)


def make_list(keep):
    for i in range(COUNT):
        keep[i] = [None, None]


def make_dict(keep):
    for i in range(COUNT):
        keep[i] = {"key": None}


def make_str(keep):
    for i in range(COUNT):
        keep[i] = "number %d" % i


def make_bytes(keep):
    for i in range(COUNT):
        keep[i] = b"number %d" % i


def make_float(keep):
    for i in range(COUNT):
        keep[i] = i * 1.5


def make_int(keep):
    for i in range(COUNT):
        keep[i] = i + 1000000


def make_tuple(keep):
    for i in range(COUNT):
        keep[i] = (None, keep)


def make_closure(keep):
    for i in range(COUNT):
        keep[i] = lambda: keep


KINDS = [
    make_object, make_slotted, make_instance, make_list, make_dict, make_str, make_bytes, make_float, make_int,
    make_tuple, make_closure,
]


def dropped(make):
    """Makes a lot and drops it within the same call."""
    keep = [None] * COUNT
    before = sys.getallocatedblocks()
    make(keep)
    made = sys.getallocatedblocks() - before
    # In place: no allocation of its own, and every object dies here.
    for i in range(COUNT):
        keep[i] = None
    return made, sys.getallocatedblocks() - before


def work():
    gc.disable()
    kept = [[None] * COUNT for _ in KINDS]
    blocks = {}
    for make, keep in zip(KINDS, kept):
        before = sys.getallocatedblocks()
        make(keep)
        after = sys.getallocatedblocks()
        blocks[make.__name__] = after - before
    churn = {make.__name__: dropped(make) for make in KINDS}
    work.kept = kept
    return {"count": COUNT, "kept": blocks, "dropped": churn}


protocol.run(work)
