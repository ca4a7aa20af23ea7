"""What a host runs in the CPython within it (`host.c`): a thread that leaks on one line and does work on others, which it
checks."""
import json
import os
import sys
import threading

KEPT = []
ENDED = threading.Event()
wrong = 0


def leak(number):
    KEPT.append(b"%d" % number * 200)  # LEAK


def work():
    global wrong
    number = 0
    while not ENDED.wait(0.001):
        number += 1
        leak(number)
        document = {"number": number, "squares": [n * n for n in range(100)], "text": "x" * number}
        wrong += json.loads(json.dumps(document)) != document


def say(answer):
    sys.stdout.write(answer + "\n")
    sys.stdout.flush()


def answer(line):
    say(json.dumps({"asked": line, "wrong": wrong, "kept": len(KEPT)}))


def end():
    ENDED.set()
    thread.join()
    assert not wrong, wrong


thread = threading.Thread(target=work)
thread.start()
if not os.environ.get("HOSTED"):
    os.environ["HOSTED"] = "again"
    say("ready %d" % os.getpid())
