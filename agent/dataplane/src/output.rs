//! Where results go: the kernel in a worker, memory in a test.

use std::io::IoSlice;
use std::net::SocketAddr;

use crate::offload::coalesce::Outcome;
use crate::tos::Tos;

/// Equal datagrams one after the other in a slab, for one receiver; the last may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The receiver.
    pub(crate) to: SocketAddr,
    /// Where the first begins, in bytes.
    pub(crate) start: usize,
    /// Bytes of all together.
    pub(crate) length: usize,
    /// Bytes of each but the last.
    pub(crate) segment: usize,
    /// Class and congestion bits of the headers in front of them.
    pub(crate) tos: Tos,
    /// Nobody may fragment them: it is to be seen whether they pass.
    pub(crate) is_probe: bool,
}

impl Run {
    /// How many datagrams it has.
    pub(crate) fn count(&self) -> usize {
        self.length.div_ceil(self.segment)
    }

    /// Goes on behind its first datagrams, of which so many are dealt with: fewer than it has.
    pub(crate) fn skip(&mut self, datagrams: usize) {
        self.start += datagrams * self.segment;
        self.length -= datagrams * self.segment;
    }

    /// Each datagram: where it begins, and its length.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = (usize, usize)> {
        let Self {
            start,
            length,
            segment,
            ..
        } = *self;
        (0..self.count()).map(move |i| (start + i * segment, segment.min(length - i * segment)))
    }
}

/// How far a sending came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Runs that are dealt with; fewer than given when the kernel takes no more for now.
    pub(crate) runs: usize,
    /// Datagrams of the next run that are dealt with: fewer than it has.
    pub(crate) partial: usize,
    /// Datagrams of all those that the kernel refused.
    pub(crate) lost: u64,
}

impl Sent {
    /// Datagrams of `runs`, which were to be sent, that the kernel took.
    pub(crate) fn datagrams(&self, runs: &[Run]) -> u64 {
        let whole = runs[..self.runs].iter().map(Run::count).sum::<usize>();
        ((whole + self.partial) as u64).saturating_sub(self.lost)
    }
}

/// Where results go.
pub(crate) trait Output {
    /// A datagram for `to`: `header`, which may be empty, then `datagram`. False if the kernel did not take it.
    fn datagram(&mut self, to: SocketAddr, tos: Tos, header: &[u8], datagram: &[u8]) -> bool;
    /// A datagram that nobody may fragment.
    fn probe(&mut self, to: SocketAddr, datagram: &[u8]);
    /// Runs of datagrams in `slab`, in order.
    fn runs(&mut self, slab: &[u8], runs: &[Run]) -> Sent;
    /// One packet or super-packet for the host: virtio header, then the packet in pieces.
    fn packet(&mut self, pieces: &[IoSlice<'_>]) -> Outcome;
}
