"""A stand-in for Google Cloud Storage, of that part of its XML API by which the `object_store` library works.

It is no emulator of Google's: it says what its documentation says of objects, generations, ranges, listings and multipart uploads, and
keeps everything in memory. What it shows is that the requests that Siltstone makes of `gs://` are those that the documentation asks for.
"""

import hashlib
import threading
import urllib.parse
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

PAGE = 3


class Bucket:
    """Objects by key, and uploads that are not complete."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.generation = 0

    def put(self, key: str, data: bytes, generation: str | None) -> bool:
        """Puts an object, if the one that is there is of this generation; 0 stands for none."""
        with self.lock:
            there = self.objects.get(key, (b"", 0))[1]
            if generation is not None and int(generation) != there:
                return False
            self.generation += 1
            self.objects[key] = (data, self.generation)
            return True


def etag(data: bytes) -> str:
    """The tag of some bytes."""
    return f'"{hashlib.md5(data).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket
    name: str

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answers."""
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def asked(self) -> tuple[str | None, dict[str, str], bytes]:
        """Key, query and body; no key for the bucket itself. Answers for a bucket that is not there with None."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if bucket != self.name:
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return None, {"": ""}, body
        return key, query, body

    def do_PUT(self) -> None:
        """Puts an object, or a part of one."""
        key, query, body = self.asked()
        if not key:
            return
        if "uploadId" in query:
            with self.bucket.lock:
                self.bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self.answer(200, ETag=etag(body))
        elif self.bucket.put(key, body, self.headers.get("x-goog-if-generation-match")):
            self.answer(200, ETag=etag(body), x_goog_generation=str(self.bucket.objects[key][1]))
        else:
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    def do_POST(self) -> None:
        """Begins or completes a multipart upload."""
        key, query, body = self.asked()
        if not key:
            return
        with self.bucket.lock:
            if "uploads" in query:
                upload = f"upload-{len(self.bucket.uploads)}"
                self.bucket.uploads[upload] = {}
                text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                self.answer(200, text.encode())
                return
            parts = self.bucket.uploads.pop(query["uploadId"])
        if any(len(part) < 5 << 20 for number, part in parts.items() if number != max(parts)):
            self.answer(400, b"<Error><Code>EntityTooSmall</Code></Error>")
            return
        data = b"".join(parts[number] for number in sorted(parts))
        if any(etag(part) not in body.decode() for part in parts.values()):
            self.answer(400, b"<Error><Code>InvalidPart</Code></Error>")
            return
        self.bucket.put(key, data, None)
        text = f"<CompleteMultipartUploadResult><ETag>{escape(etag(data))}</ETag></CompleteMultipartUploadResult>"
        self.answer(200, text.encode(), x_goog_generation=str(self.bucket.objects[key][1]))

    def do_DELETE(self) -> None:
        """Removes an object, or lets go of an upload."""
        key, query, _ = self.asked()
        if not key:
            return
        with self.bucket.lock:
            there = self.bucket.uploads.pop(query["uploadId"], None) if "uploadId" in query else self.bucket.objects.pop(key, None)
        self.answer(404 if there is None else 204)

    def do_HEAD(self) -> None:
        """Describes an object."""
        self.do_GET()

    def do_GET(self) -> None:
        """Gives an object, a range of it, or a page of a listing."""
        key, query, _ = self.asked()
        if key is None:
            return
        if not key:
            self.list(query)
            return
        data, generation = self.bucket.objects.get(key, (None, 0))
        if data is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        told = {"ETag": etag(data), "Last_Modified": formatdate(usegmt=True), "x_goog_generation": str(generation)}
        asked = self.headers.get("Range")
        if asked is None:
            self.answer(200, data, **told)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else len(data) - int(last)
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            self.answer(416, b"<Error><Code>InvalidRange</Code></Error>", Content_Range=f"bytes */{len(data)}")
            return
        self.answer(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", **told)

    def list(self, query: dict[str, str]) -> None:
        """A page of a listing."""
        with self.bucket.lock:
            keys = sorted(key for key in self.bucket.objects if key.startswith(query.get("prefix", "")))
            sizes = {key: (len(self.bucket.objects[key][0]), etag(self.bucket.objects[key][0])) for key in keys}
        behind = max(query.get("start-after", ""), query.get("continuation-token", ""))
        keys = [key for key in keys if key > behind]
        page, more = keys[:PAGE], len(keys) > PAGE
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2099-01-01T00:00:00.000Z</LastModified><Size>{sizes[key][0]}</Size>"
            f"<ETag>{escape(sizes[key][1])}</ETag></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self.answer(200, f"<ListBucketResult>{items}{token}</ListBucketResult>".encode())


class Google:
    """The stand-in with one bucket, on a free port, until the block ends."""

    def __init__(self, bucket: str) -> None:
        handler = type("Handler", (Handler,), {"bucket": Bucket(), "name": bucket})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
