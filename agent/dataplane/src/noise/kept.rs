//! Packets that wait for a session: a bounded number, the oldest go first. Nothing in it is encrypted.

use std::collections::VecDeque;

/// A burst of a handshake's length is kept, not a queue of minutes.
const MAX_PACKETS: usize = 128;
/// Four super-packets, so that an unreachable peer costs little memory.
const MAX_BYTES: usize = 256 * 1024;

/// Packets with their padding, in order.
#[derive(Debug, Default)]
pub(super) struct Kept {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Kept {
    pub(super) fn push(&mut self, packet: &[u8]) {
        if packet.len() > MAX_BYTES {
            return;
        }
        while self.packets.len() >= MAX_PACKETS || self.bytes + packet.len() > MAX_BYTES {
            if self.pop().is_none() {
                break;
            }
        }
        self.bytes += packet.len();
        self.packets.push_back(packet.to_vec());
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        if self.packets.is_empty() {
            // An idle peer keeps no memory for a burst that is over.
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_order_and_the_oldest_go_first() {
        let mut kept = Kept::default();
        for number in 0..MAX_PACKETS as u8 + 2 {
            kept.push(&[number]);
        }
        assert_eq!(kept.packets.len(), MAX_PACKETS);
        assert_eq!(kept.pop(), Some(vec![2]));
        assert_eq!(kept.pop(), Some(vec![3]));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut kept = Kept::default();
        for number in 0..6 {
            kept.push(&vec![number; 65_535]);
        }
        assert_eq!(kept.bytes, 4 * 65_535);
        assert_eq!(kept.pop().map(|packet| packet[0]), Some(2));
        kept.push(&vec![9; MAX_BYTES + 1]);
        assert_eq!(
            kept.packets.len(),
            3,
            "one that never fits drives out nothing"
        );
        kept.clear();
        assert_eq!((kept.bytes, kept.pop()), (0, None));
    }
}
