//! What crosses the boundary, as `include/pccl.h` and `include/ccoip_inet.h` declare it. The sizes and
//! places are checked here at compile time; `tests/header.c` checks the same ones of the header.
//!
//! Enumerations come in as plain numbers: C may pass any.
#![allow(unreachable_pub, reason = "they are in signatures that C calls")]

use std::ffi::{c_char, c_int, c_void};
use std::mem::{align_of, offset_of, size_of};

/// `pcclResult_t`. Two of its values are never given: 7, and 9.
pub(crate) type Code = c_int;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const NOT_INITIALIZED: Code = 1;
pub(crate) const INTERNAL_ERROR: Code = 2;
pub(crate) const INVALID_ARGUMENT: Code = 3;
pub(crate) const INVALID_USAGE: Code = 4;
pub(crate) const TOO_FEW_PEERS: Code = 5;
pub(crate) const MASTER_CONNECTION_FAILED: Code = 6;
pub(crate) const RANK_CONNECTION_LOST: Code = 8;
pub(crate) const PENDING_ASYNC_OPS: Code = 10;
pub(crate) const UPDATE_TOPOLOGY_FAILED: Code = 11;
pub(crate) const TOPOLOGY_OPTIMIZATION_FAILED: Code = 12;

/// Names of the codes, in their order.
pub(crate) const CODE_NAMES: [&std::ffi::CStr; 13] = [
    c"pcclSuccess",
    c"pcclNotInitialized",
    c"pcclInternalError",
    c"pcclInvalidArgument",
    c"pcclInvalidUsage",
    c"pcclTooFewPeers",
    c"pcclMasterConnectionFailed",
    c"pcclRankConnectionFailed",
    c"pcclRankConnectionLost",
    c"pcclNoSharedStateAvailable",
    c"pcclPendingAsyncOps",
    c"pcclUpdateTopologyFailed",
    c"pcclTopologyOptimizationFailed",
];

pub(crate) const INET_IPV4: c_int = 0;
pub(crate) const INET_IPV6: c_int = 1;

pub(crate) const DEVICE_CPU: c_int = 0;

pub(crate) const QUANTIZATION_NONE: c_int = 0;
pub(crate) const QUANTIZATION_MIN_MAX: c_int = 1;
pub(crate) const QUANTIZATION_ZERO_POINT_SCALE: c_int = 2;

pub(crate) const ATTRIBUTE_GLOBAL_WORLD_SIZE: c_int = 1;
pub(crate) const ATTRIBUTE_PEER_GROUP_WORLD_SIZE: c_int = 2;
pub(crate) const ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS: c_int = 3;
pub(crate) const ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE: c_int = 4;

/// `ccoip_inet_address_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct InetAddress {
    pub(crate) protocol: c_int,
    /// Bytes in network order, as in `ipv6`.
    pub(crate) ipv4: [u8; 4],
    pub(crate) ipv6: [u8; 16],
}

/// `ccoip_socket_address_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SocketAddress {
    pub(crate) inet: InetAddress,
    /// In the order of this machine.
    pub(crate) port: u16,
}

/// `pcclCommCreateParams_t`.
#[repr(C)]
pub struct CreateParams {
    pub(crate) master_address: SocketAddress,
    pub(crate) peer_group: u32,
    pub(crate) p2p_connection_pool_size: u32,
}

/// `pcclReduceInfo_t`.
#[repr(C)]
pub struct ReduceInfo {
    pub(crate) local_world_size: u32,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
}

/// `pcclReduceOperandDescriptor_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OperandDescriptor {
    pub(crate) datatype: c_int,
    pub(crate) distribution_hint: c_int,
}

/// `pcclQuantizationOptions_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct QuantizationOptions {
    pub(crate) quantized_datatype: c_int,
    pub(crate) algorithm: c_int,
}

/// `pcclReduceDescriptor_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ReduceDescriptor {
    pub(crate) count: usize,
    pub(crate) op: c_int,
    pub(crate) tag: u64,
    pub(crate) src_descriptor: OperandDescriptor,
    pub(crate) quantization_options: QuantizationOptions,
}

/// `pcclReduceOpDescriptor_t`.
#[repr(C)]
pub struct ReduceOpDescriptor {
    pub(crate) sendbuf: *mut c_void,
    pub(crate) recvbuf: *mut c_void,
    pub(crate) descriptor: ReduceDescriptor,
}

/// `pcclAsyncReduceOp_t`.
#[repr(C)]
pub struct AsyncReduceOp {
    pub(crate) comm: *const Opaque,
    pub(crate) tag: u64,
}

/// `pcclTensorInfo_t`.
#[repr(C)]
pub struct TensorInfo {
    pub(crate) name: *const c_char,
    pub(crate) data: *mut c_void,
    pub(crate) count: usize,
    pub(crate) datatype: c_int,
    pub(crate) device_type: c_int,
    /// A `bool` of C; other numbers count as true.
    pub(crate) allow_content_inequality: u8,
}

/// `pcclSharedState_t`.
#[repr(C)]
pub struct SharedState {
    pub(crate) revision: u64,
    pub(crate) count: usize,
    pub(crate) infos: *mut TensorInfo,
}

/// `pcclSharedStateSyncInfo_t`.
#[repr(C)]
pub struct SyncInfo {
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
}

/// `pcclBuildInfo_t`.
#[repr(C)]
pub struct BuildInfo {
    pub(crate) has_cuda_support: bool,
}

/// `pcclComm_t` and `pcclMasterInstance_t`: C holds pointers to them and never looks inside.
#[repr(C)]
pub struct Opaque {
    _bytes: [u8; 0],
}

macro_rules! layout {
    ($type:ty, $size:literal, $align:literal $(, $field:ident @ $offset:literal)* $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size && align_of::<$type>() == $align);
            $(assert!(offset_of!($type, $field) == $offset);)*
        };
    };
}

layout!(InetAddress, 24, 4, protocol @ 0, ipv4 @ 4, ipv6 @ 8);
layout!(SocketAddress, 28, 4, inet @ 0, port @ 24);
layout!(CreateParams, 36, 4, master_address @ 0, peer_group @ 28, p2p_connection_pool_size @ 32);
layout!(ReduceInfo, 24, 8, local_world_size @ 0, tx_bytes @ 8, rx_bytes @ 16);
layout!(OperandDescriptor, 8, 4, datatype @ 0, distribution_hint @ 4);
layout!(QuantizationOptions, 8, 4, quantized_datatype @ 0, algorithm @ 4);
layout!(
    ReduceDescriptor, 40, 8,
    count @ 0, op @ 8, tag @ 16, src_descriptor @ 24, quantization_options @ 32,
);
layout!(ReduceOpDescriptor, 56, 8, sendbuf @ 0, recvbuf @ 8, descriptor @ 16);
layout!(AsyncReduceOp, 16, 8, comm @ 0, tag @ 8);
layout!(
    TensorInfo, 40, 8,
    name @ 0, data @ 8, count @ 16, datatype @ 24, device_type @ 28, allow_content_inequality @ 32,
);
layout!(SharedState, 24, 8, revision @ 0, count @ 8, infos @ 16);
layout!(SyncInfo, 16, 8, tx_bytes @ 0, rx_bytes @ 8);
layout!(BuildInfo, 1, 1, has_cuda_support @ 0);
