"""Makes blocks of sizes that nobody else makes, each at a stack of its own shape, and says what `traceback` says of
each: innermost frame first, as [function, file, line]."""
import sys
import threading
import traceback

import protocol

COUNT = int(sys.argv[1])
STACKS = {}
KEPT = []
# Sizes of blocks of bytes: each is one stack's alone, and lies above what pymalloc hands out.
FIRST = 70001


def function(frame):
    return getattr(frame.f_code, "co_qualname", frame.f_code.co_name)


def sample():
    number = len(STACKS)
    STACKS[number] = None
    block = bytearray(FIRST + 16 * number)
    frames = [(function(f), f.f_code.co_filename, line) for f, line in traceback.walk_stack(sys._getframe())]
    KEPT.append(block)
    # In this frame `traceback` names the line of its own call, which is not the block's.
    frames[0] = frames[0][:2] + (sample.__code__.co_firstlineno + 3,)
    STACKS[number] = frames


def recursion(depth, then):
    if depth:
        return recursion(depth - 1, then)
    return then()


def generated(then):
    def numbers():
        for number in range(2):
            yield then() if number else number
    return list(numbers())


def comprehended(then):
    return [
        then()
        for _ in range(1)
    ]


def decorate(then):
    def decorated(call):
        def called():
            return call(
                then
            )
        return called
    return decorated


def decorated(then):
    @decorate(then)
    def inner(call):
        return (lambda: call())()
    return inner()


def class_body(then):
    class Body:
        made = then()

        class Inner:
            made = then() if False else None
    return Body


# Code that is compiled anew each time may be gone again before anybody outside has read its names.
EXECUTED = compile("def f(g):\n\n    return g()\nf(then)\n", "<executed>", "exec")


def executed(then):
    exec(EXECUTED, {"then": then})


class Object:
    def __init__(self, then):
        self.then = then

    def method(self):
        return self.then()

    @property
    def attribute(self):
        return self.method()

    def __lt__(self, other):
        self.then()
        return False


def by_property(then):
    return Object(then).attribute


def by_sort(then):
    sorted([Object(then), Object(then)], key=None)


def in_thread(then):
    thread = threading.Thread(target=then)
    thread.start()
    thread.join()


SHAPES = [generated, comprehended, decorated, class_body, executed, by_property, by_sort, in_thread]


def work():
    number = 0
    while len(STACKS) < COUNT:
        outer, inner = SHAPES[number % 8], SHAPES[number // 8 % 8]
        depth = number // 64 % 40
        outer(lambda: inner(lambda: recursion(depth, sample)))
        number += 1
    return {"first": FIRST, "stacks": [STACKS[i] for i in range(len(STACKS))]}


protocol.run(work)
