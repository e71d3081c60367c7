"""An S3 server on loopback, and a road to it that can break."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """A moto server; gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class Road:
    """Passes connections on to a server, but an upload that ``breaks`` names gets no further than half of its bytes.

    Args:
        address: of the server, ``http://host:port``.
        breaks: bytes of a request's first line, such as ``b"PUT /bucket/out/a.nii.gz"``.
        holds: an upload that breaks is not cut off but waits for ever.
        times: so many uploads break, then all pass.
    """

    def __init__(self, address: str, breaks: bytes, holds: bool = False, times: int = 1 << 30) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self.server, self.breaks, self.holds, self.left = (host, int(port)), breaks, holds, times
        self.broken = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self.server) as server:
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                if self.breaks in data and self.left > 0:
                    self.left -= 1
                    server.sendall(data[: data.index(b"\r\n\r\n") + 4 + 10])
                    self.broken.set()
                    if self.holds:
                        threading.Event().wait()
                    return
                server.sendall(data)

    def _pass(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listening.close()
