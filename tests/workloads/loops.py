"""Makes blocks in greenlets, gevent's tasks or uvloop's, switching between them at all depths, and says what Python says
of each block's stack."""
import asyncio
import socket
import sys
import threading

import account
import protocol

KIND, LOTS = sys.argv[1], int(sys.argv[2])
# Of the deepest, leaktrace keeps the innermost 128 frames.
DEPTHS = [0, 3, 40, 1, 150, 7, 2, 130]


def recursion(depth, then):
    if depth:
        return recursion(depth - 1, then)
    return then()


def recursion_by_c(depth, then):
    """The same with a frame of C between every two of Python. From 3.12 on leaktrace follows some 96 of those pairs."""
    return list(map(recursion_by_c, [min(depth, 80) - 1], [then])) if depth else then()


def greenlets(lots):
    """Each makes a block, switches away below a stack of its own depth, and makes another when it is back."""
    import greenlet

    def numbers(main):
        for number in range(3):
            account.sample()
            main.switch()
            yield number
            account.sample()

    def body(number, main):
        def leaf():
            for _ in range(3):
                account.sample()
                main.switch()
                account.sample()

        def in_generator():
            return [number for number in numbers(main)]

        def nested():
            inner = greenlet.greenlet(lambda: [account.sample(), main.switch(), account.sample()])
            inner.switch()
            account.sample()

        def interrupted():
            try:
                main.switch()
            except ValueError:
                account.sample()
                main.switch()
                account.sample()

        down = recursion_by_c if number % 3 == 0 else recursion
        down(DEPTHS[number % len(DEPTHS)], [leaf, in_generator, nested, interrupted][number // len(DEPTHS) % 4])

    def all_of_a_thread(count):
        main = greenlet.getcurrent()
        running = []
        for number in range(count):
            running.append(greenlet.greenlet(body))
            running[-1].interrupt = number % 5 == 0
            running[-1].switch(number, main)
        while running:
            # From both ends, so that the stacks of C are not put back in the order in which they were saved.
            for task in running[::2] + running[1::2][::-1]:
                if task.dead:
                    continue
                if task.interrupt:
                    task.interrupt = False
                    try:
                        task.throw(ValueError)
                    except ValueError:
                        account.sample()
                else:
                    task.switch()
            running = [task for task in running if not task.dead]

    threads = [threading.Thread(target=all_of_a_thread, args=(lots,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    all_of_a_thread(lots)
    for thread in threads:
        thread.join()


def gevents(lots):
    """Tasks of a hub that sleep, wait for each other, and work in a pool of threads."""
    import gevent
    import gevent.pool
    import gevent.queue

    queue = gevent.queue.Queue(2)

    def producer(number):
        def leaf():
            account.sample()
            queue.put(number)
            account.sample()
        recursion(DEPTHS[number % len(DEPTHS)], leaf)

    def consumer(number):
        def leaf():
            queue.get()
            account.sample()
            gevent.sleep(0)
            account.sample()
        recursion_by_c(DEPTHS[number * 3 % len(DEPTHS)], leaf)

    def in_thread(number):
        recursion(DEPTHS[number % len(DEPTHS)], account.sample)

    tasks = [gevent.spawn(task, number) for number in range(lots) for task in (producer, consumer)]
    pool = gevent.pool.Pool(4)
    for number in range(lots):
        pool.spawn(lambda number=number: gevent.get_hub().threadpool.apply(in_thread, (number,)))
        gevent.spawn_later(0.001, account.sample)
    for task in tasks:
        task.link(lambda _task: account.sample())
    gevent.joinall(tasks, raise_error=True)
    pool.join(raise_error=True)
    gevent.sleep(0.05)


def uvloops(lots):
    """Coroutines, callbacks, async generators, a protocol on a socket, and an executor."""
    import uvloop

    async def descent(depth, then):
        if depth:
            return await descent(depth - 1, then)
        return await then()

    async def leaf():
        account.sample()
        await asyncio.sleep(0)
        account.sample()

    async def numbers():
        for number in range(2):
            await asyncio.sleep(0)
            account.sample()
            yield number

    async def consumed():
        async for _ in numbers():
            account.sample()
        async with asyncio.Lock():
            account.sample()

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            account.sample()

        def data_received(self, data):
            recursion(len(data) % 50, account.sample)
            self.transport.write(data)

    async def main():
        loop = asyncio.get_running_loop()
        assert type(loop).__module__ == "uvloop", loop
        tasks = []
        for number in range(lots):
            depth = DEPTHS[number % len(DEPTHS)]
            tasks.append(loop.create_task(descent(depth, [leaf, consumed][number % 2])))
            loop.call_soon(recursion, depth, account.sample)
            loop.call_later(0.001, account.sample)
            tasks.append(loop.run_in_executor(None, recursion, depth, account.sample))
        ours, theirs = socket.socketpair()
        await loop.connect_accepted_socket(Echo, theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        for number in range(lots):
            writer.write(b"x" * (1 + number))
            assert len(await reader.readexactly(1 + number)) == 1 + number
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.05)
        writer.close()

    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


RUN = {"greenlet": greenlets, "gevent": gevents, "uvloop": uvloops}[KIND]


def work():
    RUN(LOTS)
    return {"stacks": account.stacks()}


# Once beforehand: what is imported meanwhile is no part of what is traced.
RUN(2)
account.forget()
protocol.run(work)
