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


def serve(commands):
    """The other way to talk: says `ready`, then does what the first word of each line names, with the others as its
    arguments, and answers with its JSON, until `quit`."""
    sys.stdout.write("ready %d\n" % os.getpid())
    sys.stdout.flush()
    # Not through sys.stdin: whoever forks while its lock is held has children that wait for it for ever.
    with open(os.dup(0), "rb", buffering=0) as commands_in:
        for line in commands_in:
            name, *arguments = line.decode().split()
            if name == "quit":
                os._exit(0)
            sys.stdout.write(json.dumps(commands[name](*arguments)) + "\n")
            sys.stdout.flush()
