"""Keeps objects of one kind at each of some lines, and does other things meanwhile; says which lines keep what."""
import collections
import sys
import threading
import time

import protocol

HOT = sys.argv[1] == "hot"
kept = []


class Session:
    def __init__(self, n):
        self.n = n


class Point:
    __slots__ = ("x", "y")


class Text(str):
    pass


def keep(n):
    kept.append(Session(n))  # INSTANCES __main__.Session
    kept.append(Point())  # SLOTS __main__.Point
    kept.append({"n": n, "m": n})  # DICTS dict
    kept.append([n, n, n])  # LISTS list
    kept.append((n, n, kept))  # TUPLES tuple
    kept.append(b"%d bytes that are kept" % n)  # BYTES bytes
    kept.append("%d characters that are kept" % n)  # STR str
    kept.append(Text(n))  # SUBCLASS __main__.Text
    kept.append(collections.OrderedDict())  # ORDERED collections.OrderedDict
    kept.append(bytearray(100))  # BUFFERS (no object)
    kept.append(bytes(2000))  # LARGE bytes
    kept.append(set(range(100)))  # SETS (no object)


def churn():
    while True:
        for _ in range(100):
            # None of them leaves its memory on a list of free objects that the lines above take theirs from.
            x = (object(), object(), b"%d" % 5, "%s" % object(), bytearray(40))
        if not HOT:
            time.sleep(0.01)


def leak():
    n = 0
    while True:
        keep(n)
        n += 1
        time.sleep(0.002)


def go():
    return {"kept": len(kept)}


for work in (churn, leak):
    threading.Thread(target=work, daemon=True).start()
protocol.serve({"go": go})
