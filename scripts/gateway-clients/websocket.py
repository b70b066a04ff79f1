#!/usr/bin/env python3
"""Says hello over a WebSocket and prints what comes back."""
import os, socket, sys
with socket.create_connection(("127.0.0.1", 8080), 5) as s:
    s.sendall(b"GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
              b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    stream = s.makefile("rb")
    status = stream.readline().split()[1]
    fields = {}
    while line := stream.readline().strip():
        name, value = line.split(b":", 1); fields[name.lower()] = value.strip()
    assert status == b"101" and fields[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", (status, fields)
    mask = os.urandom(4)
    for message in (b"hello", b"again"):
        s.sendall(bytes([0x81, 0x80 | len(message)]) + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(message)))
        head = stream.read(2)
        print(stream.read(head[1]).decode())
    s.sendall(bytes([0x88, 0x80]) + mask)
