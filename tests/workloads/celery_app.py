"""A Celery application whose task keeps something of every call on one line. Run as a program, it sends as many tasks as
it is told to, a hundred in a second: more than that a worker that is traced on a busy host may not keep up with, and then
its pool holds more and more itself."""
import os
import sys
import time

from celery import Celery

KEPT = []
FOLDER = os.environ["LEAKTRACE_QUEUE"]

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
