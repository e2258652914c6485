//! Control messages beside a datagram (cmsg(3)), as the bytes that the kernel reads and writes.
//!
//! What they mean is for [`super::send`] and [`super::receive`] to know.

/// A header: length with it, level, kind.
const HEADER: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();
/// Each message begins at a multiple of this.
const WORD: usize = size_of::<usize>();
/// Bytes for all messages of a datagram: two that have one number each, and as much again.
const ROOM: usize = 4 * (HEADER + WORD);

/// Room for the messages of one datagram.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; ROOM]);

impl Control {
    /// Nothing in it.
    pub(super) const EMPTY: Self = Self([0; ROOM]);

    /// Appends a message behind the `used` bytes of others; the bytes that are used then. It fits: what is sent has
    /// few messages, of one number each.
    pub(super) fn push(&mut self, used: usize, level: i32, kind: i32, value: &[u8]) -> usize {
        let length = HEADER + value.len();
        let message = &mut self.0[used..];
        message[..WORD].copy_from_slice(&length.to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..length].copy_from_slice(value);
        used + length.next_multiple_of(WORD)
    }

    /// The messages in the first `used` bytes: level, kind, value. It ends at what is none.
    pub(super) fn messages(&self, used: usize) -> impl Iterator<Item = (i32, i32, &[u8])> {
        let mut rest = &self.0[..used.min(ROOM)];
        std::iter::from_fn(move || {
            let (length, fields) = rest.split_first_chunk::<WORD>()?;
            let (level, fields) = fields.split_first_chunk::<4>()?;
            let kind = fields.first_chunk::<4>()?;
            let length = usize::from_ne_bytes(*length);
            let value = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(WORD)..).unwrap_or(&[]);
            Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), value))
        })
    }

    /// What the kernel is told: where the messages are.
    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lie_as_the_c_library_has_them() {
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        let mut control = Control::EMPTY;
        assert_eq!(control.messages(0).count(), 0);
        let mut used = control.push(0, 1, 2, &[7]);
        used = control.push(used, 3, 4, &5u32.to_ne_bytes());
        let expected = [(1, 2, &[7][..]), (3, 4, &5u32.to_ne_bytes())];
        assert!(control.messages(used).eq(expected));
        assert!(
            control.messages(used - WORD).eq(expected[..1].to_vec()),
            "one was cut off"
        );
        assert_eq!(used, 2 * (HEADER + WORD));
    }

    #[test]
    fn bytes_that_are_no_messages_are_none() {
        for length in [0, 1, HEADER - 1, HEADER + 1 + ROOM, usize::MAX] {
            let mut control = Control([0xff; ROOM]);
            control.0[..WORD].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(control.messages(ROOM).count(), 0, "{length}");
            assert_eq!(control.messages(3).count(), 0, "{length}");
        }
    }
}
