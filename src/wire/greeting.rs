//! The first bytes on every connection: one greeting from the dialler, one answer.
//!
//! ```text
//!   0        4         6      8         12       16
//!   +--------+---------+------+---------+--------+------------------+
//!   | "PCCL" | version | kind | length  | CRC-32 | body             |
//!   | 4 x u8 | u16     | u16  | u32     | u32    | `length` bytes   |
//!   +--------+---------+------+---------+--------+------------------+
//! ```
//!
//! Integers are little-endian. `length` counts the body alone and is at most [`MAX_BODY_BYTES`].
//! The CRC-32 (IEEE) covers bytes 0..12 and the body. This layout is the same in every wire
//! version, so that two versions can always tell each other apart and say so; what follows the
//! greeting may change with the version. What the body means is its kind's business.

use thiserror::Error;

/// The version of everything this library writes to a connection.
pub const WIRE_VERSION: u16 = 1;

/// Bytes of a greeting before its body.
pub const HEADER_BYTES: usize = 16;

/// The longest body that is sent or taken, in bytes.
pub const MAX_BODY_BYTES: usize = 4096;

const MAGIC: [u8; 4] = *b"PCCL";
/// The part of the header that the CRC covers.
const CHECKED_BYTES: usize = 12;

/// What a connection is for, or how its greeting was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the dialler: a control connection to the master.
    Control,
    /// From the dialler: a lane, which carries segments.
    Lane,
    /// From the dialler: a transfer of shared state.
    StateTransfer,
    /// Answer: the connection is taken.
    Welcome,
    /// Answer: the connection is not taken; the body says why, in UTF-8.
    Refused,
}

impl Kind {
    /// Whether this is what the accepting side says.
    pub fn is_answer(self) -> bool {
        matches!(self, Kind::Welcome | Kind::Refused)
    }

    fn to_wire(self) -> u16 {
        match self {
            Kind::Control => 1,
            Kind::Lane => 2,
            Kind::StateTransfer => 3,
            Kind::Welcome => 0x81,
            Kind::Refused => 0x82,
        }
    }

    fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Kind::Control,
            2 => Kind::Lane,
            3 => Kind::StateTransfer,
            0x81 => Kind::Welcome,
            0x82 => Kind::Refused,
            _ => return None,
        })
    }
}

/// A greeting, or the answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What the connection is for, or how the greeting was taken.
    pub kind: Kind,
    /// At most [`MAX_BODY_BYTES`] bytes; a reason in UTF-8 where the kind is [`Kind::Refused`].
    pub body: Vec<u8>,
}

impl Greeting {
    /// The bytes to send; fails only where the body is too long.
    pub fn encode(&self) -> Result<Vec<u8>, GreetingError> {
        encode(self.kind, &self.body)
    }

    /// Reads a whole greeting: nothing may be missing, nothing may follow.
    pub fn decode(bytes: &[u8]) -> Result<Self, GreetingError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(GreetingError::Length {
                expected: HEADER_BYTES,
                actual: bytes.len(),
            });
        };
        let header = Header::decode(header)?;
        header.check_len(body)?;
        header.finish(body.to_vec())
    }
}

