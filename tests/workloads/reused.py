"""Makes code, runs it and drops it in a loop, so that new code objects come to lie where others just were. Each makes a
block that is kept, and says what Python says of the stack, in text: it must not keep the code alive."""
import collections
import marshal
import sys
import time
import traceback

import protocol

COUNT = int(sys.argv[1])
# Every so many stay for so many seconds, while others come and go beside them. (No multiple of the shapes.)
EVERY = 16
STAY = 0.6

KEPT = []
STACKS = collections.Counter()

# All of a shape have names and sources of one length, and lie at the same addresses again and again.
SHAPES = [
    "{lines}def f{number:06}(g):\n    return g()\nmade = f{number:06}\n",
    "{lines}made = lambda g: (\n    g())\n",
    "class C{number:06}:\n  def a(self, g):{lines}\n    return self.b(g)\n  def b(self, g):\n    return g()\n"
    "made = C{number:06}().a\n",
    "def made(g):{lines}\n    def f{number:06}():\n        return [g() for _ in [1]]\n    return f{number:06}()\n",
    "def f{number:06}(g):\n{lines}\n    yield g()\nmade = lambda g: list(f{number:06}(g))\n",
]


def block():
    return bytearray(1000)


def sample():
    KEPT.append(block())
    frames = [(function(frame.f_code), frame.f_code.co_filename, number)
              for frame, number in traceback.walk_stack(sys._getframe())]
    frames[0] = ("sample", __file__, sample.__code__.co_firstlineno + 1)
    STACKS[(("block", __file__, block.__code__.co_firstlineno + 1), *frames)] += 1


def function(code):
    return getattr(code, "co_qualname", code.co_name)


def compiled(number, kind):
    """A module in a file of its own, that makes a function which calls the one that it is given."""
    source = SHAPES[number % len(SHAPES)].format(number=number, lines="\n" * (number % 7))
    return compile(source, "made/%s/%06d.py" % (kind, number), "exec")


# Three of four are compiled beforehand, and come and go faster.
STORED = [marshal.dumps(compiled(number, "gone")) if number % 4 else None for number in range(COUNT)]


def make(number, kind):
    stored = STORED[number] if kind == "gone" else None
    names = {}
    exec(marshal.loads(stored) if stored else compiled(number, kind), names)
    return names["made"]


def gone(number):
    make(number, "gone")(sample)


def born(made):
    made(sample)


def grown(made):
    made(sample)


def dying(made):
    made(sample)


def age(growing, staying):
    """Calls those that have been there for half of the time, and those whose time is over, which then go."""
    while growing and growing[0][0] < time.time():
        made = growing.popleft()[1]
        grown(made)
        staying.append((time.time() + STAY / 2, made))
    while staying and staying[0][0] < time.time():
        dying(staying.popleft()[1])


def work():
    growing, staying = collections.deque(), collections.deque()
    for number in range(COUNT):
        if number % EVERY:
            gone(number)
        else:
            made = make(number, "stays")
            born(made)
            growing.append((time.time() + STAY / 2, made))
        age(growing, staying)
    del made
    while growing or staying:
        time.sleep(0.01)
        age(growing, staying)
    # Until the names of the last ones that are gone were looked for.
    time.sleep(0.1)
    return {"stacks": [[frames, count] for frames, count in STACKS.items()]}


protocol.run(work)
