"""Medians, the table for people and the JSON for programs. See docs/benchmarks.md for what each metric means."""

import json
import statistics

UNITS = {
    "throughput": "Gbit/s",
    "loss_free_rate": "kpps",
    "cpu": "s/GB",
    "system_cpu": "s/GB",
    "rss": "MiB",
    "offered": "Gbit/s",
    "throughput_single": "Gbit/s",
    "cpu_single": "s/GB",
    "ratio": "",
    "rss_per_idle_peer": "KiB",
    "idle_cpu": "percent of a core",
}
# The systems that ours is set beside, the better one first.
REFERENCES = ("wireguard-go", "wireguard-go-debian")
COLUMNS = ("case", "system", "Gbit/s", "kpps", "ratio", "min..max", "cpu s/GB", "system s/GB", "RSS MiB", "n")


class Results:
    """Values of every run."""

    def __init__(self):
        self._values = {}

    def add(self, system, case, metrics):
        """Adds one run."""
        for metric, value in metrics.items():
            self._values.setdefault((case, system), {}).setdefault(metric, []).append(value)

    def median(self, system, case, metric):
        """None where there is none."""
        values = self._values.get((case, system), {}).get(metric)
        return statistics.median(values) if values else None

    def runs(self):
        """What stands under "runs" in the JSON."""
        return [
            {"system": system, "case": case, "metric": metric, "unit": UNITS[metric],
             "median": rounded(statistics.median(values)), "min": rounded(min(values)), "max": rounded(max(values)),
             "n": len(values)}
            for (case, system), metrics in self._values.items() for metric, values in metrics.items()
        ]

    def table(self):
        """Rows of text, sorted by case and by rate, the first one with units."""
        rows = [COLUMNS]
        cases = list(dict.fromkeys(case for case, _ in self._values))
        for case in cases:
            systems = [system for c, system in self._values if c == case]
            reference = next((self._rate(r, case) for r in REFERENCES if self._rate(r, case)), None)
            rows += [self._row(system, case, reference)
                     for system in sorted(systems, key=lambda s: -(self._rate(s, case) or 0))]
        return aligned(rows)

    def details(self):
        """What stands in no column: lines of text."""
        shown = {"throughput", "loss_free_rate", "cpu", "system_cpu", "rss"}
        return [
            f"{run['case']} {run['system']}: {run['metric']} {run['median']} {run['unit']}".rstrip()
            for run in self.runs() if run["metric"] not in shown
        ]

    def _rate(self, system, case):
        return self.median(system, case, "throughput") or self.median(system, case, "loss_free_rate")

    def _row(self, system, case, reference):
        rate = self._rate(system, case)
        values = self._values[(case, system)]
        spread = values.get("throughput") or values.get("loss_free_rate") or []
        cell = lambda metric, digits: number(self.median(system, case, metric), digits)
        return (
            case, system, cell("throughput", 2), cell("loss_free_rate", 1),
            number(rate / reference, 2) if rate and reference else "",
            f"{number(min(spread), 2)}..{number(max(spread), 2)}" if spread else "",
            cell("cpu", 2), cell("system_cpu", 2), cell("rss", 1), str(len(spread)),
        )


def number(value, digits):
    """Empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def rounded(value):
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def aligned(rows):
    """Lines of a table whose first two columns are words."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines, before = [], None
    for row in rows:
        if before not in (None, row[0]):
            lines.append("")
        before = row[0]
        cells = [cell.ljust(width) if column < 2 else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return lines


def as_json(machine, results):
    """The whole as one object."""
    return json.dumps({"bench": "tunnel", "machine": machine, "runs": results.runs()}, indent=1)