/// The bytes of a greeting; fails only where the body is too long.
pub fn encode(kind: Kind, body: &[u8]) -> Result<Vec<u8>, GreetingError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(GreetingError::TooLong {
            length: body.len() as u64,
        });
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&WIRE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&kind.to_wire().to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = checksum(&bytes, body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// The first 16 bytes, checked as far as they can be without the body: read these, then
/// [`body_len`](Self::body_len) bytes, then [`finish`](Self::finish).
#[derive(Clone, Debug)]
pub struct Header {
    kind: Kind,
    length: usize,
    checked: [u8; CHECKED_BYTES],
    crc: u32,
}

impl Header {
    /// Checks magic, version, length and kind, in this order.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, GreetingError> {
        let [
            m0,
            m1,
            m2,
            m3,
            v0,
            v1,
            k0,
            k1,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(GreetingError::Magic);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != WIRE_VERSION {
            return Err(GreetingError::Version {
                ours: WIRE_VERSION,
                theirs: version,
            });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_BODY_BYTES {
            return Err(GreetingError::TooLong {
                length: length.into(),
            });
        }
        let number = u16::from_le_bytes([k0, k1]);
        let kind = Kind::from_wire(number).ok_or(GreetingError::Kind(number))?;
        Ok(Self {
            kind,
            length: length as usize,
            checked: [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3],
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// Bytes of body that follow, at most [`MAX_BODY_BYTES`].
    pub fn body_len(&self) -> usize {
        self.length
    }

    /// Checks the CRC over header and body and makes the greeting of them.
    pub fn finish(self, body: Vec<u8>) -> Result<Greeting, GreetingError> {
        self.check_len(&body)?;
        if checksum(&self.checked, &body) != self.crc {
            return Err(GreetingError::Checksum);
        }
        Ok(Greeting {
            kind: self.kind,
            body,
        })
    }

    fn check_len(&self, body: &[u8]) -> Result<(), GreetingError> {
        if body.len() == self.length {
            return Ok(());
        }
        Err(GreetingError::Length {
            expected: HEADER_BYTES + self.length,
            actual: HEADER_BYTES + body.len(),
        })
    }
}

/// Why bytes are no greeting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GreetingError {
    /// Something else is talking: a scanner, a browser, another protocol.
    #[error("does not speak this protocol")]
    Magic,
    /// The two sides speak different versions.
    #[error("wire version {theirs} there, {ours} here")]
    Version {
        /// This side's.
        ours: u16,
        /// The other side's.
        theirs: u16,
    },
    /// The body is longer than any greeting's.
    #[error("greeting of {length} bytes, at most {MAX_BODY_BYTES} are taken")]
    TooLong {
        /// The length that was claimed.
        length: u64,
    },
    /// A kind that this version does not have.
    #[error("unknown kind of greeting {0:#06x}")]
    Kind(u16),
    /// The bytes were damaged on their way.
    #[error("greeting with a wrong CRC-32")]
    Checksum,
    /// Bytes are missing, or follow.
    #[error("greeting of {actual} bytes where {expected} were announced")]
    Length {
        /// Header and body, in bytes, as announced.
        expected: usize,
        /// What was given.
        actual: usize,
    },
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 5] = [
        Kind::Control,
        Kind::Lane,
        Kind::StateTransfer,
        Kind::Welcome,
        Kind::Refused,
    ];

    fn lane(body: &[u8]) -> Vec<u8> {
        encode(Kind::Lane, body).unwrap()
    }

    #[test]
    fn bytes_on_the_wire_stay_as_they_are() {
        let golden = [
            b'P', b'C', b'C', b'L', 1, 0, 2, 0, 3, 0, 0, 0, 0xe0, 0x47, 0x49, 0x45, b'a', b'b',
            b'c',
        ];
        assert_eq!(lane(b"abc"), golden);
    }

    #[test]
    fn another_version_is_named_beside_ours() {
        let mut bytes = lane(b"abc");
        bytes[4..6].copy_from_slice(&7u16.to_le_bytes());
        let error = Greeting::decode(&bytes).unwrap_err();
        assert_eq!(error, GreetingError::Version { ours: 1, theirs: 7 });
        assert_eq!(error.to_string(), "wire version 7 there, 1 here");
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_by_the_header_alone() {
        let mut bytes = lane(b"");
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = Header::decode(bytes.first_chunk().unwrap()).unwrap_err();
        assert_eq!(
            error,
            GreetingError::TooLong {
                length: 0xffff_ffff
            }
        );
    }

    #[test]
    fn a_body_beyond_the_bound_is_not_encoded() {
        assert!(encode(Kind::Lane, &[0; MAX_BODY_BYTES]).is_ok());
        assert!(encode(Kind::Lane, &[0; MAX_BODY_BYTES + 1]).is_err());
    }

    #[test]
    fn other_protocols_and_unknown_kinds_are_told_apart() {
        let other = Greeting::decode(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(other, Err(GreetingError::Magic));
        let mut bytes = lane(b"");
        bytes[6] = 99;
        assert_eq!(Greeting::decode(&bytes), Err(GreetingError::Kind(99)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            kind in 0..KINDS.len(),
            body in prop::collection::vec(any::<u8>(), 0..=MAX_BODY_BYTES),
        ) {
            let greeting = Greeting { kind: KINDS[kind], body };
            prop_assert_eq!(Greeting::decode(&greeting.encode().unwrap()), Ok(greeting));
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(
            start in 0..=HEADER_BYTES,
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            // A good beginning, so that the later checks are reached as well.
            let mut all = lane(&[])[..start].to_vec();
            all.extend(bytes);
            let _ = Greeting::decode(&all);
        }

        #[test]
        fn one_flipped_bit_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..64),
            place: prop::sample::Index,
            bit in 0..8u32,
        ) {
            let mut bytes = lane(&body);
            let place = place.index(bytes.len());
            bytes[place] ^= 1u8 << bit;
            prop_assert!(Greeting::decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_greeting_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..64),
            cut: prop::sample::Index,
        ) {
            let bytes = lane(&body);
            prop_assert!(Greeting::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
