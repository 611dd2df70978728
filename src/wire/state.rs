//! Shared-state transfer on the wire: the receiver opens a connection, says its greeting (elsewhere),
//! and then, all numbers little-endian:
//!
//! ```text
//! request, receiver -> holder: 24 + 4 * count + 4 bytes
//!
//!   0        4         5            8               16          20          24
//!   +--------+---------+------------+---------------+-----------+-----------+
//!   | "PCRQ" | version | zero (3)   | round (8)     | count (4) | crc32 (4) |  of bytes 0..20
//!   +--------+---------+------------+---------------+-----------+-----------+
//!   | index (4), ascending, count times             | crc32 (4) |  of the indices
//!   +-----------------------------------------------+-----------+
//!
//! answer, holder -> receiver, for each index in the order of the request: 32 + len bytes
//!
//!   0        4         5        6      8         16        24          28          32
//!   +--------+---------+--------+------+---------+---------+-----------+-----------+
//!   | "PCST" | version | status | zero | round   | len (8) | index (4) | crc32 (4) |  of 0..28
//!   +--------+---------+--------+------+---------+---------+-----------+-----------+
//!   | the raw bytes of the tensor, len of them; none unless status is 0            |
//!   +------------------------------------------------------------------------------+
//! ```
//!
//! A status other than 0 says why there is nothing and is the last the holder sends. The bytes of
//! tensors carry no check of their own: the receiver hashes what it got against the elected digest.

use thiserror::Error;

/// Version of this layout.
pub const VERSION: u8 = 1;
/// The most tensors a shared state can have; bounds what a request can make a holder keep.
pub const MAX_TENSORS: u32 = 65_536;
/// Bytes of the fixed part of a request.
pub const REQUEST_HEADER_BYTES: usize = 24;
/// Bytes of the header before each tensor.
pub const ANSWER_HEADER_BYTES: usize = 32;

const REQUEST_MAGIC: [u8; 4] = *b"PCRQ";
const ANSWER_MAGIC: [u8; 4] = *b"PCST";
const INDEX_BYTES: usize = 4;
const CRC_BYTES: usize = 4;

/// Why bytes are not a message. The answer to each is a closed connection and a log line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Something else is talking, or the stream is out of step.
    #[error("magic {found:02x?} where {wanted:02x?} belongs")]
    Magic {
        /// What belongs there.
        wanted: [u8; 4],
        /// What was there.
        found: [u8; 4],
    },
    /// Another version of the layout.
    #[error("state transfer version {theirs}, where this side speaks {ours}", ours = VERSION)]
    Version {
        /// What the other side speaks.
        theirs: u8,
    },
    /// The bytes were changed on the way.
    #[error("CRC-32 {found:08x}, computed {computed:08x}")]
    Crc {
        /// As carried.
        found: u32,
        /// Over what arrived.
        computed: u32,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A status that does not exist.
    #[error("unknown status {found}")]
    Status {
        /// Its number.
        found: u8,
    },
    /// A refusal that claims to carry bytes.
    #[error("a refusal with a length of {len} bytes")]
    RefusalWithBytes {
        /// The length it claims.
        len: u64,
    },
    /// A request for nothing, or for more than a state can have.
    #[error("a request for {count} tensors, where 1 to {max} are allowed", max = MAX_TENSORS)]
    Count {
        /// How many it asks for.
        count: u32,
    },
    /// The indices repeat or are out of order.
    #[error("index {index} is not above the one before it")]
    Order {
        /// The first that is not.
        index: u32,
    },
    /// The body is not as long as its header says.
    #[error("{found} bytes of indices, where the header says {wanted}")]
    BodyLength {
        /// As the header says.
        wanted: usize,
        /// As given.
        found: usize,
    },
}

/// The fixed part of a request: which sync it belongs to and how many indices follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The sync round, as the master numbered it.
    pub round: u64,
    /// How many indices follow.
    pub count: u32,
}

