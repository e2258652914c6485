"""The systems that are compared: how each is found, started and asked for its version.

Each ends in the same two namespaces, with the same MTU and queue length, and with an address of its own at either
end; iperf3 runs in those namespaces too, so nobody forwards.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from pnsbox_pair import PnsboxPair
from world import QUEUE_PACKETS, TUNNEL_MTU, BenchError, run, wait_until

PORT = 51820


@dataclass
class Tunnel:
    """A tunnel that is up: what iperf3 and the measurements need of it."""

    # Where the client binds, and where the server listens.
    client: str
    server: str
    # The daemons of both ends.
    programs: list = field(default_factory=list)

    @property
    def pids(self):
        """Of the daemons."""
        return [program.pid for program in self.programs]


class Veth:
    """No tunnel: the cable itself, which is the ceiling."""

    name = "veth"

    def missing(self):
        """Why it cannot be measured; None if it can."""
        return None

    def version(self):
        """As the program says it."""
        return None

    def start(self, world):
        """Brings it up."""
        return Tunnel(client=world.a.underlay, server=world.b.underlay)

    def stop(self, tunnel):
        """Takes it down."""


class UserspaceWireguard:
    """Any daemon that makes one interface and is configured with wg(8)."""

    def __init__(self, name, program, how_to_get, arguments=(), environment=None, version=()):
        self.name = name
        self.program = program
        self.how_to_get = how_to_get
        self.arguments = arguments
        self.environment = environment or {}
        self._version = version or ("--version",)

    def missing(self):
        """Why it cannot be measured; None if it can."""
        return None if self.program and shutil.which(self.program) else self.how_to_get

    def version(self):
        """As the program says it."""
        return run(self.program, *self._version).splitlines()[0]

    def start(self, world):
        """Brings the tunnel up."""
        programs = []
        try:
            for end in (world.a, world.b):
                programs.append(end.start(
                    self.name, self.program, *self.arguments, interface(end), environment=self.environment))
            keys = {end.letter: run("wg", "genkey").strip() for end in (world.a, world.b)}
            for end, program in zip((world.a, world.b), programs):
                self._configure(end, program, keys)
            wait_until(f"{self.name} carries a ping", 15, lambda: answers(world.a, inner(world.b)))
        except BaseException:
            self._stop(programs)
            raise
        return Tunnel(client=inner(world.a), server=inner(world.b), programs=programs)

    def _configure(self, end, program, keys):
        name, other = interface(end), end.other
        # boringtun and gotatun open the socket before they serve it, so one success is asked for.
        wait_until(f"{self.name} answers wg(8)", 10, lambda: ready(end, program, name))
        public = run("wg", "pubkey", stdin=keys[other.letter]).strip()
        key_file = end.world.directory / f"key-{end.letter}"
        key_file.touch(mode=0o600)
        key_file.write_text(keys[end.letter])
        end.run("wg", "set", name, "private-key", str(key_file), "listen-port", str(PORT), "peer", public,
                "allowed-ips", f"{inner(other)}/32", "endpoint", f"{other.underlay}:{PORT}")
        end.ip("address", "add", f"{inner(end)}/24", "dev", name)
        end.ip("link", "set", name, "mtu", str(TUNNEL_MTU), "txqueuelen", str(QUEUE_PACKETS), "up")

    def stop(self, tunnel):
        """Takes it down."""
        self._stop(tunnel.programs)

    @staticmethod
    def _stop(programs):
        for program in programs:
            program.stop()


class Pnsbox:
    """Two agents with a policy of a controller."""

    name = "pnsbox"

    def __init__(self, bin_dir):
        self._bin = Path(bin_dir) if bin_dir else None
        self._pair = None

    def missing(self):
        """Why it cannot be measured; None if it can."""
        for program in ("pnsbox", "pnsbox-agent", "pnsbox-controller"):
            if not self._bin or not (self._bin / program).is_file():
                return f"{self._bin or 'no folder'} holds no program '{program}': cargo build --release, or --bin DIR"
        return None

    def version(self):
        """As the program says it."""
        return run(str(self._bin / "pnsbox-agent"), "--version").strip()

    def start(self, world):
        """Brings both agents up."""
        self._pair = self._pair or PnsboxPair(world, self._bin)
        programs = self._pair.start()
        try:
            for end in (world.a, world.b):
                end.ip("link", "set", self._pair.interface(end), "txqueuelen", str(QUEUE_PACKETS))
            wait_until("the agents carry a ping", 30, lambda: answers(world.a, self._pair.overlay(world.b)))
        except BaseException as error:
            said = "\n".join(program.last_words() for program in programs)
            self._pair.stop(programs)
            if isinstance(error, BenchError):
                raise BenchError(f"{error}: {said}") from error
            raise
        return Tunnel(client=self._pair.overlay(world.a), server=self._pair.server_address, programs=programs)

    def stop(self, tunnel):
        """Stops the agents; what they know stays for the next start."""
        self._pair.stop(tunnel.programs)


def interface(end):
    """Its socket lies in /run/wireguard of the machine, so the name holds our PID."""
    return f"{end.world.name.replace('bench-', 'bt')}{end.letter}"


def inner(end):
    """The address inside the tunnel."""
    return {"a": "10.99.0.1", "b": "10.99.0.2"}[end.letter]


def ready(end, program, name):
    """Whether the daemon can be configured."""
    program.must_live()
    try:
        end.run("wg", "show", name, "dump")
    except BenchError:
        return False
    return True


def answers(end, address):
    """Whether one ping is answered."""
    try:
        end.run("ping", "-n", "-q", "-c", "1", "-W", "1", address)
    except BenchError:
        return False
    return True


def every_system(bin_dir, competitors, wireguard_go, processors):
    """All of them, in the order of the first run."""
    setup = "scripts/bench.sh setup"
    crates = Path(competitors) / "bin"
    return [
        Pnsbox(bin_dir),
        UserspaceWireguard(
            "wireguard-go", wireguard_go, "build it from upstream and give it: WIREGUARD_GO=/path/to/wireguard-go",
            ("--foreground",)),
        UserspaceWireguard("wireguard-go-debian", "/usr/bin/wireguard-go", setup, ("--foreground",)),
        UserspaceWireguard(
            "gotatun", str(crates / "gotatun"), setup, ("--foreground", "--disable-drop-privileges")),
        UserspaceWireguard(
            "boringtun-cli", str(crates / "boringtun-cli"), setup,
            ("--foreground", "--disable-drop-privileges", "--threads", str(processors))),
        Veth(),
    ]
