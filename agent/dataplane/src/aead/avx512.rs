//! The AEAD for many packets at once with AVX-512: which packets go together, and in which order.
//!
//! Packets go in groups of 32. Two passes of ChaCha20, made together, give the one-time keys of all of them; further
//! passes take sixteen blocks each, whatever packets they belong to; and Poly1305 takes eight packets side by side. A
//! group is small enough to stay in the nearest caches between the two.
//!
//! Everything here is safe code on slices but the call from code that does not presume AVX-512; `lanes` has the rest.

use super::{KEY_BYTES, Packet, SIDE_BY_SIDE, TAG_BYTES};

mod chacha20;
mod lanes;
mod poly1305;
#[cfg(test)]
mod tests;

/// Packets whose one-time keys are made together.
const GROUP: usize = 32;
/// Packets that are sorted by length together; more only makes the list on the stack longer.
const WINDOW: usize = 128;

/// Whether this CPU has what the kernels need.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512ifma")
}

/// See [`super::Key::seal`]. Panics on a CPU that lacks the features.
#[expect(unsafe_code, reason = "only the CPU can tell whether it has AVX-512")]
pub(super) fn seal(key: &[u8; KEY_BYTES], slab: &mut [u8], packets: &[Packet]) {
    assert!(is_supported(), "no AVX-512 IFMA");
    // SAFETY: the CPU has the features.
    unsafe { seal_batch(key, slab, packets) }
}

/// See [`super::Key::open`]. Panics on a CPU that lacks the features.
#[expect(unsafe_code, reason = "only the CPU can tell whether it has AVX-512")]
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    slab: &mut [u8],
    packets: &[Packet],
    verified: &mut [bool],
) {
    assert!(is_supported(), "no AVX-512 IFMA");
    // SAFETY: the CPU has the features.
    unsafe { open_batch(key, slab, packets, verified) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn seal_batch(key: &[u8; KEY_BYTES], slab: &mut [u8], packets: &[Packet]) {
    let key = chacha20::key(key);
    let mut stream = chacha20::Stream::new();
    for window in packets.chunks(WINDOW) {
        let mut order = [0; WINDOW];
        for members in by_length(window, &mut order).chunks(GROUP) {
            let group = Group::new(window, members);
            let keys = chacha20::one_time_keys(&key, group.packets(), &mut stream);
            chacha20::apply(&key, slab, group.packets(), &mut stream);
            for (packets, keys) in group.packets().chunks(SIDE_BY_SIDE).zip(&keys) {
                let tags = poly1305::tags(slab, packets, keys);
                for (packet, tag) in packets.iter().zip(tags) {
                    slab[packet.end()..][..TAG_BYTES].copy_from_slice(&tag);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn open_batch(key: &[u8; KEY_BYTES], slab: &mut [u8], packets: &[Packet], verified: &mut [bool]) {
    let key = chacha20::key(key);
    let mut stream = chacha20::Stream::new();
    for (window, verified) in packets.chunks(WINDOW).zip(verified.chunks_mut(WINDOW)) {
        let mut order = [0; WINDOW];
        for members in by_length(window, &mut order).chunks(GROUP) {
            let group = Group::new(window, members);
            let keys = chacha20::one_time_keys(&key, group.packets(), &mut stream);
            let mut authentic = Group::default();
            let mut members = members.iter();
            for (packets, keys) in group.packets().chunks(SIDE_BY_SIDE).zip(&keys) {
                let tags = poly1305::tags(slab, packets, keys);
                for ((packet, tag), &member) in packets.iter().zip(tags).zip(&mut members) {
                    let found = slab[packet.end()..]
                        .first_chunk()
                        .expect("checked on entry");
                    let same = equal(&tag, found);
                    verified[usize::from(member)] = same;
                    if same {
                        authentic.push(*packet);
                    }
                }
            }
            chacha20::apply(&key, slab, authentic.packets(), &mut stream);
        }
    }
}

/// Compares without telling by its duration where the first difference is.
fn equal(a: &[u8; TAG_BYTES], b: &[u8; TAG_BYTES]) -> bool {
    u128::from_le_bytes(*a) ^ u128::from_le_bytes(*b) == 0
}

/// The members of `window` from the longest to the shortest, so that neighbours need about equally many steps.
fn by_length<'a>(window: &[Packet], order: &'a mut [u8; WINDOW]) -> &'a [u8] {
    let order = &mut order[..window.len()];
    for (index, member) in (0..).zip(order.iter_mut()) {
        *member = index;
    }
    if window.windows(2).any(|w| w[0].length < w[1].length) {
        order.sort_unstable_by_key(|&i| std::cmp::Reverse(window[usize::from(i)].length));
    }
    order
}

/// Packets that are worked on together.
struct Group {
    packets: [Packet; GROUP],
    count: usize,
}

impl Default for Group {
    fn default() -> Self {
        let nothing = Packet {
            start: 0,
            length: 0,
            counter: 0,
        };
        Self {
            packets: [nothing; GROUP],
            count: 0,
        }
    }
}

impl Group {
    fn new(window: &[Packet], members: &[u8]) -> Self {
        let mut group = Self::default();
        for &member in members {
            group.push(window[usize::from(member)]);
        }
        group
    }

    fn push(&mut self, packet: Packet) {
        self.packets[self.count] = packet;
        self.count += 1;
    }

    fn packets(&self) -> &[Packet] {
        &self.packets[..self.count]
    }
}
