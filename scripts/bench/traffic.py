"""What is sent through a tunnel, with iperf3, and what that cost.

A case is measured once per call; medians over runs are made in report.py.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import proc
from world import BenchError, wait_until

PORT = 5201
# Linux' own default, whatever this machine prefers: it decides how large the packets are that a sender makes.
CONGESTION_CONTROL = "cubic"
# iperf3's socket buffers for UDP, in KiB, or less where the machine allows less (net.core.rmem_max): it shall be the
# tunnel that loses packets, not a receiver that waits for its turn.
UDP_BUFFER_KIB = 2048
# A rate is loss-free if at most this part of the packets is lost ...
LOSS_ALLOWED = 1e-4
# ... and no more waits in queues at the end than passes in this time, in seconds: a queue hides an overload
# until it is full, and some are deep.
BACKLOG_SECONDS = 0.05
# iperf3 begins a UDP run with a single datagram each way; a full queue of the run before may lose it.
ATTEMPTS = 3
# Steps of the search until it has seen both a rate without loss and one with loss.
UP, DOWN = 1.25, 0.75
# Of the offered rate, what iperf3's sender must really send; below, the sender is the limit.
SENDER_KEEPS_UP = 0.97
HIGHEST_RATE = 2_000_000

TCP = {
    "tcp-1": (),
    "tcp-4": ("--parallel", "4"),
    "tcp-reverse": ("--reverse",),
    "tcp-bidir": ("--bidir",),
}
UDP = {"udp-200": 200, "udp-1400": 1400}
PLAIN = (*TCP, *UDP)
SEGMENTED = "-segmented"


@dataclass
class Durations:
    """How long one measurement lasts, in seconds."""

    # The measured part of a TCP run, a whole number.
    tcp: int
    # At the beginning of a TCP run, not counted for its rate; a whole number.
    omit: int
    # One probe of the search for the loss-free rate, and the run that confirms it.
    probe: float
    confirm: float
    # The search ends when the highest rate without loss and the lowest with loss are this close, as a factor, ...
    close: float
    # ... or after so many probes.
    probes: int


FULL = Durations(tcp=5, omit=1, probe=0.6, confirm=1.5, close=1.04, probes=8)
QUICK = Durations(tcp=3, omit=0, probe=0.2, confirm=0.4, close=1.1, probes=4)


class Iperf:
    """iperf3's server at one end of a tunnel, and runs of its client at the other."""

    def __init__(self, world, tunnel):
        self._client, self._tunnel = world.a, tunnel
        self._server = world.b.start(
            "iperf3", "iperf3", "--server", "--bind", tunnel.server, "--port", str(PORT))
        listens = ("ss", "-Htln", f"src {tunnel.server} and sport = :{PORT}")
        try:
            wait_until("iperf3's server listens", 5, lambda: world.b.run(*listens).strip())
        except BenchError:
            self.stop()
            raise

    def stop(self):
        """Ends the server."""
        self._server.stop()

    def run(self, seconds, *arguments):
        """What the client says, for a run of about so many seconds."""
        command = ("iperf3", "--client", self._tunnel.server, "--bind", self._tunnel.client, "--port", str(PORT),
                   "--json", *arguments)
        said = json.loads(self._client.run(*command, seconds=seconds + 20))
        if "sum_received" not in said.get("end", {}):
            raise BenchError(f"iperf3 has no result: {said.get('error', said)}")
        return said


def congestion_control():
    """Ours if the kernel has it, else the machine's."""
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    default = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return CONGESTION_CONTROL if CONGESTION_CONTROL in available else default


def tcp(iperf, pids, case, durations):
    """Metrics of one TCP run: the rate after what is omitted, the cost over the whole of it."""
    usage = proc.Usage(pids)
    said = iperf.run(durations.tcp + durations.omit, "--time", str(durations.tcp), "--omit", str(durations.omit),
                     "--congestion", congestion_control(), *TCP[case])
    sums = ("sum_received", "sum_received_bidir_reverse")
    rate = sum(said["end"][name]["bits_per_second"] for name in sums if name in said["end"])
    carried = sum(
        interval[name]["bytes"]
        for interval in said["intervals"] for name in ("sum", "sum_bidir_reverse") if name in interval)
    if carried == 0:
        raise BenchError(f"{case}: iperf3 carried nothing")
    gigabytes = carried / 1e9
    return {"throughput": rate / 1e9, **usage.of_daemons(gigabytes), **usage.of_machine(gigabytes)}


