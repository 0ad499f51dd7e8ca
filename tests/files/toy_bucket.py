"""A stand-in of Cloud Storage's JSON interface, for gcsfs and TensorStore alike.

It is an object store and nothing more: an object appears whole or not at all, there
are no folders, nothing can be appended to, linked, locked or renamed.
"""

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse
import zlib
from typing import NamedTuple


class Object(NamedTuple):
    """What is under a name; the generation is another one after each write."""

    content: bytes
    generation: int


class Store:
    """All buckets: {bucket: {name: Object}}. refused: buckets that nobody may use.

    log: ("PUT", "bucket/name") of all that was written or deleted.
    """

    def __init__(self):
        self.buckets: dict[str, dict[str, Object]] = {}
        self.refused: set[str] = set()
        self.log: list[tuple[str, str]] = []
        self.uploads: dict[str, tuple[str, str, bytearray]] = {}
        self.lock = threading.Lock()
        self.generations = itertools.count(1)

    def put(self, bucket: str, name: str, content: bytes) -> Object:
        """Writes an object."""
        with self.lock:
            found = Object(bytes(content), next(self.generations))
            self.buckets[bucket][name] = found
            self.log.append(("PUT", f"{bucket}/{name}"))
        return found

    def delete(self, bucket: str, name: str) -> None:
        """Removes an object that is there."""
        with self.lock:
            del self.buckets[bucket][name]
            self.log.append(("DELETE", f"{bucket}/{name}"))

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """All names that begin so."""
        with self.lock:
            return sorted(n for n in self.buckets[bucket] if n.startswith(prefix))


def described(bucket: str, name: str, found: Object) -> dict[str, object]:
    """What the store says of an object."""
    digest = base64.b64encode(hashlib.md5(found.content).digest()).decode()
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(found.content)),
        "generation": str(found.generation),
        "metageneration": "1",
        "md5Hash": digest,
        "etag": f"{zlib.crc32(found.content)}",
        "updated": "2026-01-01T00:00:00Z",
        "timeCreated": "2026-01-01T00:00:00Z",
        "contentType": "application/octet-stream",
    }


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer is one packet
    store: Store

    def log_message(self, *_):
        """Says nothing."""

    def answer(self, status, content=b"", headers=None):
        """Ends the request."""
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status, message):
        """Ends it with an error in the store's form."""
        self.answer(status, {"error": {"code": status, "message": message}})

    def handle_any(self):
        """Any method."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = re.fullmatch(r"(.*?)/b/([^/]+)(/o)?(?:/(.+))?", url.path)
        if not found:
            return self.refuse(404, f"no such address {self.path}")
        what, bucket, _, name = found.groups()
        name = urllib.parse.unquote(name) if name else ""
        if bucket in self.store.refused:
            who = "Anonymous caller does not have storage.objects.list access"
            return self.refuse(401, who)
        if bucket not in self.store.buckets:
            return self.refuse(404, "The specified bucket does not exist.")
        if "upload" in what:
            return self.upload(bucket, query, body)
        if name == "storageLayout" or not found[3]:
            return self.answer(200, {"name": bucket, "locationType": "region"})
        if not name:
            return self.list(bucket, query)
        return self.one(bucket, name, query)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def list(self, bucket, query):
        """Objects, and what stands before a delimiter as folders, in pages of 7."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        entries: dict[str, str] = {}
        for name in self.store.names(bucket, prefix):
            if name < start or (end and name >= end):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                entries[prefix + rest.split(delimiter)[0] + delimiter] = ""
            else:
                entries[name] = name
        first, most = query.get("pageToken", ""), int(query.get("maxResults", 7))
        rest = [entry for entry in sorted(entries) if entry > first]
        page, more = rest[: min(most, 7)], rest[min(most, 7) :]
        objects = self.store.buckets[bucket]
        names = [entries[entry] for entry in page if entries[entry]]
        answer = {
            "kind": "storage#objects",
            "items": [described(bucket, n, objects[n]) for n in names if n in objects],
            "prefixes": [entry for entry in page if not entries[entry]],
        }
        self.answer(200, answer | ({"nextPageToken": page[-1]} if more else {}))

    def one(self, bucket, name, query):
        """Reading, describing, deleting and copying."""
        if copied := re.fullmatch(r"(.+)/(?:rewriteTo|copyTo)/b/(.+?)/o/(.+)", name):
            source, target, new = copied.groups()
            content = self.store.buckets[bucket][source].content
            made = described(target, new, self.store.put(target, new, content))
            return self.answer(200, {"done": True, "resource": made} | made)
        found = self.store.buckets[bucket].get(name)
        if found is None:
            return self.refuse(404, f"No such object: {bucket}/{name}")
        if self.command == "DELETE":
            self.store.delete(bucket, name)
            return self.answer(204)
        if query.get("ifGenerationNotMatch") == str(found.generation):
            return self.answer(304)
        if query.get("alt") != "media":
            return self.answer(200, described(bucket, name, found))
        content, size = found.content, len(found.content)
        headers = {"x-goog-generation": str(found.generation)}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first = int(asked[1])
            last = min(int(asked[2] or size), size - 1)
            if first >= size:
                return self.refuse(416, "The requested range cannot be satisfied.")
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            return self.answer(206, content[first : last + 1], headers)
        return self.answer(200, content, headers)

    def upload(self, bucket, query, body):
        """An object in one piece, in two parts, or piece by piece."""
        name, kind = query.get("name", ""), query.get("uploadType")
        if key := query.get("upload_id"):
            bucket, name, content = self.store.uploads[key]
            content += body
            last = re.match(
                r"bytes (?:\d+-\d+|\*)/(\d+|\*)", self.headers["Content-Range"]
            )
            if last[1] == "*" or int(last[1]) > len(content):
                headers = {"Range": f"bytes=0-{len(content) - 1}"}
                return self.answer(308, b"", headers)
            return self.wrote(bucket, name, bytes(content), query)
        if kind == "resumable":
            key = str(next(self.store.generations))
            name = name or json.loads(body)["name"]
            self.store.uploads[key] = bucket, name, bytearray()
            host = f"http://{self.headers['Host']}"
            where = f"{host}/upload/storage/v1/b/{bucket}/o?upload_id={key}&name=x"
            return self.answer(200, b"", {"Location": where})
        if kind == "multipart":
            boundary = re.search('boundary="?([^"]+)"?', self.headers["Content-Type"])[
                1
            ]
            facts, content = body.split(f"--{boundary}".encode())[1:3]
            name = json.loads(facts.replace(b"\r", b"").split(b"\n\n", 1)[1])["name"]
            return self.wrote(bucket, name, content.split(b"\n\n", 1)[1][:-1], query)
        return self.wrote(bucket, name, body, query)

    def wrote(self, bucket, name, content, query):
        """Stores an object, if it is of the generation that was meant."""
        there = self.store.buckets[bucket].get(name)
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            return self.refuse(412, "At least one of the conditions did not hold.")
        made = self.store.put(bucket, name, content)
        return self.answer(200, described(bucket, name, made))


class Server(http.server.ThreadingHTTPServer):
    """Asks nobody to wait for it."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """Says nothing of clients that have left, as they do."""


@contextlib.contextmanager
def serving():
    """(its address, its `Store`), for as long as it is entered."""
    store = Store()
    handler = type("Bound", (Handler,), {"store": store})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", store
    finally:
        server.shutdown()
        server.server_close()
