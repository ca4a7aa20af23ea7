"""Makes objects of many types, frees or changes some on command, and says where they are."""
import ctypes
import datetime
import decimal
import functools
import gc
import re
import sys
import threading
import weakref
from collections import OrderedDict, deque, namedtuple

Pair = namedtuple("Pair", "one two")


class Meta(type):
    pass


class Plain:
    pass


class Weak:
    __slots__ = ("__weakref__",)


class Slots:
    __slots__ = ("one", "two")


class Made(metaclass=Meta):
    def method(self):
        pass


class MyDict(dict):
    pass


class MyInt(int):
    pass


class Filler(bytes):
    pass


class First:
    pass


class Second:
    pass


def numbers():
    yield from range(3)


def plain(n):
    thing = Plain()
    thing.n = n
    return thing


MAKERS = [
    lambda n: 10**20 + n,
    lambda n: 10**70 + n,
    lambda n: MyInt(10**20 + n),
    lambda n: n + 0.125,
    lambda n: complex(n, 2),
    lambda n: "text %d" % n,
    lambda n: "\u20ac %d" % n,
    lambda n: "long %d" % n * 300,
    lambda n: b"bytes %d" % n,
    lambda n: b"long %d" % n * 300,
    lambda n: (n, 10**20 + n, None),
    lambda n: Pair(n, 10**20 + n),
    lambda n: [n],
    lambda n: {n: n},
    lambda n: {n},
    lambda n: frozenset([n, n + 0.5]),
    lambda n: bytearray(b"%d" % n),
    plain,
    lambda n: Weak(),
    lambda n: Slots(),
    lambda n: Made(),
    lambda n: Made().method,
    lambda n: MyDict(n=n),
    lambda n: First(),
    lambda n: lambda: n,
    lambda n: numbers(),
    lambda n: range(n),
    lambda n: slice(n, n),
    lambda n: OrderedDict(n=n),
    lambda n: deque([n], 3),
    lambda n: datetime.timedelta(n, 1, 1),
    lambda n: decimal.Decimal(10**20 + n),
    lambda n: ValueError(n),
    lambda n: functools.partial(print, n),
    lambda n: property(plain),
    lambda n: re.compile("a{%d}" % (n + 1)),
]
OFFSET_OF_NAME = 24
COPIES = 12
things = []


def make():
    del things[:]
    for n in range(COPIES):
        things.extend(maker(n) for maker in MAKERS)
    # What was built for each on the way has its place behind them all by now.
    gc.collect()
    return where()


def where():
    words = []
    for thing in things:
        words.append(id(thing) if thing is not None else 0)
    return words


def names():
    at = [id(type(thing)) + OFFSET_OF_NAME for thing in things]
    return [ctypes.c_char_p.from_address(address).value.decode().replace(" ", "_") for address in at]


def sizes():
    return [sys.getsizeof(thing) for thing in things]


cached = []


def cache():
    """Makes texts of the C library's heap, of a size that its caches take."""
    cached.extend("cached %02d" % n * 90 for n in range(12))
    return [id(text) for text in cached]


def uncache():
    """Frees half of them, as many as a cache has room for."""
    del cached[1::2]
    return [id(text) for text in cached]


def free():
    """Frees every third object; a collection empties the lists of freed objects that types keep."""
    re.purge()
    for index in range(0, len(things), 3):
        things[index] = None
    gc.collect()
    gc.collect()
    return where()


fillers = []


def fill():
    """Puts blocks of one other type wherever there is room."""
    for size in range(0, 470, 8):
        fillers.extend(Filler(size) for _ in range(400))
    return [len(fillers)]


def change():
    """Changes what can be changed in the objects that are left."""
    for n, thing in enumerate(things):
        if isinstance(thing, (str, bytes, tuple, frozenset)):
            hash(thing)
        if type(thing) is str:
            sys.intern(thing)
        elif isinstance(thing, (dict, OrderedDict)):
            thing.update((k, k) for k in range(50))
        elif type(thing) is list:
            thing.extend(range(50))
        elif type(thing) is set:
            thing.update(range(50))
        elif type(thing) is Plain:
            thing.__dict__["more"] = n
            weakref.ref(thing)
        elif type(thing) is bytearray:
            thing.extend(bytes(600))
        elif type(thing) is First:
            thing.__class__ = Second
    gc.collect()
    return where()


def reused():
    """Places of objects that the interpreter uses again for another value, as far as it does."""
    def grow(total, text, step):
        yield id(total), id(text)
        while True:
            for _ in range(400):
                total = total * step + step
                text += "x"
                if len(text) > 60:
                    text = text[:20]
            yield id(total), id(text)

    pairs = zip(iter(lambda: object(), None), iter(lambda: object(), None))
    growing = grow(1.0, "a" * 30, 1.25)
    while True:
        yield list(next(growing)) + [id(next(pairs))]


reuse = reused()


def busy():
    """Makes and frees objects of all these sizes in a thread for as long as it takes."""
    def run():
        while True:
            kept = [maker(n) for n in range(30) for maker in MAKERS[:-1]]
            del kept[::2]

    threading.Thread(target=run, daemon=True).start()
    return [0]


COMMANDS = [make, names, sizes, cache, uncache, free, fill, change, busy]
COMMANDS = {command.__name__: command for command in COMMANDS}
COMMANDS["reuse"] = lambda: next(reuse)
print("ready", flush=True)
for question in sys.stdin:
    print(*COMMANDS[question.strip()](), flush=True)
