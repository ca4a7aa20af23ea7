"""How a workload and its test talk: the workload says `ready` and waits for `go`, works, prints one line of JSON,
and waits once more, so that the test can end the tracing before the interpreter tears itself down."""
import json
import os
import sys


def run(work):
    sys.stdout.write("ready %d\n" % os.getpid())
    sys.stdout.flush()
    sys.stdin.readline()
    result = work()
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()
    # No teardown: its frees are not what is measured.
    os._exit(0)
