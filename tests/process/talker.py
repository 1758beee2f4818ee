"""A node for tests of networks: repeats what it hears, and tells it on standard output; asks others when it is told to.

Usage: PROGRAM HOST:PORT, and then an address to ask on each line of standard input.
"""

from __future__ import annotations

import socket
import sys
import threading

SILENCE_S = 0.5


def tell(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def repeat(connection: socket.socket) -> None:
    while heard := connection.recv(65536):
        tell(f"heard {len(heard)}")
        connection.sendall(heard)


def listen(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=repeat, args=(connection,), daemon=True).start()


def ask(address: str) -> str:
    try:
        with socket.create_connection(pair(address), SILENCE_S) as connection:
            connection.sendall(b"anybody?")
            return "answer" if connection.recv(100) else "end"
    except TimeoutError:
        return "silence"


if __name__ == "__main__":
    server = socket.create_server(pair(sys.argv[1]))
    threading.Thread(target=listen, args=(server,), daemon=True).start()
    tell("ready")
    for line in sys.stdin:
        tell(f"got {ask(line.strip())}")
