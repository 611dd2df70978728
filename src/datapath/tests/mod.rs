//! Several planes joined by in-memory streams.

mod bounds;
mod breaks;
mod cluster;
mod results;
mod stalls;

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::cluster::*;
use super::{BeginError, Disposition, EAGER_BYTES, LaneEnd, OperationSpec, PlaneEvent, Traffic};
use crate::engine::testing::Memory;
use crate::types::{DataType, Descriptor, Epoch, OperationId, PeerId, Rank, ReduceOp, Tag};
use crate::wire::lane::{FrameHeader, FrameKind, TRAILER_SPOILED};
