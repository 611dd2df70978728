//! Frames of a data lane. A frame is a fixed header, all numbers little-endian:
//!
//! ```text
//!  0        4    5    6        8            12           16                  24
//!  +--------+----+----+--------+------------+------------+-------------------+
//!  | "PCLF" | v. |kind|  step  | epoch term | epoch count|        tag        |
//!  +--------+----+----+--------+------------+------------+-------------------+
//!  24       28        32       36           40                  48
//!  +--------+---------+--------+------------+-------------------+
//!  |   n    | segment |  len   | flags (0)  | descriptor digest |
//!  +--------+---------+--------+------------+-------------------+
//!  48                  56           60
//!  +-------------------+------------+
//!  |       acked       | CRC-32 of bytes 0..56
//!  +-------------------+------------+
//! ```
//!
//! | kind | means | uses |
//! | --- | --- | --- |
//! | 1 data | one segment follows: `len` bytes, then the trailer | all fields |
//! | 2 grant | "my caller has called: send all of this operation" | epoch, tag, n |
//! | 3 ack | carries `acked` alone; says that bytes arrive | acked |
//! | 4 keep-alive | "are you there?": answered at once, with any frame | acked |
//!
//! `acked` counts the data and grant frames taken from this lane in the other direction.
//!
//! The trailer of 4 bytes says whether the payload is what the header promised. Memory that goes
//! back to its owner while a frame is half sent leaves a spoiled one: the rest is filler, and the
//! receiver takes nothing of it.

use thiserror::Error;

use crate::types::{Epoch, OperationId, Tag};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 60;
/// Bytes that follow the payload of a data frame.
pub const TRAILER_BYTES: usize = 4;
/// Trailer of a payload that is what the header promised.
pub const TRAILER_WHOLE: [u8; TRAILER_BYTES] = *b"whol";
/// Trailer of a payload to be dropped.
pub const TRAILER_SPOILED: [u8; TRAILER_BYTES] = *b"spoi";
/// The longest payload. A header that promises more is refused before memory is taken.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// The version of the layout above.
pub const LANE_VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"PCLF";
const CRC_OFFSET: usize = HEADER_BYTES - 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A segment of an operation.
    Data = 1,
    /// Leave to send beyond the eager amount.
    Grant = 2,
    /// An acknowledgement by itself. Not answered.
    Ack = 3,
    /// Asks for a sign of life.
    KeepAlive = 4,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameKind,
    /// The operation it belongs to.
    pub operation: OperationId,
    /// The hop number.
    pub step: u16,
    /// The index of the segment in its chunk.
    pub segment: u32,
    /// Bytes of the payload, without the trailer.
    pub len: u32,
    /// Digest of the operation's descriptor.
    pub digest: u64,
    /// Data and grant frames taken from this lane in the other direction.
    pub acked: u64,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// They do not begin like one.
    #[error("not a lane frame (begins with {0:02x?})")]
    Magic([u8; 4]),
    /// The other side speaks another version.
    #[error("lane version {0}, ours is {LANE_VERSION}")]
    Version(u8),
    /// The checksum does not fit.
    #[error("header checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// As received.
        found: u32,
        /// Of what was received.
        computed: u32,
    },
    /// Nobody knows this kind.
    #[error("frame kind {0}")]
    Kind(u8),
    /// A later version may use them.
    #[error("frame flags {0:#x}")]
    Flags(u32),
    /// More than [`PAYLOAD_BYTES_MAX`], or a payload where none belongs, or none where one does.
    #[error("payload of {0} bytes")]
    Len(u32),
}

impl FrameHeader {
    /// A header that names nothing but its kind and the count of frames taken.
    pub fn bare(kind: FrameKind, acked: u64) -> FrameHeader {
        let operation = OperationId {
            epoch: Epoch::default(),
            tag: Tag(0),
            n: 0,
        };
        FrameHeader {
            kind,
            operation,
            step: 0,
            segment: 0,
            len: 0,
            digest: 0,
            acked,
        }
    }

