"""Allocates objects as fast as it can, and so many blocks of 4,000 bytes a second beside, of which it keeps every tenth."""
import sys
import threading
import time

import protocol

RATE = float(sys.argv[1])
kept = []


def make():
    return bytes(4000)


def keep():
    kept.append(bytes(4000))  # LEAK


def work():
    made = 0
    start = time.monotonic()
    while True:
        for _ in range(200):
            # Four blocks, which are gone in the next round.
            x = [object(), (object(), object())]
        while made < (time.monotonic() - start) * RATE:
            made += 1
            if made % 10:
                make()
            else:
                keep()


def count():
    return {"kept": len(kept), "at_s": time.monotonic()}


threading.Thread(target=work, daemon=True).start()
protocol.serve({"count": count})
