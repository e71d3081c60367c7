"""Servers of object stores on loopback, Amazon's and Google's, and a road to them that can break."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

import pytest

from kits.io.stores.transfer import connect
from kits.io.stores.url import Url

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'kits-cascade[cohort]')")
BUCKET = "scans"
S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}
PART_BYTES = 50 << 20
"""From so many on both libraries send a file in parts of this size."""


@dataclass
class Store:
    """A store that all processes find by their environment.

    Args:
        url: of a bucket that is there.
        address: of its server.
        variable: which names the server to the store's library.
        system: its files, looked up anew each time.
        upload: what only a file's upload holds; ``{}`` is its place in the bucket.
        second_part: what only the second part of an upload in parts holds.
        stamp: of what a store tells of a file, that which changes whenever it is written.
        patch: undone after the test.
        impatient: makes the library try once, or wait no time between its tries.
    """

    url: str
    address: str
    variable: str
    system: Any
    upload: str
    second_part: bytes
    stamp: str
    patch: pytest.MonkeyPatch
    impatient: Callable[[pytest.MonkeyPatch], None]

    def put(self, path: object, place: str) -> None:
        """Copy a file of this machine to a place in the bucket."""
        self.system.put_file(path, f"{BUCKET}/{place}")

    def exists(self, place: str) -> bool:
        return bool(self.system.exists(f"{BUCKET}/{place}"))

    def read(self, place: str) -> bytes:
        return bytes(self.system.cat_file(f"{BUCKET}/{place}"))

    def stamps(self, folder: str) -> dict[str, str]:
        """When each file below a folder of the bucket was written, by its place in the folder."""
        root = f"{BUCKET}/{folder}"
        found = self.system.find(root, detail=True)
        return {name.removeprefix(f"{root}/"): str(info[self.stamp]) for name, info in found.items()}

    def go_by(self, way: Road | Store) -> None:
        """From now on the runs' connections take this road, or none; ``system`` takes none."""
        self.patch.setenv(self.variable, way.address)
        fsspec.get_filesystem_class(Url(self.url).protocol).clear_instance_cache()


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


@contextmanager
def s3_store(address: str, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """S3 with an empty bucket."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'kits-cascade[cohort]')")
    for name, value in (S3_KEYS | {"AWS_ENDPOINT_URL": address}).items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(use_listings_cache=False, endpoint_url=address)
    if system.exists(BUCKET):
        system.rm(BUCKET, recursive=True)
    system.mkdir(BUCKET)
    try:
        yield Store(
            f"s3://{BUCKET}", address, "AWS_ENDPOINT_URL", system, f"PUT /{BUCKET}/{{}} ", b"partNumber=2",
            "LastModified", patch, lambda patch: patch.setattr(s3fs.S3FileSystem, "retries", 1),
        )  # fmt: skip
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def _in_no_time(patch: pytest.MonkeyPatch) -> None:
    """Have Google's library wait no time between its tries, whose number is fixed."""
    from asyncio import sleep
    from types import SimpleNamespace

    patch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: sleep(0.01)))


@contextmanager
def google_store(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Google's store with an empty bucket."""
    if not find_spec("gcsfs"):  # which is not to be imported before ``connect`` says how
        pytest.skip("gcsfs is not installed (pip install gcsfs)")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    from gcp_storage_emulator.handlers.buckets import create_bucket
    from gcp_storage_emulator.storage import Storage

    one_at_a_time = threading.Lock()

    class Handler(emulator.RequestHandler):
        """As Google's servers, and unlike the emulator, takes no request that did not come whole."""

        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile = io.BytesIO(body := self.rfile.read(length))
            self.close_connection = True
            return len(body) == length

        def handle_one_request(self) -> None:
            with suppress(ConnectionError):
                super().handle_one_request()

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):

        def do(self: Handler, method: str = method) -> None:
            with one_at_a_time:
                emulator.Router(self).handle(method)

        setattr(Handler, f"do_{method}", do)

    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, storage)) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        google_by(address, patch)
        system = fsspec.filesystem("gs", use_listings_cache=False, endpoint_url=address)
        try:
            yield Store(
                f"gs://{BUCKET}", address, "STORAGE_EMULATOR_HOST", system, '"name": "{}"',
                f"bytes {PART_BYTES}-".encode(), "generation", patch, _in_no_time,
            )  # fmt: skip
        finally:
            server.shutdown()
            type(system).clear_instance_cache()


def google_by(address: str, patch: pytest.MonkeyPatch) -> None:
    """Have Google's library, here and in processes to come, ask this server without credentials."""
    patch.setenv("STORAGE_EMULATOR_HOST", address)
    patch.setenv("FSSPEC_GS_TOKEN", "anon")
    patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})  # fsspec read its variables long ago
    connect(Url(f"gs://{BUCKET}"))[0].clear_instance_cache()  # it sets what the library must know when imported


class Road:
    """Passes connections on to a server, but an upload that ``breaks`` names gets no further than its first bytes.

    Args:
        address: of the server, ``http://host:port``.
        breaks: bytes of a request that are found in that upload alone.
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
                    begun = max(data.index(self.breaks) + len(self.breaks), data.find(b"\r\n\r\n") + 4)
                    server.sendall(data[: begun + 10])
                    self.broken.set()
                    if self.holds:
                        threading.Event().wait()
                    for one in (server, client):  # closing alone would wait for the thread that reads from it
                        one.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)

    def _pass(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listening.close()
