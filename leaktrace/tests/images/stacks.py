"""Stands still below a stack of the shape that its argument names, and says what Python itself knows of that stack:
the version, the thread, and line, function and file of each frame, innermost first."""
import _frozen_importlib
import _thread
import json
import sys
import time
from _functools import reduce


def text(name):
    # What is no Unicode becomes `\udce9`, as in Python's own tracebacks.
    return name.encode("utf-8", "backslashreplace").decode()


def account(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        frames.append("%d %s %s" % (frame.f_lineno, text(name), text(code.co_filename)))
        frame = frame.f_back
    version = "%d.%d.%d" % sys.version_info[:3]
    said = {"minor": sys.version_info[1], "python": version, "thread": _thread.get_ident(), "frames": frames}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def stop(*_ignored):
    # One line, so that the frame stands on it both when it is described and when it is read from outside.
    return account(sys._getframe()), sys.stdin.read()


def plain(depth=4):
    return plain(depth - 1) if depth else stop()


def deep():
    return plain(128)


def deep_through_c(depth=97):
    return sorted([depth - 1], key=deep_through_c) if depth else stop()


def extension():
    return sorted(
        [2, 1],
        key=lambda number: reduce(lambda left, right: stop(), map(lambda item: item, [number, 2])),
    )


def generator():
    def inner():
        yield stop()

    def outer():
        yield from inner()

    return list(outer())


class Awaitable:
    def __await__(self):
        yield stop()


async def innermost():
    await Awaitable()


async def middle():
    return await innermost()


async def outermost():
    first = await middle()
    return first


def coroutine():
    outermost().send(None)


async def numbers():
    for number in range(2):
        yield number if not number else await middle()


async def consume():
    async for _number in numbers():
        pass


def async_generator():
    consume().send(None)


def async_comprehension():
    async def listed():
        return [
            number
            async for number in numbers()
        ]
    listed().send(None)


def class_body():
    class Outer:
        class Inner:
            made = stop()
    return Outer


def comprehension():
    return [
        {
            key: next(stop() for _ in range(1))
            for key in "a"
        }
        for _ in range(1)
    ]


def executed():
    exec("\n\ndef inner(call):\n    return call()\n\nresult = inner(call)", {"call": stop})


def lambdas():
    return (lambda then: (
        lambda: then()
    )())(stop)


def logged(call):
    def wrapper(*arguments):
        return call(
            *arguments
        )
    return wrapper


@logged
@logged
def decorated():
    return stop()


def in_thread():
    _thread.start_new_thread(plain, (3,))
    time.sleep(1000)


class Slotted:
    @property
    def value(self):
        return stop()


def descriptor():
    return Slotted().value


class Context:
    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        stop()


def context():
    with Context():
        pass


def handler():
    try:
        raise ValueError
    except ValueError:
        return stop()
    finally:
        handler.__name__ = "handled"


class Finalized:
    def __del__(self):
        stop()


def finalizer():
    thing = Finalized()
    del thing


class Finder:
    """Finds every module, so that importing one runs Python's own frozen code."""

    def find_spec(self, name, _path, _target=None):
        return _frozen_importlib.ModuleSpec(name, self)

    def create_module(self, _spec):
        return None

    def exec_module(self, _module):
        stop()


def frozen():
    sys.meta_path.insert(0, Finder())
    import found_by_nobody_else  # noqa: F401


def names():
    source = "def größe(f): return f()\ndef 名前(f): return größe(f)\ndef 𠀀𠀁(f): return 名前(f)\n𠀀𠀁(stop)\n"
    exec(compile(source, "caf\udce9/名/plain.py", "exec"), {"stop": stop})


globals()[sys.argv[2]]()
