"""A mixed workload that ends up holding memory on many lines, the same in every run: json, dicts, classes, strings,
threads, lists that are resized, blocks over 512 bytes. With `tracemalloc` as an argument it reports what Python's own
tracer says of each line."""
import gc
import json
import sys
import threading

import protocol

HELD = {}
ROUNDS = 400
# Once 40 arenas were there, pymalloc's own table of them, which tracemalloc does not see, grows no more.
assert len([bytes(400) for _ in range(40 * 600)])


class Node:
    def __init__(self, name, payload):
        self.name = name
        self.payload = payload
        self.children = []  # recycled: list objects


def parse_documents(rounds):
    text = json.dumps({"id": 1, "tags": ["red", "green"], "nested": {"a": [1.5, 2.5, 3.5], "b": None}})
    documents = HELD.setdefault("documents", [])
    for _ in range(rounds):
        documents.append(json.loads(text))


def build_index(rounds):
    index = HELD.setdefault("index", {})
    for i in range(rounds * 4):  # recycled since 3.14: ints
        index["user-%06d" % i] = {"n": i + 100000, "score": i * 0.5}  # recycled since 3.14: ints


def build_tree(rounds):
    root = HELD["tree"] = Node("root", None)
    for i in range(rounds):
        child = Node("child %d" % i, bytes(i % 300))
        child.children.extend([None] * (i % 40))  # recycled: list objects
        root.children.append(child)


def grow_lists(rounds):
    lists = HELD["lists"] = [[] for _ in range(20)]
    for i in range(rounds * 10):  # recycled since 3.14: ints
        lists[i % 20].append(i + 1000000)  # recycled since 3.14: ints


def shrink_lists(rounds):
    for values in HELD["lists"][:10]:
        while len(values) > 20:
            values.pop()


def large_blocks(rounds):
    blocks = HELD["blocks"] = []
    for i in range(rounds // 4):
        blocks.append(bytearray(700 + i * 13))
    for block in blocks[::3]:
        block.extend(b"x" * 5000)
    for block in blocks[1::3]:
        del block[100:]


def strings(rounds):
    HELD["strings"] = ["-".join(["part"] * (1 + i % 90)) for i in range(rounds)]
    HELD["upper"] = [text.upper() for text in HELD["strings"][::2]]


def churn(rounds):
    for i in range(rounds):
        scratch = {"k%d" % n: [n] * 5 for n in range(12)}
        json.dumps(scratch)
        sorted(scratch.items(), key=lambda item: item[0])


def in_thread(number, rounds, results):
    own = results[number] = []
    for i in range(rounds):  # recycled since 3.14: ints
        own.append({"thread": number, "text": "%d/%d" % (number, i), "data": [i] * 9})  # recycled since 3.14: ints
        own[-1]["data"].append(i * 2.5)


def threads(rounds):
    results = HELD["threads"] = {}
    # One after the other: which thread frees into whose pool would differ from run to run.
    for number in range(3):
        thread = threading.Thread(target=in_thread, args=(number, rounds, results))
        thread.start()
        thread.join()


def generators(rounds):
    def numbers(limit):
        for n in range(limit):  # recycled since 3.14: ints
            yield {"n": n * 1000003}  # recycled since 3.14: ints

    HELD["generated"] = list(numbers(rounds * 3))
    HELD["open"] = [numbers(i) for i in range(rounds)]


def work():
    gc.disable()
    measured = "tracemalloc" in sys.argv
    if measured:
        import tracemalloc
        tracemalloc.start(1)
    for step in (parse_documents, build_index, build_tree, grow_lists, shrink_lists, large_blocks, strings, churn,
                 threads, generators):
        step(ROUNDS)
    if not measured:
        return {}
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    lines = {}
    for statistic in snapshot.statistics("lineno"):
        frame = statistic.traceback[0]
        lines["%s:%d" % (frame.filename, frame.lineno)] = [statistic.size, statistic.count]
    return lines


protocol.run(work)
