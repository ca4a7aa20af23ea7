"""Makes and drops a known number of blocks on known lines: objects that no free list keeps, and blocks too large for
pymalloc. Says how many of each it made, and how many of them it still holds."""
import gc

import protocol

SMALL = 2000
LARGE = 500


class Slotted:
    __slots__ = ("value",)


def make_small():
    return Slotted()


def make_large():
    return bytes(1000)


def work():
    gc.disable()
    small, large = [None] * SMALL, [None] * LARGE
    for i in range(SMALL):
        small[i] = make_small()
    for i in range(LARGE):
        large[i] = make_large()
    for i in range(0, SMALL, 4):
        small[i] = None
    for i in range(0, LARGE, 5):
        large[i] = None
    work.kept = small, large
    return {
        "make_small": {"allocations": SMALL, "live_blocks": sum(x is not None for x in small),
                       "block_bytes": Slotted.__basicsize__ + 16},
        "make_large": {"allocations": LARGE, "live_blocks": sum(x is not None for x in large),
                       "block_bytes": bytes.__basicsize__ + 1000},
    }


protocol.run(work)
