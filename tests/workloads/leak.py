"""Leaks on one line, in a thread, from a function whose name and file are full of control characters."""
import threading
import time

import protocol

NAME = "evil\x1b[31m\x07\r\n\u202e.py"
SOURCE = """
def leak(held):
    while True:
        held.append(b"x" * 600 + b"%d" % len(held))
        sleep(0.002)
"""
scope = {"sleep": time.sleep}
exec(compile(SOURCE, NAME, "exec"), scope)
leak = scope["leak"]
renamed = {"co_name": "leak\x1b]0;owned\x07\x9b2J\n"}
if hasattr(leak.__code__, "co_qualname"):
    renamed["co_qualname"] = renamed["co_name"]
leak.__code__ = leak.__code__.replace(**renamed)
threading.Thread(target=leak, args=([],), daemon=True).start()
protocol.serve({})
