"""The bare data plane as a hub with 1,000 peers: rate, memory and idle time. See docs/benchmarks.md.

The hub runs on side b, all its peers in one program on side a, each with an address and a session of its own.
"""

import json
import statistics
import subprocess
import time
from pathlib import Path

import proc
from world import QUEUE_PACKETS, TUNNEL_MTU, BenchError

HUB_CASE = "hub-1000"
PEERS = 1000
ACTIVE = 100
PORT = 51820
# Outer addresses of the peers, see tests/bench/src/member.rs.
PEER_NETWORK = "198.18.0.0/15"
IDLE_SECONDS = 20
INTERFACE = "hub0"


class Servant:
    """A program that answers each line of its input with one line of JSON."""

    def __init__(self, end, log, *command):
        self._log = log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                end.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True)

    @property
    def pid(self):
        """Of the program itself."""
        return self._process.pid

    def ask(self, *words):
        """Its answer."""
        line = ""
        try:
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            said = self._log.read_text(errors="replace").strip()
            raise BenchError(f"{HUB_CASE}: no answer to '{' '.join(map(str, words))}': {said}")
        return json.loads(line)

    def stop(self):
        """At the end of its input it ends by itself."""
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Hub:
    """One hub and its load."""

    def __init__(self, world, bin_dir):
        self._world = world
        self._program = Path(bin_dir or "") / "pnsbox-bench"
        if not self._program.is_file():
            raise BenchError(f"{self._program} is missing: cargo build --release -p pnsbox-bench")

    def measure(self, given, results, say):
        """All metrics of the case."""
        world = self._world
        program = str(self._program)
        hub = Servant(world.b, world.directory / "hub.log", program, "hub", INTERFACE, str(PORT), str(TUNNEL_MTU))
        load = Servant(
            world.a, world.directory / "load.log", program, "load", f"{world.b.underlay}:{PORT}", str(TUNNEL_MTU))
        try:
            self._connect(hub)
            for metrics in self._every_run(hub, load, given):
                results.add("pnsbox", HUB_CASE, metrics)
                say(f"  {HUB_CASE}: " + ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))
        finally:
            load.stop()
            hub.stop()

    def _connect(self, hub):
        """Addresses and routes. What the hub decrypts has no way on: its kernel drops it at once."""
        a, b = self._world.a, self._world.b
        a.ip("route", "replace", "local", PEER_NETWORK, "dev", "lo")
        b.ip("route", "replace", PEER_NETWORK, "via", a.underlay)
        b.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
        hub.ask("counters")
        b.ip("link", "set", INTERFACE, "mtu", str(TUNNEL_MTU), "txqueuelen", str(QUEUE_PACKETS), "up")

    def _every_run(self, hub, load, given):
        yield self._idle(hub, load)
        carry(hub, load, ACTIVE, 1)
        for _ in range(given.runs):
            yield self._loaded(hub, load, given.durations.tcp)

    def _idle(self, hub, load):
        """Memory and time of peers that have a session and say nothing."""
        hub.ask("peers", 0)
        before = proc.resident_kib(hub.pid)
        hub.ask("peers", PEERS)
        load.ask("handshake", PEERS)
        up = hub.ask("counters")["peers_up"]
        if up != PEERS:
            raise BenchError(f"{HUB_CASE}: only {up} of {PEERS} peers have a session")
        used = proc.cpu_seconds(hub.pid)
        time.sleep(IDLE_SECONDS)
        return {
            "idle_cpu": (proc.cpu_seconds(hub.pid) - used) / IDLE_SECONDS * 100,
            "rss_per_idle_peer": (proc.resident_kib(hub.pid) - before) / PEERS,
        }

    def _loaded(self, hub, load, seconds):
        """Many active peers between two runs of a single one, so that drift touches both alike."""
        first = carry(hub, load, 1, seconds / 2)
        proc.forget_peak(hub.pid)
        many = carry(hub, load, ACTIVE, seconds)
        rss = proc.peak_mib(hub.pid)
        last = carry(hub, load, 1, seconds / 2)
        single = {metric: statistics.mean((first[metric], last[metric])) for metric in ("throughput", "cpu")}
        return {
            **many,
            "rss": rss,
            "throughput_single": single["throughput"],
            "cpu_single": single["cpu"],
            "ratio": many["throughput"] / single["throughput"],
        }


def carry(hub, load, active, seconds):
    """Metrics: what the hub has accepted, at which cost, and what the load has offered."""
    before, used = hub.ask("counters")["rx_bytes"], proc.cpu_seconds(hub.pid)
    sent = load.ask("send", active, seconds)
    gigabytes = (hub.ask("counters")["rx_bytes"] - before) / 1e9
    if gigabytes == 0:
        raise BenchError(f"{HUB_CASE}: the hub has accepted nothing from {active} peers")
    return {
        "throughput": gigabytes * 8 / sent["seconds"],
        "offered": sent["sent_bytes"] / 1e9 * 8 / sent["seconds"],
        "cpu": (proc.cpu_seconds(hub.pid) - used) / gigabytes,
    }
