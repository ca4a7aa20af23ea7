"""A family of processes that all leak on one line, each as fast as the others. Told to, it makes one more of each kind."""
import os
import subprocess
import sys
import threading
import time
import warnings

import protocol

warnings.simplefilter("ignore", DeprecationWarning)

KEPT = []
LIFETIME_S = 600
CHILDREN = []


def keep(number):
    KEPT.append(b"%050d" % number)  # LEAK


def leak():
    """Until the one that made it is gone, or for a time that no test takes."""
    parent, end = os.getppid(), time.monotonic() + LIFETIME_S
    number = 0
    while os.getppid() == parent and time.monotonic() < end:
        keep(number)
        number += 1
        time.sleep(0.002)
    os._exit(0)


def fork():
    child = os.fork()
    if child == 0:
        leak()
    CHILDREN.append(child)
    return {"pid": child}


def nested():
    """A child with a child of its own, which is told of on a pipe."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild != 0:
            os.write(tell, b"%d" % grandchild)
        leak()
    CHILDREN.append(child)
    return {"pid": child, "grandchild": int(os.read(told, 20))}


def spawn():
    """Another Python, by vfork and exec where this Python does so."""
    child = subprocess.Popen([sys.executable, __file__, "leak"], stdin=subprocess.DEVNULL)
    CHILDREN.append(child.pid)
    return {"pid": child.pid}


def become():
    """A child that becomes another Python after a while."""
    child = os.fork()
    if child == 0:
        time.sleep(float(sys.argv[1]))
        os.execv(sys.executable, [sys.executable, __file__, "leak"])
    CHILDREN.append(child)
    return {"pid": child}


def other():
    """A child that is no Python and stays, and one that is gone at once."""
    child = subprocess.Popen(["sleep", str(LIFETIME_S)], stdin=subprocess.DEVNULL)
    CHILDREN.append(child.pid)
    subprocess.run(["true"], check=True)
    return {"pid": child.pid}


def reap():
    """Ends the children, so that nobody is left."""
    for child in CHILDREN:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return {"reaped": len(CHILDREN)}


if __name__ == "__main__":
    if sys.argv[1:] == ["leak"]:
        leak()
    threading.Thread(target=lambda: [keep(number) or time.sleep(0.002) for number in range(75000)], daemon=True).start()
    protocol.serve({"fork": fork, "nested": nested, "spawn": spawn, "become": become, "other": other, "reap": reap})
