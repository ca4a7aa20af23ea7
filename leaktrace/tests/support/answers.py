"""Answers each line of input with a line about this interpreter."""
import ctypes
import json
import sys
import threading


class Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "ctx malloc calloc realloc free".split()]


def allocators():
    get = ctypes.pythonapi.PyMem_GetAllocator
    get.argtypes, get.restype = [ctypes.c_int, ctypes.POINTER(Allocator)], None
    words = []
    for domain in range(3):
        table = Allocator()
        get(domain, table)
        words += [getattr(table, name) or 0 for name, _ in Allocator._fields_]
    return words


def this_thread():
    get = ctypes.pythonapi.PyThreadState_Get
    get.restype = ctypes.c_void_p
    return [threading.get_ident(), get()]


def threads(count=3):
    """Identity and state of this thread and of others, which go on running."""
    words, started = this_thread(), threading.Semaphore(0)

    def run():
        words.extend(this_thread())
        started.release()
        while True:
            work()

    for _ in range(count):
        threading.Thread(target=run, daemon=True).start()
        started.acquire()
    return words


def work():
    rows = [{"id": n, "text": "x" * (n % 600), "list": list(range(n % 9))} for n in range(300)]
    rows += [bytearray(b"y" * n).decode() for n in range(500, 9000, 500)]
    back = json.loads(json.dumps(rows))
    for n in range(300):
        back[n]["list"].extend(range(40))
    return sum(len(str(row)) for row in back)


print("ready", flush=True)
for question in sys.stdin:
    answer = {"allocators": allocators, "threads": threads}.get(question.strip())
    print(*(answer() if answer else [work()]), flush=True)
