#!/usr/bin/env python3
"""Says what it received; /bytes/N is N bytes and knows ranges; /chunks comes in pieces; /ws echoes one WebSocket message."""
import base64, hashlib, http.server, struct, sys
class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size); self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    def answer(self, code, body, **fields):
        self.send_response(code)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        # What a service says to browsers is its own business: this one says what is good for them.
        for name, value in (("Strict-Transport-Security", "max-age=31536000"), ("X-Frame-Options", "DENY"),
                            ("X-Content-Type-Options", "nosniff")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.websocket()
        if self.path.startswith("/bytes/"):
            size = int(self.path.split("/")[2])
            whole = bytes(n % 251 for n in range(size))
            if given := self.headers.get("Range"):
                first, last = map(int, given.removeprefix("bytes=").split("-"))
                return self.answer(206, whole[first:last + 1], Content_Range=f"bytes {first}-{last}/{size}", Accept_Ranges="bytes")
            return self.answer(200, whole, ETag='"v1"')
        if self.path == "/chunks":
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for piece in (b"one,", b"two,", b"three"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            return self.wfile.write(b"0\r\n\r\n")
        if self.path == "/unchanged":
            return self.answer(304, b"")
        body = self.body()
        fields = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        self.answer(200, f"{self.command} {self.path}\n{fields}\n{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode())
    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET
    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()); self.end_headers()
        while (head := self.rfile.read(2)) and head[0] & 15 != 8:
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([0x81, len(data)]) + data)
        self.close_connection = True
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
Server(("10.101.0.3", 9000), Backend).serve_forever()
