"""Medians, the ratio and the shape of the JSON."""

import json
import unittest

from report import Results, as_json


class Report(unittest.TestCase):
    def setUp(self):
        self.results = Results()
        for ours, theirs in ((5, 2), (9, 4), (6, 3)):
            self.results.add("pnsbox", "tcp-1", {"throughput": ours, "cpu": 1.5})
            self.results.add("wireguard-go", "tcp-1", {"throughput": theirs})
        self.results.add("pnsbox", "hub-1000", {"ratio": 0.95})

    def test_the_json_holds_the_median_the_extremes_and_the_count(self):
        said = json.loads(as_json({"cores": 2}, self.results))
        self.assertEqual((said["bench"], said["machine"]), ("tunnel", {"cores": 2}))
        self.assertIn(
            {"system": "pnsbox", "case": "tcp-1", "metric": "throughput", "unit": "Gbit/s", "median": 6.0, "min": 5.0,
             "max": 9.0, "n": 3}, said["runs"])

    def test_the_ratio_is_to_the_reference_of_the_same_case(self):
        rows = [line.split() for line in self.results.table() if line.startswith("tcp-1")]
        self.assertEqual([row[:4] for row in rows],
                         [["tcp-1", "pnsbox", "6.00", "2.00"], ["tcp-1", "wireguard-go", "3.00", "1.00"]])

    def test_what_has_no_column_stands_below(self):
        self.assertEqual(self.results.details(), ["hub-1000 pnsbox: ratio 0.95"])


if __name__ == "__main__":
    unittest.main()
