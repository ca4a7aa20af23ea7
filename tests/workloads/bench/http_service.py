"""An asyncio service: starlette under uvicorn, on a loopback port that the system picks. Each request costs it about a
millisecond; what it answers depends on the request, and nothing is kept."""
import socket

import meter
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

COUNTER = meter.Meter()


async def items(request):
    first = int(request.query_params.get("first", "0"))
    found = [{"id": first + number, "name": "item %d" % number, "price": number * 1.25} for number in range(400)]
    found.sort(key=lambda item: -item["price"])
    COUNTER.add()
    return JSONResponse({"first": first, "items": found[:200]})


APPLICATION = Starlette(routes=[Route("/items", items)])


def main():
    # The protocol is named, since asyncio sends small packets at once only on sockets that know theirs: without it, an
    # answer's body waits 40 ms for the client to acknowledge its head.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    # It listens before it says so: an early request waits in the queue and is not refused.
    listener.listen(128)
    config = uvicorn.Config(APPLICATION, log_level="critical", access_log=False, lifespan="off")
    meter.ready(port=listener.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listener])


main()
