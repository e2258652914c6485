"""Sends datagrams or TCP bytes that mean nothing, and counts what comes back.

noise.py udp|quic|http ADDRESS PORT SEED    prints JSON: sent and received packets and bytes, and answers to HTTP
"""
import json
import random
import socket
import sys

kind, address, port, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
noise = random.Random(seed)
seen = {"sent": 0, "sent_bytes": 0, "received": 0, "received_bytes": 0, "answers": []}


def wireguard_like():
    """Random bytes, often of the length and with the type of a real message (whitepaper section 5.4)."""
    lengths = {1: 148, 2: 92, 3: 64, 4: noise.choice([32, 48, 1452])}
    message_type = noise.choice([0, 1, 2, 3, 4, 5, 255])
    length = lengths.get(message_type, 0) if noise.random() < 0.5 else noise.randrange(0, 1453)
    body = bytearray(noise.randbytes(length))
    if length >= 4:
        body[:4] = bytes([message_type, 0, 0, 0])
    return bytes(body)


def quic_like():
    """Random bytes, often with a long or a short header (RFC 9000 section 17)."""
    length = noise.choice([0, 1, 7, 20, 40, 1199, 1200, 1350])
    body = bytearray(noise.randbytes(length))
    if length >= 7 and noise.random() < 0.7:
        body[0] = noise.choice([0xC0, 0xD0, 0xF0, 0x40])
        body[1:5] = noise.choice([b"\0\0\0\1", b"\x1a\x2a\x3a\x4a", b"\0\0\0\0"])
    return bytes(body)


def datagrams(make, count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((address, port))
        s.settimeout(0)
        for number in range(count):
            body = make()
            try:
                s.send(body)
                seen["sent"] += 1
                seen["sent_bytes"] += len(body)
            except ConnectionRefusedError:
                pass
            if number % 50 == 49:
                hear(s, 0.01)
        hear(s, 1)


def hear(s, wait):
    s.settimeout(wait)
    try:
        while True:
            seen["received_bytes"] += len(s.recv(65536))
            seen["received"] += 1
    except (TimeoutError, BlockingIOError, ConnectionRefusedError):
        s.settimeout(0)


def http():
    for number in range(60):
        with socket.create_connection((address, port), timeout=5) as s:
            body = noise.randbytes(noise.choice([1, 100, 5000, 100000]))
            if number % 3 == 0:
                body = b"GET /" + body
            try:
                s.sendall(body + b"\r\n\r\n")
                s.shutdown(socket.SHUT_WR)
                answer = s.recv(4096)
            except OSError:
                answer = b""
            seen["answers"].append(answer[:15].decode("latin1"))


{"udp": lambda: datagrams(wireguard_like, 3000), "quic": lambda: datagrams(quic_like, 3000), "http": http}[kind]()
print(json.dumps(seen))
