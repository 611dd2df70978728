//! The nouns every room shares: ids, numbers, element types. No behaviour beyond arithmetic.

mod quantization;

use std::fmt;
use std::time::Duration;

pub use quantization::{
    Distribution, Quantization, QuantizationPath, QuantizationScheme, Rounding,
};

/// A moment on the clock that the caller of a state machine passes in, counted from any fixed
/// start. The pure rooms never read a clock themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The moment `since_start` after the start of the clock.
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time since the start of the clock.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(rhs))
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One membership of one process. Given by the master at registration, never reused in a
    /// run: a process that comes back is a new peer.
    PeerId(u64)
}
number! {
    /// The peers that reduce together and share state (`peer_group` in the C API).
    GroupId(u32)
}
number! {
    /// Position of a peer in the ring of its group, in one epoch.
    Rank(u32)
}
number! {
    /// The caller's name for an operation, unique among the operations in flight.
    Tag(u64)
}
number! {
    /// Version of the shared state. Advances by one with each committed sync.
    Revision(u64)
}
number! {
    /// A run: all that happens from the first peer of a master to its end. Random, so that a
    /// peer of another run is recognised.
    RunId(u64)
}

/// One membership and wiring, numbered by the master's term and a count within it.
///
/// Rises with every join, loss or re-wiring and is never reused; ordered by term first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// The term of the master that made it.
    pub term: u32,
    /// Its number within the term; one count for all groups.
    pub count: u32,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.count)
    }
}

/// The number of an operation: every frame that belongs to it carries this triple.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId {
    /// The epoch in which it runs.
    pub epoch: Epoch,
    /// The caller's name for it.
    pub tag: Tag,
    /// How many uses of the tag were settled in this epoch before it.
    pub n: u32,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(epoch {}, tag {}, n {})", self.epoch, self.tag, self.n)
    }
}

/// Type of the elements of a buffer.
///
/// The numbers are those of `pcclDataType_t`, and go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum DataType {
    U8 = 0,
    I8 = 1,
    I16 = 2,
    U16 = 3,
    U32 = 4,
    I32 = 5,
    U64 = 6,
    I64 = 7,
    F16 = 8,
    BF16 = 9,
    F32 = 10,
    F64 = 11,
}

impl DataType {
    /// Every type, in the order of their numbers.
    pub const ALL: [DataType; 12] = [
        DataType::U8,
        DataType::I8,
        DataType::I16,
        DataType::U16,
        DataType::U32,
        DataType::I32,
        DataType::U64,
        DataType::I64,
        DataType::F16,
        DataType::BF16,
        DataType::F32,
        DataType::F64,
    ];

    /// Those that are floats.
    pub(crate) const FLOATS: [DataType; 4] =
        [DataType::F16, DataType::BF16, DataType::F32, DataType::F64];

    /// The type with this number.
    pub fn from_number(number: u32) -> Option<DataType> {
        Self::ALL.get(number as usize).copied()
    }

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            DataType::U8 | DataType::I8 => 1,
            DataType::I16 | DataType::U16 | DataType::F16 | DataType::BF16 => 2,
            DataType::U32 | DataType::I32 | DataType::F32 => 4,
            DataType::U64 | DataType::I64 | DataType::F64 => 8,
        }
    }

    /// The lower-case name used in command lines and messages, such as `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::U8 => "u8",
            DataType::I8 => "i8",
            DataType::I16 => "i16",
            DataType::U16 => "u16",
            DataType::U32 => "u32",
            DataType::I32 => "i32",
            DataType::U64 => "u64",
            DataType::I64 => "i64",
            DataType::F16 => "f16",
            DataType::BF16 => "bf16",
            DataType::F32 => "f32",
            DataType::F64 => "f64",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the contributions are combined. The numbers are those of `pcclRedOp_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReduceOp {
    /// Sum; integers wrap.
    #[default]
    Sum = 0,
    /// Sum divided by the world size; integers truncate towards zero.
    Avg = 1,
    /// Product; integers wrap.
    Prod = 2,
    /// Largest; NaN if any contribution is NaN.
    Max = 3,
    /// Smallest; NaN if any contribution is NaN.
    Min = 4,
}

impl ReduceOp {
    /// Every operation, in the order of their numbers.
    pub const ALL: [ReduceOp; 5] = [
        ReduceOp::Sum,
        ReduceOp::Avg,
        ReduceOp::Prod,
        ReduceOp::Max,
        ReduceOp::Min,
    ];

    /// The operation with this number.
    pub fn from_number(number: u32) -> Option<ReduceOp> {
        Self::ALL.get(number as usize).copied()
    }

    /// The lower-case name used in command lines and messages, such as `sum`.
    pub const fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Avg => "avg",
            ReduceOp::Prod => "prod",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
        }
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operation is: all peers must mean the same under one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Elements in the buffer.
    pub count: u64,
    /// Their type.
    pub data_type: DataType,
    /// How contributions are combined.
    pub op: ReduceOp,
    /// How they are quantized on their way, if they are.
    pub quantization: Option<Quantization>,
}

impl Descriptor {
    /// Of an operation whose elements travel as they are.
    pub fn plain(count: u64, data_type: DataType, op: ReduceOp) -> Descriptor {
        Descriptor {
            count,
            data_type,
            op,
            quantization: None,
        }
    }

    /// Bytes of the whole buffer.
    pub fn len_bytes(&self) -> u64 {
        self.count
            .saturating_mul(self.data_type.size_bytes() as u64)
    }

    /// A short digest that travels with the data, so that a peer that means something else is
    /// noticed before its bytes are taken.
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.count.to_le_bytes());
        hasher.update(&[self.data_type as u8, self.op as u8]);
        if let Some(quantization) = self.quantization {
            hasher.update(&quantization.to_bytes());
        }
        let mut short = [0u8; 8];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(short)
    }

    /// The first field in which two descriptors differ, with both values, for people.
    pub fn difference(&self, other: &Descriptor) -> Option<String> {
        if self.count != other.count {
            Some(format!("count ({} and {})", self.count, other.count))
        } else if self.data_type != other.data_type {
            Some(format!(
                "data type ({} and {})",
                self.data_type, other.data_type
            ))
        } else if self.op != other.op {
            Some(format!("operation ({} and {})", self.op, other.op))
        } else if self.quantization != other.quantization {
            let name = |quantization: Option<Quantization>| {
                quantization.map_or("none".to_owned(), |quantization| quantization.to_string())
            };
            Some(format!(
                "quantization ({} and {})",
                name(self.quantization),
                name(other.quantization)
            ))
        } else {
            None
        }
    }
}

/// A peer as people know it: its id, the label its owner gave it and the address it is seen at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    /// Its id in the run.
    pub id: PeerId,
    /// The label from its configuration; may be empty.
    pub label: String,
    /// Where its data port is reached, `host:port`.
    pub address: String,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.label.is_empty() {
            write!(f, "peer {} at {}", self.id, self.address)
        } else {
            write!(f, "peer {} \"{}\" at {}", self.id, self.label, self.address)
        }
    }
}

/// World sizes as of the active epoch. They count accepted peers only, never pending ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorldSizes {
    /// Accepted peers in all groups.
    pub global: u32,
    /// Accepted peers in this peer's group.
    pub group: u32,
    /// Groups that have an accepted peer.
    pub groups: u32,
    /// Accepted peers in the largest group.
    pub largest_group: u32,
}

impl WorldSizes {
    /// A peer that is in no run, or was evicted from one: it is alone.
    pub const ALONE: WorldSizes = WorldSizes {
        global: 1,
        group: 1,
        groups: 1,
        largest_group: 1,
    };
}
