//! End-to-end path probes, in QUIC datagrams of a link: one byte of kind, sequence and sending time, big endian.

/// Bytes of a probe.
pub const PROBE_BYTES: usize = 17;

/// A request, or the echo of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether this is the answer.
    pub echo: bool,
    /// Number of the probe, counted by its sender from 0 per link.
    pub sequence: u64,
    /// The sender's own monotonic clock in microseconds; means nothing to others and is echoed unchanged.
    pub sent_us: u64,
}

impl Probe {
    /// The datagram.
    pub fn encode(&self) -> [u8; PROBE_BYTES] {
        let mut bytes = [0; PROBE_BYTES];
        bytes[0] = u8::from(self.echo);
        bytes[1..9].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[9..].copy_from_slice(&self.sent_us.to_be_bytes());
        bytes
    }

    /// The probe in a datagram, or `None` if it is something else.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let bytes: &[u8; PROBE_BYTES] = datagram.try_into().ok()?;
        let echo = match bytes[0] {
            0 => false,
            1 => true,
            _ => return None,
        };
        let (sequence, sent_us) = bytes[1..].split_at(8);
        Some(Self {
            echo,
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
            sent_us: u64::from_be_bytes(sent_us.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_survives_and_strangers_are_nothing() {
        let probe = Probe {
            echo: true,
            sequence: 7,
            sent_us: u64::MAX,
        };
        assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        assert_eq!(Probe::decode(&[]), None);
        assert_eq!(Probe::decode(&[2; PROBE_BYTES]), None);
        assert_eq!(Probe::decode(&[0; PROBE_BYTES + 1]), None);
    }
}
