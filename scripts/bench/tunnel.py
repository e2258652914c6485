"""Measures tunnels side by side: who, in which order, how often. Started by scripts/bench.sh."""

import argparse
import contextlib
import dataclasses
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import report
import traffic
from hub import HUB_CASE, Hub
from systems import every_system
from world import BenchError, World, run

ALL_CASES = [*traffic.PLAIN, *(case + traffic.SEGMENTED for case in traffic.PLAIN), HUB_CASE]
QUICK_CASES = ["tcp-1", "udp-200"]
# A full table of six systems takes about 45 minutes with these, a quick one less than two.
FULL_RUNS, QUICK_RUNS = 5, 3


def say(text):
    """For people, so that standard output stays for results."""
    print(text, file=sys.stderr, flush=True)


def arguments():
    """What scripts/bench.sh passes on."""
    parser = argparse.ArgumentParser(prog="scripts/bench.sh tunnel")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="tcp-1 and udp-200, three runs of 3 s")
    parser.add_argument("--system", metavar="A,B", help="only these systems")
    parser.add_argument("--case", metavar="X,Y", help="only these cases")
    parser.add_argument("--runs", type=positive, help="runs of every case (5; 3 with --quick)")
    parser.add_argument("--seconds", type=positive, help="measured seconds of a TCP run (5; 3 with --quick)")
    parser.add_argument("--bin", metavar="DIR", help="our programs (default: a release build)")
    parser.add_argument("--competitors", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.runs = given.runs or (QUICK_RUNS if given.quick else FULL_RUNS)
    durations = traffic.QUICK if given.quick else traffic.FULL
    given.durations = dataclasses.replace(durations, tcp=given.seconds or durations.tcp)
    given.cases = chosen(parser, "case", given.case, ALL_CASES) if given.case else (
        QUICK_CASES if given.quick else ALL_CASES)
    systems = every_system(given.bin, given.competitors or "", os.environ.get("WIREGUARD_GO"), os.cpu_count())
    names = [system.name for system in systems]
    wanted = chosen(parser, "system", given.system, names) if given.system else names
    if given.cases == [HUB_CASE]:
        wanted = [name for name in wanted if name == "pnsbox"]
    given.systems = [system for system in systems if system.name in wanted]
    return given


def positive(text):
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def chosen(parser, what, text, known):
    """Names of a comma-separated list, in the order of `known`."""
    names = text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"unknown {what} '{name}'; known: {' '.join(known)}")
    return [name for name in known if name in names]


def available(systems):
    """Those that are here, and what is to be said of the others."""
    missing = {system.name: system.missing() for system in systems}
    missing = {name: why for name, why in missing.items() if why}
    return [system for system in systems if system.name not in missing], missing


@contextlib.contextmanager
def work_directory(name):
    """For logs, keys and state; scripts/bench.sh knows the name too."""
    directory = Path(tempfile.gettempdir()) / f"pnsbox-{name}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def describe_machine(systems, missing):
    """What a reader needs to judge the numbers."""
    return {
        "kernel": platform.release(),
        "cpu": processor_model(),
        "cores": os.cpu_count(),
        "congestion_control": traffic.congestion_control(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_before": os.getloadavg(),
        "versions": {
            "iperf3": run("iperf3", "--version").splitlines()[0],
            **{system.name: version for system in systems if (version := system.version())},
        },
        "missing": missing,
    }


def processor_model():
    """As /proc/cpuinfo names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measure_system(world, system, given, results):
    """All chosen cases of one system, on one start of it."""
    tunnel = system.start(world)
    try:
        iperf = traffic.Iperf(world, tunnel)
        try:
            for case in given.cases:
                if case != HUB_CASE:
                    measure_case(world, system, tunnel, iperf, case, given, results)
        finally:
            iperf.stop()
            world.segment(False)
    finally:
        system.stop(tunnel)


def measure_case(world, system, tunnel, iperf, case, given, results):
    """One run of one case."""
    segmented = case.endswith(traffic.SEGMENTED)
    world.segment(segmented)
    before = results.median(system.name, case, "loss_free_rate")
    metrics = traffic.measure(
        iperf, tunnel.pids, case.removesuffix(traffic.SEGMENTED), given.durations, before and before * 1e3)
    results.add(system.name, case, metrics)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    say(f"  {system.name:20} {case:22} {shown}")


def measure_hub(world, given, results, failures):
    """The hub, where it and ours are asked for."""
    if HUB_CASE not in given.cases or all(system.name != "pnsbox" for system in given.systems):
        return
    try:
        Hub(world, given.bin).measure(given, results, say)
    except BenchError as error:
        failures[HUB_CASE] = str(error)
        say(f"  {HUB_CASE}: {error}")


def measure_all(world, systems, given, results, failures):
    """Every run begins with another system, so that none always has the machine at its best."""
    if given.cases == [HUB_CASE]:
        return
    for number in range(given.runs):
        say(f"run {number + 1} of {given.runs}, load {os.getloadavg()[0]:.2f}")
        first = number % len(systems) if systems else 0
        for system in systems[first:] + systems[:first]:
            try:
                measure_system(world, system, given, results)
            except BenchError as error:
                failures.setdefault(system.name, str(error))
                say(f"  {system.name}: {error}")


def main():
    """Exit code 1 if a system that is here could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = arguments()
    systems, missing = available(given.systems)
    machine = describe_machine(systems, missing)
    results, failures = report.Results(), {}
    name = os.environ.get("PNSBOX_BENCH_ID", f"bench-{os.getpid()}")
    try:
        with work_directory(name) as directory, World(name, directory) as world:
            measure_all(world, systems, given, results, failures)
            measure_hub(world, given, results, failures)
    except BenchError as error:
        failures["the two namespaces"] = str(error)
    machine["load_after"] = os.getloadavg()
    if given.json:
        print(report.as_json(machine, results))
    else:
        print("\n".join([*results.table(), "", *results.details()]))
    for who, why in missing.items():
        say(f"not measured: {who}: {why}")
    for who, why in failures.items():
        say(f"failed: {who}: {why.splitlines()[0]}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
