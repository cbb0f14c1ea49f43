"""What `kit.serving.unpacking` must put up with; imports nothing heavy, since every process of it imports this."""

import signal
import time

from kit.serving import unpacking


def greedy(connection, seconds):
    unpacking._bind_itself()
    connection.send_bytes(b"s" + bytes(4 << 30))


def endless(connection, seconds):
    time.sleep(100)


def writing(connection, seconds):
    unpacking._bind_itself()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open("written", "w") as file:
            file.write("x")
    except OSError:
        connection.send_bytes(b"fmay write nothing")