@dataclass
class Probe:
    """One UDP run: packets and packets per second."""

    sent: int
    received: int
    lost: int
    # Sent but not seen when the client stopped: in a queue, or lost at the very end.
    backlog: int
    offered: float
    rate: float

    @property
    def loss_free(self):
        """As defined above."""
        late = max(self.backlog - BACKLOG_SECONDS * self.rate, 0)
        return self.lost + late <= LOSS_ALLOWED * self.sent

    @property
    def sender_limited(self):
        """iperf3 itself could not send what was asked for."""
        return self.rate < SENDER_KEEPS_UP * self.offered


def udp_probe(iperf, bytes_each, rate, seconds):
    """Offers so many packets per second, or as many as iperf3 can with HIGHEST_RATE."""
    flood = rate >= HIGHEST_RATE
    length = ("--time", "1") if flood else ("--blockcount", str(max(int(rate * seconds), 100)))
    bits = "0" if flood else str(int(rate * bytes_each * 8))
    said = patiently(lambda: iperf.run(seconds * 4, "--udp", "--length", str(bytes_each), "--bitrate", bits,
                                       "--window", f"{udp_buffer_kib()}K", *length))
    sent, seen = said["end"]["sum_sent"], said["end"]["sum_received"]
    return Probe(
        sent=sent["packets"], lost=seen["lost_packets"], received=max(seen["packets"] - seen["lost_packets"], 0),
        backlog=max(sent["packets"] - seen["packets"], 0), offered=rate, rate=sent["packets"] / sent["seconds"])


def patiently(attempt):
    """The result of the first attempt that does not fail."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except BenchError:
            time.sleep(0.2)
    return attempt()


def udp_buffer_kib():
    """What the kernel gives to everybody."""
    limits = (int(Path(f"/proc/sys/net/core/{name}").read_text()) // 1024 for name in ("rmem_max", "wmem_max"))
    return min(UDP_BUFFER_KIB, *limits)


def udp(iperf, pids, case, durations, expected=None):
    """Metrics at the highest loss-free rate. `expected`, in packets per second, only shortens the search."""
    size = UDP[case]
    start = expected or 0.9 * udp_probe(iperf, size, HIGHEST_RATE, 1).received
    rate = search(lambda rate: second_chance(iperf, size, rate, durations.probe), start, durations)
    while rate > 100:
        usage = proc.Usage(pids)
        confirmed = udp_probe(iperf, size, rate, durations.confirm)
        if confirmed.loss_free:
            gigabytes = confirmed.sent * size / 1e9
            return {"loss_free_rate": confirmed.rate / 1e3, **usage.of_daemons(gigabytes)}
        rate *= 0.95
    raise BenchError(f"{case}: no rate is free of loss")


def second_chance(iperf, bytes_each, rate, seconds):
    """A probe, and another one if it has lost: once may be the machine's hiccup."""
    seen = udp_probe(iperf, bytes_each, rate, seconds)
    return seen if seen.loss_free else udp_probe(iperf, bytes_each, rate, seconds)


def search(probe, start, durations):
    """The highest rate found that probe(rate) calls loss-free: steps until it is enclosed, then halves."""
    rate, free, lossy = start, None, None
    for _ in range(durations.probes):
        seen = probe(rate)
        if not seen.loss_free:
            lossy = rate
        else:
            free = rate
            if seen.sender_limited:
                return seen.rate
        if lossy is None:
            rate = free * UP
        elif free is None:
            rate = lossy * DOWN
        elif lossy / free < durations.close:
            break
        else:
            rate = (free * lossy) ** 0.5
    return free or rate


def measure(iperf, pids, case, durations, expected=None):
    """Metrics of one run of a case, by its name without the suffix."""
    if case in TCP:
        return tcp(iperf, pids, case, durations)
    return udp(iperf, pids, case, durations, expected)
