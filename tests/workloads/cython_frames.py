"""Makes blocks in code that Cython compiled and below it, and says what Python says of each stack. The folder of the
compiled module is the argument."""
import sys

import account
import protocol

sys.path.insert(0, sys.argv[1])
import compiled  # noqa: E402


def plain(then):
    return compiled.through(then)


def nested(then):
    return compiled.through(lambda: compiled.through(
        lambda: then()
    ))


def generator(then):
    return list(compiled.generated(then))


def coroutine(then):
    async def outer():
        return await compiled.awaited(then)
    try:
        outer().send(None)
    except StopIteration:
        pass


def method(then):
    return compiled.Object(then).method()


def comparison(then):
    return sorted([compiled.Object(then), compiled.Object(then)])


def itself(_then):
    """The block is Cython's own: it is the caller's line that made it."""
    line, block = sys._getframe().f_lineno, compiled.made()
    account.KEPT.append(block)
    account.note(sys._getframe(), line)


SHAPES = [plain, nested, generator, coroutine, method, comparison, itself]


def work():
    for outer in SHAPES:
        for inner in SHAPES:
            outer(lambda: inner(account.sample))
    return {"stacks": account.stacks()}


protocol.run(work)