    /// The bytes that go over the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        let mut rest = &mut bytes[..];
        let mut put = |field: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        };
        put(&MAGIC);
        put(&[LANE_VERSION, self.kind as u8]);
        put(&self.step.to_le_bytes());
        put(&self.operation.epoch.term.to_le_bytes());
        put(&self.operation.epoch.count.to_le_bytes());
        put(&self.operation.tag.0.to_le_bytes());
        put(&self.operation.n.to_le_bytes());
        put(&self.segment.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&0u32.to_le_bytes());
        put(&self.digest.to_le_bytes());
        put(&self.acked.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header. Whatever the bytes are, this returns, and promises no payload beyond
    /// [`PAYLOAD_BYTES_MAX`].
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, HeaderError> {
        let magic = field(bytes, 0);
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        if bytes[4] != LANE_VERSION {
            return Err(HeaderError::Version(bytes[4]));
        }
        let found = u32::from_le_bytes(field(bytes, CRC_OFFSET));
        let computed = crc32fast::hash(&bytes[..CRC_OFFSET]);
        if found != computed {
            return Err(HeaderError::Checksum { found, computed });
        }
        let kind = match bytes[5] {
            1 => FrameKind::Data,
            2 => FrameKind::Grant,
            3 => FrameKind::Ack,
            4 => FrameKind::KeepAlive,
            other => return Err(HeaderError::Kind(other)),
        };
        let len = u32::from_le_bytes(field(bytes, 32));
        if len > PAYLOAD_BYTES_MAX || (len > 0) != (kind == FrameKind::Data) {
            return Err(HeaderError::Len(len));
        }
        let flags = u32::from_le_bytes(field(bytes, 36));
        if flags != 0 {
            return Err(HeaderError::Flags(flags));
        }
        let epoch = Epoch {
            term: u32::from_le_bytes(field(bytes, 8)),
            count: u32::from_le_bytes(field(bytes, 12)),
        };
        let tag = Tag(u64::from_le_bytes(field(bytes, 16)));
        let n = u32::from_le_bytes(field(bytes, 24));
        Ok(FrameHeader {
            kind,
            operation: OperationId { epoch, tag, n },
            step: u16::from_le_bytes(field(bytes, 6)),
            segment: u32::from_le_bytes(field(bytes, 28)),
            len,
            digest: u64::from_le_bytes(field(bytes, 40)),
            acked: u64::from_le_bytes(field(bytes, 48)),
        })
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> FrameHeader {
        let operation = OperationId {
            epoch: Epoch {
                term: 0x0201,
                count: 3,
            },
            tag: Tag(0x1122),
            n: 5,
        };
        let (step, segment, len) = (6, 7, 0x10_0000);
        let (digest, acked) = (0x0807_0605_0403_0201, 9);
        FrameHeader {
            kind: FrameKind::Data,
            operation,
            step,
            segment,
            len,
            digest,
            acked,
        }
    }

    /// Changes bytes behind the checksum's back, and mends the checksum.
    fn altered(change: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
        let mut bytes = header().encode();
        change(&mut bytes);
        let crc = crc32fast::hash(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_the_drawing() {
        let expected = [
            "50434c46 01 01 0600", // magic, version, kind, step
            "01020000 03000000",   // epoch
            "2211000000000000",    // tag
            "05000000 07000000",   // n, segment
            "00001000 00000000",   // len, flags
            "0102030405060708",    // digest
            "0900000000000000",    // acked
        ];
        let hex: String = expected.concat().replace(' ', "");
        let bytes = header().encode();
        let found: String = bytes[..CRC_OFFSET]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(found, hex);
        assert_eq!(bytes[CRC_OFFSET..], GOLDEN_CRC);
        assert_eq!(FrameHeader::decode(&bytes), Ok(header()));
    }

    /// As another implementation of CRC-32 computes it.
    const GOLDEN_CRC: [u8; 4] = [252, 165, 81, 118];

    #[test]
    fn every_field_is_checked() {
        let decode = |bytes| FrameHeader::decode(&bytes);
        let mut flipped = header().encode();
        flipped[20] ^= 1;
        assert!(matches!(decode(flipped), Err(HeaderError::Checksum { .. })));
        assert!(matches!(
            decode(altered(|b| b[0] = 0)),
            Err(HeaderError::Magic(_))
        ));
        assert_eq!(decode(altered(|b| b[4] = 2)), Err(HeaderError::Version(2)));
        assert_eq!(decode(altered(|b| b[5] = 0)), Err(HeaderError::Kind(0)));
        assert_eq!(decode(altered(|b| b[36] = 1)), Err(HeaderError::Flags(1)));
        let too_long = altered(|b| b[32] = 1);
        assert_eq!(
            decode(too_long),
            Err(HeaderError::Len(PAYLOAD_BYTES_MAX + 1))
        );
        assert_eq!(decode(altered(|b| b[34] = 0)), Err(HeaderError::Len(0)));
        assert_eq!(
            decode(altered(|b| b[5] = 2)),
            Err(HeaderError::Len(PAYLOAD_BYTES_MAX))
        );
    }

    #[test]
    fn bare_headers_come_back() {
        for kind in [FrameKind::Grant, FrameKind::Ack, FrameKind::KeepAlive] {
            let header = FrameHeader::bare(kind, u64::MAX);
            assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES),
            mended in any::<bool>(),
        ) {
            if mended {
                bytes[..6].copy_from_slice(&header().encode()[..6]);
                let crc = crc32fast::hash(&bytes[..CRC_OFFSET]);
                bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(header) = FrameHeader::decode(&bytes.try_into().unwrap()) {
                prop_assert!(header.len <= PAYLOAD_BYTES_MAX);
            }
        }
    }
}
