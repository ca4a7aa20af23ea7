"""A Flask application under gunicorn with one worker, which is the process to trace: all requests are served by it, so
nothing of the cost is diluted among others."""
import socket

import flask
import meter
from gunicorn.app.base import BaseApplication

COUNTER = meter.Meter()
APPLICATION = flask.Flask(__name__)
PAGE = APPLICATION.jinja_env.from_string(
    "<ul>{% for item in items %}<li>{{ item.name|upper }}: {{ item.price }}</li>{% endfor %}</ul>"
)


@APPLICATION.get("/items")
def items():
    first = int(flask.request.args.get("first", "0"))
    found = [{"name": "item %d" % (first + number), "price": number * 1.25} for number in range(150)]
    page = PAGE.render(items=found)
    COUNTER.add()
    return page


class Service(BaseApplication):
    def __init__(self, settings):
        self.settings = settings
        super().__init__()

    def load_config(self):
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self):
        return APPLICATION


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    port = listener.getsockname()[1]
    Service({
        "bind": "fd://%d" % listener.fileno(),
        "workers": 1,
        "loglevel": "critical",
        "graceful_timeout": 1,
        # Runs in the worker. It shares the counting file, which was mapped before it was forked.
        "post_worker_init": lambda worker: meter.ready(port=port),
    }).run()


main()
