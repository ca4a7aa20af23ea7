"""Makes and drops known numbers of blocks in four threads at once, and hands blocks from one thread to another that
drops them: what only goes right if each block's end is seen, whichever thread it meets."""
import queue
import threading

import protocol

THREADS = 4
COUNT = 1000
KEPT = [[None] * COUNT for _ in range(THREADS)]


def hold(keep):
    for i in range(COUNT):
        keep[i] = object()


def churn():
    for i in range(COUNT):
        bytes(1 + i % 400)


def resize():
    for _ in range(COUNT // 50):
        values = []
        for _ in range(50):
            values.append(None)


def send(mail):
    for _ in range(COUNT):
        mail.put(bytearray(100))


def drop(mail):
    for _ in range(COUNT):
        mail.get()


def work_in_thread(number, mails):
    sender = threading.Thread(target=send, args=(mails[number],))
    sender.start()
    hold(KEPT[number])
    churn()
    resize()
    # What its neighbour sends.
    drop(mails[(number + 1) % THREADS])
    sender.join()


def work():
    mails = [queue.SimpleQueue() for _ in range(THREADS)]
    threads = [threading.Thread(target=work_in_thread, args=(number, mails)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"kept": THREADS * COUNT}


protocol.run(work)
