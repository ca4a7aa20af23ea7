"""A service that has almost nothing to do and leaks a little: it wakes up fifty times a second."""
import time

import meter

KEPT = []


def housekeeping(number):
    state = {"number": number, "names": ["name %d" % part for part in range(10)]}
    KEPT.append(("entry %d" % number) * 10)  # LEAK
    return len(state["names"])


def main():
    counter = meter.Meter()
    meter.ready()
    start = time.monotonic()
    number = 0
    while True:
        housekeeping(number)
        counter.add()
        number += 1
        # Wakes up at fixed times: what a round costs does not make it rarer.
        time.sleep(max(0.0, start + number * 0.02 - time.monotonic()))


main()
