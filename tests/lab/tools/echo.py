"""A TCP echo, and somebody who talks to it.

echo.py serve PORT
echo.py talk ADDRESS PORT SECONDS: sends 1,000 bytes every 20 ms and waits for each echo; ends early, with code 1,
when one takes longer than 15 s; prints the number of echoes and the longest wait in seconds.
"""

import socket
import socketserver
import sys
import time


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


def serve(port):
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True
    socketserver.ThreadingTCPServer(("", port), Echo).serve_forever()


def talk(address, port, seconds):
    stream = socket.create_connection((address, port), timeout=15)
    echoes, longest, begun = 0, 0.0, time.monotonic()
    try:
        while time.monotonic() < begun + seconds:
            sent, rest = time.monotonic(), 1000
            stream.sendall(b"x" * rest)
            while rest:
                data = stream.recv(rest)
                if not data:
                    raise ConnectionError("closed")
                rest -= len(data)
            echoes, longest = echoes + 1, max(longest, time.monotonic() - sent)
            time.sleep(0.02)
    finally:
        print(echoes, f"{longest:.2f}")


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    talk(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
