"""A WSGI application that keeps something of every request on one line, and gives the rest back."""
import json
import os
import time

KEPT = []


def application(environ, start_response):
    document = {"path": environ["PATH_INFO"], "numbers": [number * 1.5 for number in range(200)]}
    body = json.dumps(document).encode()
    keep(body)
    # So that the next request is another worker's.
    time.sleep(0.003)
    answer = b"%d\n" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def keep(body):
    KEPT.append(bytes(body[:400]))  # LEAK
