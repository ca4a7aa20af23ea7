"""Makes and drops objects in three threads at once, as fast as the interpreter lets them."""
import threading

import meter

THREADS = 3
BATCH = 3000


class Point:
    __slots__ = ("x", "label", "path")

    def __init__(self, x):
        self.x = x * 1.5
        self.label = "point %d" % x
        self.path = [x, (x, x + 1)]


def churn(slot):
    counter = meter.Meter(slot)
    recent = [None] * 200
    while True:
        for number in range(BATCH):
            # Some live a little longer: what is dropped is not always what was made last.
            recent[number * 7 % 200] = Point(number)
        counter.add()


def main():
    threads = [threading.Thread(target=churn, args=(slot,), daemon=True) for slot in range(THREADS)]
    for thread in threads:
        thread.start()
    meter.ready()
    for thread in threads:
        thread.join()


main()
