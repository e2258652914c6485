//! Which write has the last packet of a flow: a fixed hash table, and the barriers of packets whose ports cannot be read.
//!
//! It forgets and confuses flows when it is full or hashes collide. That only costs a merge: headers are compared before
//! one, and a write that is found no more gets no more packets, so order is kept.

use std::hash::{BuildHasher as _, RandomState};

use super::headers::{Version, short};

/// As many as a burst has packets at most.
const SLOTS: usize = 1024;
/// Slots that are looked at for one flow; whoever floods the table waits for no more.
const PROBES: usize = 8;
/// Barriers by the hash of two addresses. Hosts that share one only merge less.
const BARRIERS: usize = 256;

/// Number of a write in its burst.
pub(crate) type WriteIndex = u16;

/// The hashes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hashes {
    hosts: u64,
    flow: u64,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Flows {
    /// Unknown to whoever sends packets.
    keys: [u64; 4],
    slots: Box<[Slot]>,
    barriers: Box<[WriteIndex]>,
    /// Slots of other generations are free.
    generation: u16,
    has_barriers: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    generation: u16,
    write: WriteIndex,
}

impl Flows {
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        Self::with_keys(std::array::from_fn(|number| random.hash_one(number)))
    }

    /// Hashes with these keys, which nobody else may know.
    pub(crate) fn with_keys(keys: [u64; 4]) -> Self {
        Self {
            // Odd, so that a product keeps all that was there.
            keys: keys.map(|key| key | 1),
            slots: vec![Slot::default(); SLOTS].into(),
            barriers: vec![0; BARRIERS].into(),
            generation: 1,
            has_barriers: false,
        }
    }

    /// Forgets all flows and barriers.
    pub(crate) fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.slots.fill(Slot::default());
            self.generation = 1;
        }
        if self.has_barriers {
            self.barriers.fill(0);
            self.has_barriers = false;
        }
    }

    /// The hashes of `packet`, whose ports stand at `ports`.
    pub(crate) fn hashes(
        &self,
        packet: &[u8],
        version: Version,
        protocol: u8,
        ports: usize,
    ) -> Hashes {
        let hosts = self.hash_hosts(packet, version);
        let ports = u64::from(short(packet, ports)) << 16 | u64::from(short(packet, ports + 2));
        Hashes {
            hosts,
            flow: self.mix_twice(hosts ^ (u64::from(protocol) << 32 | ports)),
        }
    }

    /// Notes that no write before `write` gets packets between the addresses of `packet` any more.
    pub(crate) fn bar(&mut self, packet: &[u8], version: Version, write: WriteIndex) {
        let hosts = self.hash_hosts(packet, version);
        self.barriers[hosts as usize % BARRIERS] = write;
        self.has_barriers = true;
    }

    /// Whether a barrier stands between `write` and now.
    pub(crate) fn is_barred(&self, hashes: Hashes, write: WriteIndex) -> bool {
        self.has_barriers && write < self.barriers[hashes.hosts as usize % BARRIERS]
    }

    /// The place where the flow's last write is noted, or is to be, with what is there. A flow too many takes another's place.
    pub(crate) fn entry(&mut self, hashes: Hashes) -> (&mut WriteIndex, bool) {
        let (tag, first) = ((hashes.flow >> 32) as u32, hashes.flow as usize);
        let mut place = first % SLOTS;
        let mut is_known = false;
        for probe in 0..PROBES {
            let candidate = (first + probe) % SLOTS;
            let slot = &self.slots[candidate];
            if slot.generation != self.generation {
                place = candidate;
                break;
            }
            if slot.hash == tag {
                (place, is_known) = (candidate, true);
                break;
            }
        }
        let slot = &mut self.slots[place];
        slot.hash = tag;
        slot.generation = self.generation;
        (&mut slot.write, is_known)
    }

    fn hash_hosts(&self, packet: &[u8], version: Version) -> u64 {
        let (eights, _) = version.addresses(packet).as_chunks::<8>();
        let mixed = eights.iter().fold(self.keys[0], |hash, eight| {
            mix(hash ^ u64::from_ne_bytes(*eight), self.keys[1])
        });
        mix(mixed, self.keys[2])
    }

    /// Once would leave ports in a row at places in a row of steps, which may meet.
    fn mix_twice(&self, value: u64) -> u64 {
        mix(mix(value, self.keys[2]), self.keys[3])
    }
}

