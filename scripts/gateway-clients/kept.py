#!/usr/bin/env python3
"""kept.py DIRECTORY: what a gateway has on disk of the store there: snapshot (routes) and certificates.json (an imported one)."""
import hashlib, json, sys

directory = sys.argv[1]
NETWORK = "0123456789abcdef" * 2
DEPLOY = "0123456789abcdef"


def service(name, host, port):
    slot = {"kind": "instance", "address": "10.101.0.3", "revision": "r", "deploy": DEPLOY, "slot": 0, "ready": True}
    return [[f"service.shop.{name}", {"kind": "service", "deploy": DEPLOY, "revision": "r", "instances": [f"{name}-0"],
                                      "ports": [{"name": "http", "port": port, "protocol": "tcp"}],
                                      "http": [{"host": host, "path": "/", "port": port}]}],
            [f"instance.m0.shop.{name}.{name}-0", slot]]


def read(name):
    with open(f"{directory}/{name}") as file:
        return file.read()


def write(name, magic, value):
    body = json.dumps({"network": NETWORK, **value}).encode()
    with open(f"{directory}/{name}", "wb") as file:
        file.write(f"{magic} 1 {hashlib.sha256(body).hexdigest()}\n".encode() + body)


machine = ["machine.m0", {"kind": "machine", "overlay_ip": "fda1:2826:9433::16", "subnet": "10.101.0.0/24"}]
events = [machine, *service("web", "a.test", 9000), *service("cart", "grpc.test", 9001),
          # Nobody listens at its port.
          *service("away", "away.grpc.test", 9002)]
write("snapshot", "ployz-routing", {"sequence": 1, "live": 1, "events": events})
imported = {"chain": read("cert.pem"), "key": read("key.pem"), "machine": "m0", "imported_at": 0}
write("certificates.json", "ployz-certificates", {"held": {"a.test": [1, imported]}})
