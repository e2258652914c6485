//! Frames on a stream: four bytes of length, big endian, then that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest payload of a frame, in bytes: the view of a hub fits that has 1,000 agencies of 3,500 bytes each,
/// most of it what they signed.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Bytes of the length in front of the payload.
pub const HEADER_BYTES: usize = 4;

/// Why a frame was refused.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_BYTES`]; judged before anything is allocated.
    #[error("a frame of {0} bytes is longer than {MAX_FRAME_BYTES}")]
    TooLong(usize),
    /// The payload is not the message that was expected.
    #[error("a frame cannot be read: {0}")]
    Malformed(#[source] serde_json::Error),
}

/// The frame that carries `message`.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Malformed)?;
    let length = bytes.len() - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(header) if length <= MAX_FRAME_BYTES => {
            bytes[..HEADER_BYTES].copy_from_slice(&header.to_be_bytes())
        }
        _ => return Err(FrameError::TooLong(length)),
    }
    Ok(bytes)
}

/// Length of the payload that follows `header`, within bounds.
pub fn payload_length(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME_BYTES {
        Err(FrameError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// The message in `payload`.
pub fn decode<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    serde_json::from_slice(payload).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_and_bounds_hold() {
        let frame = encode(&vec![1, 2, 3]).unwrap();
        let (header, payload) = frame.split_first_chunk().unwrap();
        assert_eq!(payload_length(*header).unwrap(), payload.len());
        assert_eq!(decode::<Vec<u8>>(payload).unwrap(), [1, 2, 3]);

        assert!(matches!(
            encode(&"x".repeat(MAX_FRAME_BYTES)),
            Err(FrameError::TooLong(_))
        ));
        assert!(matches!(
            payload_length([0xff; 4]),
            Err(FrameError::TooLong(_))
        ));
        assert!(decode::<Vec<u8>>(b"{").is_err());
        assert!(decode::<Vec<u8>>(b"").is_err());
    }
}
