"""The search for the loss-free rate, against tunnels whose capacity is known."""

import unittest

from traffic import FULL, QUICK, Probe, search


def tunnel(capacity, sender=1e9, seconds=0.6):
    """A probe of a tunnel that loses what is above its capacity, offered by a sender with a limit of its own."""
    def probe(rate):
        sent = min(rate, sender)
        lost = max(sent - capacity, 0) * seconds
        return Probe(sent=int(sent * seconds), received=int(sent * seconds - lost), lost=int(lost), backlog=0,
                     offered=rate, rate=sent)
    return probe


class Search(unittest.TestCase):
    def test_it_comes_close_from_below_wherever_it_starts(self):
        for durations, share in ((FULL, 0.9), (QUICK, 0.75)):
            for start in (0.6, 0.9, 1.0, 1.1, 1.5):
                found = search(tunnel(50_000), start * 50_000, durations)
                self.assertTrue(share * 50_000 <= found <= 50_010, f"{durations} from {start}: {found}")

    def test_a_sender_that_cannot_more_ends_it(self):
        self.assertEqual(search(tunnel(1e6, sender=90_000), 80_000, FULL), 90_000)

    def test_a_rate_that_loses_is_never_found(self):
        found = search(tunnel(50_000), 49_000, FULL)
        self.assertTrue(tunnel(50_000)(found).loss_free, found)


class LossFree(unittest.TestCase):
    def test_one_in_ten_thousand_may_be_lost(self):
        self.assertTrue(self.probe(lost=5, backlog=0).loss_free)
        self.assertFalse(self.probe(lost=6, backlog=0).loss_free)

    def test_a_queue_that_grew_counts_as_loss(self):
        self.assertTrue(self.probe(lost=0, backlog=2500).loss_free)
        self.assertFalse(self.probe(lost=0, backlog=3000).loss_free)

    @staticmethod
    def probe(lost, backlog):
        """One second at 50,000 packets per second."""
        return Probe(sent=50_000, received=50_000 - lost - backlog, lost=lost, backlog=backlog, offered=50_000,
                     rate=50_000)


if __name__ == "__main__":
    unittest.main()
