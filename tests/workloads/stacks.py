"""Makes blocks at stacks of all shapes, some deeper than leaktrace keeps, and says what Python says of each."""
import itertools
import sys
import threading

import account
import protocol

COUNT = int(sys.argv[1])


def recursion(depth, then):
    if depth:
        return recursion(depth - 1, then)
    return then()


def generated(then):
    def numbers():
        for number in range(2):
            yield then() if number else number
    return list(numbers())


def delegated(then):
    def inner():
        yield (
            then()
        )

    def outer():
        yield from inner()
    return [*outer()]


def comprehended(then):
    return [
        then()
        for _ in range(1)
    ]


def comprehended_twice(then):
    return {
        key: {value: then() for value in [1]}
        for key in (then for _ in "a")
    }


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


def executed(then):
    exec("def f(g):\n\n    return g()\nf(then)\n", {"then": then})


def compiled(then):
    code = compile("\n\n[f() for f in [then]]", "<compiled>", "exec")
    exec(code, {"then": then})


def lambdas(then):
    return (lambda: (
        lambda: then())
    ())()


class Awaitable:
    def __init__(self, then):
        self.then = then

    def __await__(self):
        yield self.then()


async def awaiting(then):
    first = await Awaitable(then)
    return first


async def awaiting_twice(then):
    return [
        await awaiting(then)
    ]


def coroutine(then):
    awaiting_twice(then).send(None)


async def async_numbers(then):
    for number in range(2):
        yield await awaiting(then) if number else number


def async_generator(then):
    async def listed():
        return [number async for number in async_numbers(then)]

    async def looped():
        async for number in async_numbers(int):
            return number or await listed()
    looped().send(None)


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

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.then()


def by_property(then):
    return Object(then).attribute


def by_sort(then):
    sorted([Object(then), Object(then)], key=None)


def by_context(then):
    with Object(then):
        pass


def in_handler(then):
    try:
        raise ValueError
    except ValueError:
        then()


def in_thread(then):
    thread = threading.Thread(target=then)
    thread.start()
    thread.join()


SHAPES = [
    generated, delegated, comprehended, comprehended_twice, decorated, class_body, executed, compiled, lambdas,
    coroutine, async_generator, by_property, by_sort, by_context, in_handler, in_thread,
]
PAIRS = list(itertools.product(SHAPES, SHAPES))
# Of the deepest, leaktrace keeps the innermost 128 frames.
DEPTHS = [0, 3, 7, 1, 40, 2, 5, 150]


def work():
    for number in range(COUNT):
        outer, inner = PAIRS[number % len(PAIRS)]
        depth = DEPTHS[number // len(PAIRS) % len(DEPTHS)] if number >= 16 else 150
        outer(lambda: inner(lambda: recursion(depth, account.sample)))
    return {"stacks": account.stacks()}


protocol.run(work)
