//! The offloads as fuzzers drive them: reads become packets, packets become writes; and the reader of inner headers.

use std::io::IoSlice;
use std::net::IpAddr;

use crate::offload::coalesce::{Coalescer, Outcome};
use crate::offload::flows::Flows;
use crate::offload::segment::Segments;
use crate::offload::vnet::VnetHeader;
use crate::packet;

/// Source, destination and length in bytes of an inner packet, as the plane reads them.
pub fn inner_header(bytes: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    packet::parse(bytes).map(|header| (header.source, header.destination, header.length))
}

/// The packets of one read from the TUN, which begins with its vnet header; `None` if it is malformed.
pub fn cut(read: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (vnet, packet) = read.split_first_chunk()?;
    let segments = Segments::parse(VnetHeader::decode(vnet), packet).ok()?;
    let packets = (0..segments.count()).map(|index| {
        let mut packet = vec![0; segments.length(index)];
        segments.write(index, &mut packet);
        packet
    });
    Some(packets.collect())
}

/// A coalescer with a TUN of the fuzzer's.
#[derive(Debug)]
pub struct FuzzCoalescer(Coalescer);

/// What the TUN does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It takes it.
    Yes,
    /// It takes none of this kind.
    Refused,
    /// It loses it.
    Lost,
}

/// What a coalescer counted in one burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Packets that the TUN took.
    pub packets: usize,
    /// Writes, whatever became of them.
    pub writes: usize,
    /// Packets that were lost.
    pub failed: usize,
}

impl FuzzCoalescer {
    /// Nothing was refused yet. It hashes the same in every run.
    #[expect(clippy::new_without_default, reason = "as the real one")]
    pub fn new() -> Self {
        let keys = std::array::from_fn(|number| 0x9e37_79b9_7f4a_7c15 << number);
        Self(Coalescer::with_flows(Flows::with_keys(keys)))
    }

    /// Writes a burst; `take` sees each write with its vnet header.
    pub fn write(&mut self, burst: &[Vec<u8>], take: &mut dyn FnMut(&[u8]) -> Taken) -> Counted {
        let slab = burst.concat();
        let mut start = 0;
        for packet in burst {
            self.0.push(&slab, start, packet.len());
            start += packet.len();
        }
        let flushed = self.0.flush(&slab, &mut |slices: &[IoSlice<'_>]| {
            let write: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            match take(&write) {
                Taken::Yes => Outcome::Written,
                Taken::Refused => Outcome::Refused,
                Taken::Lost => Outcome::Failed,
            }
        });
        Counted {
            packets: flushed.packets,
            writes: flushed.writes,
            failed: flushed.failed,
        }
    }
}
