//! How a control message lies in the byte stream.
//!
//! ```text
//! offset  size  field
//!      0     4  length of the body in bytes, little endian, at most 16 MiB
//!      4     4  CRC-32 of the body, little endian
//!      8     n  body: a `Frame` with its field numbers
//! ```

use super::DecodeError;

/// Bytes before the body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// The largest body that is taken: a presentation of a hundred thousand tensors fits.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// The header of a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the body.
    pub len_bytes: usize,
    checksum: u32,
}

impl FrameHeader {
    /// Reads a header; a length over the limit is refused before memory is taken for it.
    pub fn decode(bytes: [u8; FRAME_HEADER_BYTES]) -> Result<Self, DecodeError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let len_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        if len_bytes > MAX_FRAME_BYTES {
            return Err(DecodeError::TooLong {
                len_bytes,
                limit_bytes: MAX_FRAME_BYTES,
            });
        }
        Ok(Self {
            len_bytes,
            checksum: u32::from_le_bytes([e, f, g, h]),
        })
    }

    /// Whether this is the body that the header was written for.
    pub fn check(&self, body: &[u8]) -> Result<(), DecodeError> {
        if body.len() == self.len_bytes && crc32fast::hash(body) == self.checksum {
            Ok(())
        } else {
            Err(DecodeError::Checksum)
        }
    }

    /// Header and body as they go over the wire.
    pub fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }
}
