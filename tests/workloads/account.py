"""What Python itself says of the stacks at which a workload made blocks: the counterpart of what leaktrace reports.

Every block is one of pymalloc's too large ones, so that the report has it in the domain `raw`, and is kept."""
import sys
import traceback

KEPT = []
# (line, code, line, code, ..) innermost first: by number, and how often. They keep the code objects alive.
STACKS = {}


def sample(*_ignored):
    block = bytearray(1000)
    KEPT.append(block)
    note(sys._getframe(), sample.__code__.co_firstlineno + 1)


def note(frame, line):
    """Notes a block that was made in `frame`, on a line before the one that it is on now."""
    frames = [line, frame.f_code]
    frame = frame.f_back
    while frame is not None:
        frames.append(frame.f_lineno)
        frames.append(frame.f_code)
        frame = frame.f_back
    key = tuple([id(part) if number % 2 else part for number, part in enumerate(frames)])
    known = STACKS.setdefault(key, [frames, 0])
    if not known[1]:
        check(frames)
    known[1] += 1


def forget():
    KEPT.clear()
    STACKS.clear()


def check(frames):
    """Each stack is as `traceback` has it, once."""
    caller = sys._getframe().f_back.f_back.f_back
    # A greenlet's outermost function has none, and `walk_stack(None)` would walk this stack.
    stack = [(frame.f_code, line) for frame, line in traceback.walk_stack(caller)] if caller else []
    assert stack == list(zip(frames[3::2], frames[2::2])), (stack, frames)


def text(name):
    # What is no Unicode becomes `\udce9`, as in Python's own tracebacks.
    return name.encode("utf-8", "backslashreplace").decode()


def function(code):
    return text(getattr(code, "co_qualname", code.co_name))


def stacks():
    """All stacks as [[[function, file, line], ..], blocks]."""
    return [
        [[(function(code), text(code.co_filename), line) for line, code in zip(frames[::2], frames[1::2])], count]
        for frames, count in STACKS.values()
    ]
