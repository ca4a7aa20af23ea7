"""Workers that allocate as fast as they can and keep one object in every fifty, and the process that forked them, which
does nothing but end one when it is told to."""
import os
import sys

import protocol

EVERY = 50
KEPT = []
WORKERS = []


class Kept:
    __slots__ = ("a",)


def keep():
    KEPT.append(Kept())  # LEAK


def work(parent):
    """Until the one that forked it is gone."""
    while os.getppid() == parent:
        for _ in range(EVERY):
            x = [object(), (object(), object())]
        keep()
    os._exit(0)


def end():
    worker = WORKERS.pop()
    os.kill(worker, 9)
    os.waitpid(worker, 0)
    return {"pid": worker}


if __name__ == "__main__":
    parent = os.getpid()
    for _ in range(int(sys.argv[1])):
        worker = os.fork()
        if worker == 0:
            work(parent)
        WORKERS.append(worker)
    protocol.serve({"end": end})
