"""A small order service that leaks: what `leaktrace demo` traces.

It handles requests at a steady pace. Four things in it hold or churn through memory, one of them for ever:

- the audit trail, which nobody ever empties: the leak;
- a cache of prices, which warms up and is then bounded;
- a buffer of metrics, which is flushed every other second;
- parsing, validation and answers: objects that live for one request.
"""
import collections
import json
import os
import random
import sys
import threading
import time

PRODUCTS = 400
PRICES_CACHED = 300
METRICS_FLUSHED_AT = 400


class PriceCache:
    """Bounded: the least recently used price goes when there are too many."""

    def __init__(self, limit):
        self.limit = limit
        self.prices = collections.OrderedDict()

    def get(self, product):
        price = self.prices.get(product)
        if price is None:
            price = self.prices[product] = {"product": product, "history": [product * 1.01] * 24}
            if len(self.prices) > self.limit:
                self.prices.popitem(last=False)
        self.prices.move_to_end(product)
        return price


class Metrics:
    """Flushed whenever enough has come together."""

    def __init__(self):
        self.samples = []

    def record(self, name, value):
        self.samples.append((name, value, time.monotonic()))
        if len(self.samples) >= METRICS_FLUSHED_AT:
            self.samples.clear()


class Service:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.cache = PriceCache(PRICES_CACHED)
        self.metrics = Metrics()
        self.audit_trail = []

    def request_body(self):
        basket = [self.random.randrange(PRODUCTS) for _ in range(self.random.randrange(2, 9))]
        return json.dumps({"user": self.random.randrange(50_000), "basket": basket})

    def handle(self, body):
        started = time.monotonic()
        request = json.loads(body)
        total = sum(self.cache.get(product)["history"][0] for product in request["basket"])
        answer = json.dumps({"user": request["user"], "total": round(total, 2)})
        self.remember(answer)
        self.metrics.record("handle", time.monotonic() - started)
        return answer

    def remember(self, answer):
        self.audit_trail.append(f"{time.time():.6f} {answer}")  # LEAK

    def run(self):
        while True:
            for _ in range(4):
                self.handle(self.request_body())
            time.sleep(0.01)


def end_with_the_demo():
    """stdin ends when whoever started this does, however that happens."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_demo, daemon=True).start()
    service = Service(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print("ready", flush=True)
    service.run()
