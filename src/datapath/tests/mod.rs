//! Several planes joined by in-memory streams.

mod bounds;
mod breaks;
mod cancel;
mod cluster;
mod cuts;
mod hostile;
pub(crate) mod pipe;
mod quantized;
mod reorder;
mod restart;
mod results;
mod slow;
mod stalls;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use self::cluster::*;
use self::pipe::*;
use super::{
    ADVANCE_BYTES, BeginError, Disposition, EAGER_BYTES, LaneEnd, OperationSpec, PlaneEvent,
    Traffic,
};
use crate::engine::testing::Memory;
use crate::types::{DataType, Descriptor, Epoch, OperationId, PeerId, Rank, ReduceOp, Tag};
use crate::wire::lane::{FrameHeader, FrameKind, TRAILER_SPOILED, TRAILER_WHOLE};
