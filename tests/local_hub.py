"""A server on this machine that answers as the Hugging Face hub does, and fails on demand."""

import contextlib
import hashlib
import http.server
import re
import socket
import threading

import numpy as np
import safetensors.numpy

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/tiny.test"
CONTENT = safetensors.numpy.save({"fc.weight": np.ones((3, 4), "float32")})
LATER = "89abcdef0123456789abcdef0123456789abcdef"


class Hub:
    """The files of a hub, and how it fails.

    Attributes:
        files: {repository: content of its model.safetensors}.
        failure: None, or one of
            "down": status 500; "missing": status 404; "page": a page of a proxy instead of any answer;
            "cut": the connection closes in the middle of the file; "damaged": a bit of the file is wrong;
            "other": a later commit with a different file, with its own right digest.
        requests: The methods and paths that were asked for.
    """

    def __init__(self, files):
        self.files, self.failure, self.requests = dict(files), None, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self, head=True)

            def do_GET(self):
                hub.answer(self, head=False)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}"  # another host, as a CDN is

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def content(self, repository):
        content = self.files[repository]
        return content + b"other" if self.failure == "other" else content

    def answer(self, request, head):
        self.requests.append(f"{request.command} {request.path}")
        if self.failure == "page":
            return send(request, 200, {"Content-Type": "text/html"}, b"<html>Please log in.</html>", head)
        if self.failure == "down":
            return send(request, 500, {}, b"", head)
        resolved = re.fullmatch(r"/(\w+/[\w.]+)/resolve/(\w+)/model\.safetensors", request.path)
        if resolved and resolved[1] in self.files and resolved[2] in ("main", COMMIT) and self.failure != "missing":
            content = self.content(resolved[1])
            headers = {
                "X-Repo-Commit": LATER if self.failure == "other" else COMMIT,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.storage}/cdn/{resolved[1]}",
            }
            return send(request, 302, headers, b"", head)
        stored = re.fullmatch(r"/cdn/(\w+/[\w.]+)", request.path)
        if not stored or stored[1] not in self.files:
            return send(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"", head)
        content = self.content(stored[1])
        if self.failure == "damaged":
            content = content[:-1] + bytes([content[-1] ^ 1])
        first = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "bytes=0-"))
        part = content[int(first[1]) :]
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if len(part) < len(content):
            headers["Content-Range"] = f"bytes {first[1]}-{len(content) - 1}/{len(content)}"
        status = 206 if len(part) < len(content) else 200
        return send(request, status, headers, part, head, sent=len(part) // 2 if self.failure == "cut" else None)


def send(request, status, headers, body, head, sent=None):
    """Answer a request; with `sent`, close the connection after that many bytes of the body."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if not head:
        request.wfile.write(body[:sent])
    if sent is not None:
        request.wfile.flush()
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)
