# cython: language_level=3
"""Code that Cython compiles: it runs without frames, and calls back and allocates all the same."""


def through(call):
    return call()


def made():
    return bytearray(1000)


def generated(call):
    for _ in range(2):
        yield call()


async def awaited(call):
    return call()


cdef class Object:
    cdef object call

    def __init__(self, call):
        self.call = call

    def method(self):
        return (lambda: self.call())()

    def __lt__(self, other):
        self.call()
        return False
