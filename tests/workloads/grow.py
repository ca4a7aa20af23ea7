"""Holds blocks of many sizes; told to `grow`, drops half of them and makes many more, in the main thread."""
import protocol

OLDER = [bytes(i % 480) for i in range(60000)]
OLDER_LISTS = [[i, str(i)] for i in range(20000)]
HELD = []


def grow():
    del OLDER[::2]
    del OLDER_LISTS[:10000]
    for i in range(60000):
        HELD.append((bytes(i % 400), i * 1.5))
        if i % 3 == 0:
            HELD.append({"n": i})
        if i % 7 == 0:
            HELD.append([i] * (i % 50))
    # Blocks that are resized, on the spot and elsewhere.
    for i in range(3000):
        values = []
        for n in range(i % 70):
            values.append(n)
        HELD.append(values)
    return {"held": len(HELD)}


def shrink():
    del OLDER[:]
    del OLDER_LISTS[:]
    return {}


protocol.serve({"grow": grow, "shrink": shrink})
