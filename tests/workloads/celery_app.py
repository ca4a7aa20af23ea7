"""A Celery application whose task keeps something of every call on one line. Run as a program, it sends as many tasks as
it is told to, a hundred in a second: more than that a worker that is traced on a busy host may not keep up with, and then
its pool holds more and more itself."""
import os
import sys
import time
import uuid

from celery import Celery
from kombu.transport import filesystem
from kombu.utils.json import dumps

KEPT = []
FOLDER = os.environ["LEAKTRACE_QUEUE"]


def put_whole(self, queue, payload, **kwargs):
    """A message in the queue under its name only when it is all there: kombu's own way lets the worker take a file that is
    still empty, of which it dies."""
    name = f"{time.monotonic_ns():020}_{uuid.uuid4()}"
    unfinished = os.path.join(self.data_folder_out, f"{name}.unfinished")
    with open(unfinished, "w") as file:
        file.write(dumps(payload))
    os.rename(unfinished, os.path.join(self.data_folder_out, f"{name}.{queue}.msg"))


filesystem.Channel._put = put_whole

app = Celery("celery_app", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": FOLDER, "data_folder_out": FOLDER, "control_folder": FOLDER, "polling_interval": 0.02,
}
app.conf.worker_prefetch_multiplier = 1


@app.task(ignore_result=True)
def keep(number):
    KEPT.append(bytes(300 + number % 100))  # LEAK
    return number


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        keep.delay(number)
        time.sleep(0.01)