impl RequestHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; REQUEST_HEADER_BYTES] {
        let mut bytes = [0; REQUEST_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC);
        bytes[4] = VERSION;
        bytes[8..16].copy_from_slice(&self.round.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// The header in these bytes. The count is within bounds.
    pub fn decode(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Result<Self, DecodeError> {
        open(bytes, REQUEST_MAGIC)?;
        if bytes[5..8] != [0; 3] {
            return Err(DecodeError::Reserved);
        }
        let count = u32::from_le_bytes(array(bytes, 16));
        check_count(count)?;
        let round = u64::from_le_bytes(array(bytes, 8));
        Ok(Self { round, count })
    }

    /// Bytes that follow the header: the indices and their CRC-32.
    pub fn body_bytes(&self) -> usize {
        self.count as usize * INDEX_BYTES + CRC_BYTES
    }

    /// The indices in the body of this request: ascending, as many as the header says.
    pub fn decode_body(&self, body: &[u8]) -> Result<Vec<u32>, DecodeError> {
        let (wanted, found) = (self.body_bytes(), body.len());
        if found != wanted {
            return Err(DecodeError::BodyLength { wanted, found });
        }
        let (indices, crc) = body.split_at(wanted - CRC_BYTES);
        check_crc(indices, u32::from_le_bytes(array(crc, 0)))?;
        let indices: Vec<u32> = indices
            .chunks_exact(INDEX_BYTES)
            .map(|index| u32::from_le_bytes(array(index, 0)))
            .collect();
        check_order(&indices)?;
        Ok(indices)
    }
}

/// A whole request for these tensors, which must be ascending and within bounds.
pub fn encode_request(round: u64, indices: &[u32]) -> Result<Vec<u8>, DecodeError> {
    let count = u32::try_from(indices.len()).unwrap_or(u32::MAX);
    check_count(count)?;
    check_order(indices)?;
    let header = RequestHeader { round, count };
    let mut bytes = Vec::with_capacity(REQUEST_HEADER_BYTES + header.body_bytes());
    bytes.extend_from_slice(&header.encode());
    for index in indices {
        bytes.extend_from_slice(&index.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[REQUEST_HEADER_BYTES..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// What an answer header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// The bytes of the tensor follow.
    Data = 0,
    /// The holder is in no sync, or may not send in this one.
    NotDistributing = 1,
    /// The holder has no tensor with this index.
    UnknownIndex = 2,
    /// The holder is in another round of the sync.
    OtherRound = 3,
}

impl Status {
    fn from_number(number: u8) -> Option<Status> {
        [
            Status::Data,
            Status::NotDistributing,
            Status::UnknownIndex,
            Status::OtherRound,
        ]
        .get(usize::from(number))
        .copied()
    }
}

/// The header before each tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHeader {
    /// Whether bytes follow, and if not, why.
    pub status: Status,
    /// The round of the holder; 0 where it is in none.
    pub round: u64,
    /// Which tensor.
    pub index: u32,
    /// How many bytes follow; 0 unless the status is `Data`.
    pub len: u64,
}

impl AnswerHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; ANSWER_HEADER_BYTES] {
        let mut bytes = [0; ANSWER_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&ANSWER_MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.status as u8;
        bytes[8..16].copy_from_slice(&self.round.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.index.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// The header in these bytes. Whether `len` is what the receiver expects is for it to say,
    /// before it takes any memory.
    pub fn decode(bytes: &[u8; ANSWER_HEADER_BYTES]) -> Result<Self, DecodeError> {
        open(bytes, ANSWER_MAGIC)?;
        if bytes[6..8] != [0; 2] {
            return Err(DecodeError::Reserved);
        }
        let found = bytes[5];
        let status = Status::from_number(found).ok_or(DecodeError::Status { found })?;
        let len = u64::from_le_bytes(array(bytes, 16));
        if status != Status::Data && len != 0 {
            return Err(DecodeError::RefusalWithBytes { len });
        }
        Ok(Self {
            status,
            round: u64::from_le_bytes(array(bytes, 8)),
            index: u32::from_le_bytes(array(bytes, 24)),
            len,
        })
    }
}

/// Writes the CRC-32 of a header into its last four bytes.
fn seal(header: &mut [u8]) {
    let (fields, crc) = header.split_at_mut(header.len() - CRC_BYTES);
    crc.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
}

/// Magic first, so that a stranger is named as such; then the version, so that another layout is
/// not taken for a damaged one; then the CRC-32.
fn open(header: &[u8], wanted: [u8; 4]) -> Result<(), DecodeError> {
    let found = array(header, 0);
    if found != wanted {
        return Err(DecodeError::Magic { wanted, found });
    }
    let theirs = header[4];
    if theirs != VERSION {
        return Err(DecodeError::Version { theirs });
    }
    let (fields, crc) = header.split_at(header.len() - CRC_BYTES);
    check_crc(fields, u32::from_le_bytes(array(crc, 0)))
}

fn check_crc(bytes: &[u8], found: u32) -> Result<(), DecodeError> {
    let computed = crc32fast::hash(bytes);
    if found == computed {
        Ok(())
    } else {
        Err(DecodeError::Crc { found, computed })
    }
}

fn check_count(count: u32) -> Result<(), DecodeError> {
    if (1..=MAX_TENSORS).contains(&count) {
        Ok(())
    } else {
        Err(DecodeError::Count { count })
    }
}

fn check_order(indices: &[u32]) -> Result<(), DecodeError> {
    match indices.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(DecodeError::Order { index: pair[1] }),
        None => Ok(()),
    }
}

/// `N` bytes from `at` on; the callers' lengths are fixed by their types.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_these_bytes() {
        let bytes = encode_request(0x0102_0304_0506_0708, &[0, 7, 300]).unwrap();
        assert_eq!(
            hex(&bytes),
            "50435251 01000000 08070605 04030201 03000000 d87e9779 \
             00000000 07000000 2c010000 c7b5369a"
        );
    }

    #[test]
    fn an_answer_has_these_bytes() {
        let header = AnswerHeader {
            status: Status::Data,
            round: 5,
            index: 7,
            len: 0x1_0000_0002,
        };
        assert_eq!(
            hex(&header.encode()),
            "50435354 01000000 05000000 00000000 02000000 01000000 07000000 e053d674"
        );
    }

    #[test]
    fn a_request_for_too_much_is_refused_before_its_body_is_read() {
        for count in [0, MAX_TENSORS + 1, u32::MAX] {
            let bytes = RequestHeader { round: 1, count }.encode();
            assert_eq!(
                RequestHeader::decode(&bytes),
                Err(DecodeError::Count { count })
            );
        }
    }

    #[test]
    fn indices_that_repeat_are_refused() {
        assert_eq!(
            encode_request(1, &[3, 3]),
            Err(DecodeError::Order { index: 3 })
        );
        assert_eq!(encode_request(1, &[]), Err(DecodeError::Count { count: 0 }));
    }

    #[test]
    fn another_version_is_named_even_though_its_crc_may_lie_elsewhere() {
        let mut bytes = RequestHeader { round: 1, count: 1 }.encode();
        bytes[4] = 9;
        assert_eq!(
            RequestHeader::decode(&bytes),
            Err(DecodeError::Version { theirs: 9 })
        );
    }

    #[test]
    fn a_refusal_carries_no_bytes() {
        let header = AnswerHeader {
            status: Status::OtherRound,
            round: 5,
            index: 7,
            len: 1,
        };
        assert_eq!(
            AnswerHeader::decode(&header.encode()),
            Err(DecodeError::RefusalWithBytes { len: 1 })
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            round: u64,
            index: u32,
            len: u64,
            status in 0u8..4,
            indices in proptest::collection::btree_set(any::<u32>(), 1..50),
        ) {
            let status = Status::from_number(status).unwrap();
            let len = if status == Status::Data { len } else { 0 };
            let answer = AnswerHeader { status, round, index, len };
            prop_assert_eq!(AnswerHeader::decode(&answer.encode()), Ok(answer));

            let indices: Vec<u32> = indices.into_iter().collect();
            let bytes = encode_request(round, &indices).unwrap();
            let (header, body) = bytes.split_first_chunk().unwrap();
            let header = RequestHeader::decode(header).unwrap();
            prop_assert_eq!(header.round, round);
            prop_assert_eq!(header.decode_body(body), Ok(indices));
        }

        #[test]
        fn one_changed_bit_is_noticed(bit in 0..(REQUEST_HEADER_BYTES + 16) * 8, bit_2 in 0..256usize) {
            let mut bytes = encode_request(77, &[1, 2, 9]).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (header, body) = bytes.split_first_chunk().unwrap();
            prop_assert!(RequestHeader::decode(header).and_then(|h| h.decode_body(body)).is_err());

            let answer = AnswerHeader { status: Status::Data, round: 1, index: 2, len: 3 };
            let mut bytes = answer.encode();
            bytes[bit_2 / 8] ^= 1 << (bit_2 % 8);
            prop_assert!(AnswerHeader::decode(&bytes).is_err());
        }

        #[test]
        fn garbage_never_panics(header: [u8; 32], body: Vec<u8>, count in 1..=MAX_TENSORS) {
            let _ = AnswerHeader::decode(&header);
            let (short, _) = header.split_first_chunk().unwrap();
            let _ = RequestHeader::decode(short);
            let _ = RequestHeader { round: 0, count }.decode_body(&body);
        }
    }

    fn hex(bytes: &[u8]) -> String {
        let words: Vec<String> = bytes
            .chunks(4)
            .map(|word| word.iter().map(|b| format!("{b:02x}")).collect())
            .collect();
        words.join(" ")
    }
}
