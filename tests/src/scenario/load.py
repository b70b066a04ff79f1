# Load on a store and its addresses until /run/load-stop appears; then one line: what was asked, what was answered, what failed.
# load.py requests ADDRESS NKEY SEED  one authenticated connection, a request to JetStream every 20 ms
# load.py connects ADDRESS            a new connection every 50 ms that must greet
# load.py health                      HTTP to the namespace's loopback every 50 ms (not /healthz: it says 503 when it had no CPU for a millisecond)
import base64, json, os, socket, subprocess, sys, time

STOP = "/run/load-stop"


def connect(address, port):
    conn = socket.create_connection((address, port), timeout=10)
    return conn, conn.makefile("rb")


def sign(seed, nonce):
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))[2:34]
    der = bytes.fromhex("302e020100300506032b657004220420") + raw
    with open("/run/load-key", "wb") as f:
        f.write(der)
    with open("/run/load-nonce", "wb") as f:
        f.write(nonce.encode())
    command = "openssl pkeyutl -sign -rawin -keyform DER -inkey /run/load-key -in /run/load-nonce"
    return base64.urlsafe_b64encode(subprocess.check_output(command.split())).decode().rstrip("=")


def requests(address, nkey, seed):
    conn, lines = connect(address, 4222)
    info = json.loads(lines.readline()[5:])
    hello = {"verbose": False, "pedantic": False, "nkey": nkey, "sig": sign(seed, info["nonce"]), "name": "load"}
    conn.sendall(b"CONNECT %s\r\nSUB _INBOX.n1.load 1\r\nPING\r\n" % json.dumps(hello).encode())
    while lines.readline() != b"PONG\r\n":
        pass
    def ask():
        conn.sendall(b"PUB $JS.API.STREAM.INFO.KV_machines _INBOX.n1.load 0\r\n\r\n")
        while True:
            line = lines.readline()
            if line.startswith(b"MSG "):
                lines.read(int(line.split()[-1]) + 2)
                return
            if line == b"PING\r\n":
                conn.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise OSError("the connection ended: %r" % line)
    return ask, 0.02


def connects(address):
    def ask():
        conn, lines = connect(address, 4222)
        with conn:
            if not lines.readline().startswith(b"INFO "):
                raise OSError("no greeting")
    return ask, 0.05


def health():
    def ask():
        conn, lines = connect("127.0.0.1", 8222)
        with conn:
            conn.sendall(b"GET /leafz HTTP/1.0\r\n\r\n")
            if b" 200 " not in lines.readline():
                raise OSError("no answer")
    return ask, 0.05


ask, pause = {"requests": requests, "connects": connects, "health": health}[sys.argv[1]](*sys.argv[2:])
print("begun", flush=True)
count, worst, failed = 0, 0.0, []
while not os.path.exists(STOP) and len(failed) < 20:
    start = time.monotonic()
    count += 1
    try:
        ask()
    except OSError as error:
        failed.append(str(error))
    worst = max(worst, time.monotonic() - start)
    time.sleep(pause)
print(json.dumps({"asked": count, "failed": failed, "worst_ms": int(worst * 1000)}), flush=True)