/// Both halves of the product.
fn mix(value: u64, key: u64) -> u64 {
    let product = u128::from(value) * u128::from(key);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(host: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[12..20].copy_from_slice(&[10, 0, 0, host, 10, 0, 0, 200]);
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        packet
    }

    fn hashes(flows: &Flows, host: u8, port: u16) -> Hashes {
        flows.hashes(&packet(host, port), Version::V4, 17, 20)
    }

    fn note(flows: &mut Flows, port: u16, write: WriteIndex) -> Option<WriteIndex> {
        let hashes = hashes(flows, 1, port);
        let (place, is_known) = flows.entry(hashes);
        let before = is_known.then_some(*place);
        *place = write;
        before
    }

    #[test]
    fn a_flow_is_found_until_the_table_is_cleared() {
        let mut flows = Flows::new();
        for round in 0..70_000 {
            assert_eq!(note(&mut flows, 1, 5), None, "round {round}");
            assert_eq!(note(&mut flows, 1, 7), Some(5), "round {round}");
            flows.clear();
        }
    }

    #[test]
    fn a_flow_of_long_ago_is_not_found_when_generations_begin_anew() {
        let mut flows = Flows::new();
        note(&mut flows, 1, 5);
        let first = flows.generation;
        flows.clear();
        while flows.generation != first {
            flows.clear();
        }
        assert_eq!(note(&mut flows, 1, 7), None);
    }

    #[test]
    fn a_barrier_ends_with_its_burst() {
        let mut flows = Flows::new();
        flows.bar(&packet(1, 0), Version::V4, 3);
        let flow = hashes(&flows, 1, 9);
        let elsewhere = |host: &u8| !flows.is_barred(hashes(&flows, *host, 9), 2);
        let other = (2..200).find(elsewhere).unwrap();
        flows.clear();
        flows.bar(&packet(other, 0), Version::V4, 1);
        assert!(!flows.is_barred(flow, 2));
    }

    #[test]
    fn flows_of_a_burst_are_told_apart() {
        // Whatever the keys are.
        for table in 0..300 {
            let mut flows = Flows::new();
            for port in 0..64 {
                assert_eq!(note(&mut flows, port, port), None, "table {table}");
            }
            for port in 0..64 {
                assert_eq!(note(&mut flows, port, 0), Some(port), "table {table}");
            }
        }
        let flows = Flows::new();
        let flow = hashes(&flows, 1, 1);
        assert_ne!(flow, flows.hashes(&packet(1, 1), Version::V4, 6, 20));
        assert_ne!(flow.hosts, hashes(&flows, 2, 1).hosts);
        assert_ne!(flow.flow, hashes(&Flows::new(), 1, 1).flow, "keys differ");
    }

    #[test]
    fn a_full_table_forgets_and_never_waits() {
        let mut flows = Flows::new();
        for port in 0..60_000 {
            note(&mut flows, port, 1);
        }
        assert_eq!(note(&mut flows, 59_999, 2), Some(1), "the newest is there");
        let found = (0..60_000).filter(|port| note(&mut flows, *port, 3) == Some(1));
        assert!(found.count() <= SLOTS);
    }

    #[test]
    fn a_barrier_is_for_the_writes_before_it_and_for_its_hosts() {
        let mut flows = Flows::new();
        flows.bar(&packet(1, 0), Version::V4, 3);
        let flow = hashes(&flows, 1, 9);
        assert!(flows.is_barred(flow, 2));
        assert!(!flows.is_barred(flow, 3));
        let free = (2..200).filter(|host| !flows.is_barred(hashes(&flows, *host, 9), 2));
        assert!(free.count() > 180);
        flows.clear();
        assert!(!flows.is_barred(flow, 2));
    }
}
