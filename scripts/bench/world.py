"""Two network namespaces joined by one cable, and the programs that run in them.

The namespaces are called ID-a and ID-b; scripts/bench.sh chooses ID and removes whatever is left at its end.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

# TEST-NET-1 (RFC 5737): the network between the two ends, outside every tunnel.
UNDERLAY = {"a": "192.0.2.1", "b": "192.0.2.2"}
# The name of the cable's interface in either namespace.
WIRE = "wire0"
TUNNEL_MTU = 1420
# Packets that may wait in an interface's queue, the same for every system (the kernel's default for a veth).
QUEUE_PACKETS = 1000
# What a NIC without offloads cannot do. Checksums stay on: without them UDP_SEGMENT fails with EIO.
SEGMENTING = ("gso", "gro", "tso", "tx-udp-segmentation")


class BenchError(Exception):
    """A step failed; the text says which, and what the program said."""


def run(*command, stdin=None, seconds=30):
    """The standard output of a command, which must succeed."""
    try:
        # In a session of its own, so that Ctrl-C reaches only us.
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False,
                              start_new_session=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise BenchError(f"{' '.join(command)}: exit code {done.returncode}: {said}")
    return done.stdout


def wait_until(what, seconds, check):
    """Polls until check() is true."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {seconds} s in vain until {what}")
        time.sleep(0.02)


class Program:
    """A program in the background, in a session of its own too."""

    def __init__(self, name, command, log, environment=None):
        self.name = name
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=os.environ | (environment or {}),
            )

    @property
    def pid(self):
        """'ip netns exec' becomes the program, so this is the program's own."""
        return self.process.pid

    def must_live(self):
        """Fails with the end of its log if it has ended."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} has ended with {self.process.returncode}: {self.last_words()}")

    def last_words(self):
        """The end of its log."""
        return self.log.read_text(errors="replace")[-1500:].strip()

    def stop(self):
        """SIGTERM, and SIGKILL after five seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            self.process.send_signal(number)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                continue


class End:
    """One side: a network namespace."""

    def __init__(self, world, letter):
        self.world = world
        self.letter = letter
        self.namespace = f"{world.name}-{letter}"
        self.underlay = UNDERLAY[letter]

    @property
    def other(self):
        """The opposite side."""
        return self.world.ends["b" if self.letter == "a" else "a"]

    def command(self, *command):
        """The command line that runs something here."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(self, *command, **options):
        """Runs it here and waits."""
        return run(*self.command(*command), **options)

    def ip(self, *arguments):
        """ip(8), here."""
        return run("ip", "-n", self.namespace, *arguments)

    def start(self, name, *command, environment=None):
        """Starts it here in the background."""
        log = self.world.directory / f"{name}-{self.letter}.log"
        return Program(f"{name} on side {self.letter}", self.command(*command), log, environment)


class World:
    """Both sides and the cable; to be used in a 'with' statement."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = Path(directory)
        self.ends = {letter: End(self, letter) for letter in "ab"}
        self.a, self.b = self.ends["a"], self.ends["b"]

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self):
        for end in self.ends.values():
            run("ip", "netns", "add", end.namespace)
            end.ip("link", "set", "lo", "up")
        self.a.ip("link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", self.b.namespace)
        for end in self.ends.values():
            end.ip("address", "add", f"{end.underlay}/24", "dev", WIRE)
            end.ip("link", "set", WIRE, "txqueuelen", str(QUEUE_PACKETS), "up")

    def __exit__(self, *_):
        for end in self.ends.values():
            subprocess.run(["ip", "netns", "del", end.namespace], capture_output=True, check=False)

    def segment(self, segmented):
        """Makes the cable take single packets only, as a plain NIC does, or large ones again."""
        switches = [word for name in SEGMENTING for word in (name, "off" if segmented else "on")]
        for end in self.ends.values():
            end.run("ethtool", "-K", WIRE, *switches)
