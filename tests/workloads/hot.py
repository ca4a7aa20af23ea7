"""Allocates as fast as it can in a thread, and keeps one object in every so many; or does nothing but a little now and
then. Answers how many it has kept, and how much it has done, with the time. A second argument names a library whose
hooks it puts over its allocators first."""
import ctypes
import sys
import threading
import time

import protocol

EVERY = int(sys.argv[1])
kept = []
done = 0


class Kept:
    __slots__ = ("a",)


def keep():
    kept.append(Kept())  # LEAK


def hot():
    global done
    while True:
        for _ in range(EVERY):
            # Four blocks, which are gone in the next round.
            x = [object(), (object(), object())]
        keep()
        done += EVERY


def quiet():
    global done
    while True:
        x = [object() for _ in range(8)]
        done += 1
        time.sleep(0.01)


def count():
    return {"kept": len(kept), "done": done, "at_s": time.monotonic()}


if len(sys.argv) > 2:
    # A PyDLL keeps the GIL.
    ctypes.PyDLL(sys.argv[2]).hook()
threading.Thread(target=hot if EVERY else quiet, daemon=True).start()
protocol.serve({"count": count})
