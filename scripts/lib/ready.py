"""Starts a service as its manager would, prints the milliseconds until READY=1, and stops it."""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "notify")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(path)
    manager.settimeout(30)
    # The service may run as another user.
    os.chmod(directory, 0o755)
    os.chmod(path, 0o777)
    begun = time.monotonic()
    service = subprocess.Popen(sys.argv[1:], env=os.environ | {"NOTIFY_SOCKET": path}, stderr=subprocess.DEVNULL)
    try:
        while b"READY=1" not in manager.recv(4096):
            pass
        print(f"{(time.monotonic() - begun) * 1000:.0f}")
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(30)
