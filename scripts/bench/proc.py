"""What /proc tells of processes and of the machine. Seconds and MiB."""

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process with all its threads, living and ended (proc(5), stat)."""
    # The command's name, in parentheses, may hold anything; user time is the 12th field after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def busy_seconds():
    """Time that the machine's processors were not idle, interrupts included (proc(5), /proc/stat).

    Kernels that count it by looking at every tick miss work that itself begins at ticks, such as paced sending, so
    this is right for a machine that is busy, and wrong for one that is mostly idle.
    """
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def forget_peak(pid):
    """Lets the peak of resident memory begin anew at what is resident now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid):
    """Peak of resident memory."""
    return _status_kib(pid, "VmHWM:") / 1024


def resident_kib(pid):
    """Resident memory now."""
    return _status_kib(pid, "VmRSS:")


def _status_kib(pid, key):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/status has no {key}")


class Usage:
    """Processor time of some processes, and of the whole machine, since this was made."""

    def __init__(self, pids):
        self._pids = pids
        for pid in pids:
            forget_peak(pid)
        self._busy = busy_seconds()
        self._cpu = self._used()

    def _used(self):
        return sum(cpu_seconds(pid) for pid in self._pids)

    def of_machine(self, gigabytes):
        """Metric to value: of the whole machine, for each gigabyte carried."""
        return {"system_cpu": (busy_seconds() - self._busy) / gigabytes}

    def of_daemons(self, gigabytes):
        """Metric to value, for each gigabyte carried; nothing where there are no processes."""
        found = {}
        if self._pids:
            found["cpu"] = (self._used() - self._cpu) / gigabytes
            found["rss"] = max(peak_mib(pid) for pid in self._pids)
        return found
