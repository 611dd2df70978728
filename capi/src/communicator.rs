//! Communicators: made, connected, asked, destroyed.
#![allow(unsafe_code, reason = "the boundary to C")]
#![allow(non_snake_case, reason = "the names are PCCL's")]
#![allow(unreachable_pub, reason = "reached by their symbols")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use core_pccl::{Communicator, Config, GroupId, MembershipError, WorldSizes};
use parking_lot::Mutex;

use crate::guard::{Failure, Outcome, guard, guard_of, initialize, initialized, last_error};
use crate::handles::Handles;
use crate::reduce::Flight;
use crate::types::{
    ATTRIBUTE_GLOBAL_WORLD_SIZE, ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE,
    ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS, ATTRIBUTE_PEER_GROUP_WORLD_SIZE, BuildInfo, CODE_NAMES,
    Code, CreateParams, INET_IPV4, INET_IPV6, INVALID_ARGUMENT, MASTER_CONNECTION_FAILED, Opaque,
    PENDING_ASYNC_OPS, SocketAddress, TOPOLOGY_OPTIMIZATION_FAILED, UPDATE_TOPOLOGY_FAILED,
};
use crate::{logging, options};

/// Lanes of a link where the path is long and nothing is set: a smaller pool changes nothing.
const DEFAULT_LANES: u32 = 8;
const LANES_MAX: u32 = 256;

static COMMUNICATORS: Handles<Comm> = Handles::new();

/// What stands behind a `pcclComm_t`.
pub(crate) struct Comm {
    config: Mutex<Config>,
    stage: Mutex<Stage>,
    /// All-reduces that were started and not awaited, by tag.
    pub(crate) flights: Mutex<BTreeMap<u64, Flight>>,
    /// Of the last call that failed, in whatever thread.
    last_error: Mutex<String>,
}

enum Stage {
    /// Never connected, or the last attempt failed.
    Apart,
    Connecting(Arc<Communicator>),
    Connected(Arc<Communicator>),
    Destroyed,
}

impl Comm {
    /// The handle's object and its communicator, as most functions need them.
    pub(crate) fn connected(handle: *const Opaque) -> Outcome<(Arc<Comm>, Arc<Communicator>)> {
        initialized()?;
        let comm = COMMUNICATORS.get(handle)?;
        let communicator = match &*comm.stage.lock() {
            Stage::Connected(communicator) => communicator.clone(),
            _ => return Err(Failure::usage("the communicator is not connected")),
        };
        Ok((comm, communicator))
    }

    /// What excludes calls that all peers make together.
    pub(crate) fn nothing_in_flight(&self) -> Outcome {
        match self.flights.lock().len() {
            0 => Ok(()),
            count => Err(Failure::new(
                PENDING_ASYNC_OPS,
                format!("{count} all-reduce(s) were started and not awaited"),
            )),
        }
    }

    fn connect(&self) -> Outcome {
        let communicator = {
            let stage = &mut *self.stage.lock();
            if !matches!(stage, Stage::Apart) {
                return Err(Failure::usage("the communicator is connected already"));
            }
            let config = self.config.lock().clone();
            let communicator = Communicator::new(config).map_err(not_reached)?;
            let communicator = Arc::new(communicator);
            *stage = Stage::Connecting(communicator.clone());
            communicator
        };
        let outcome = communicator.connect();
        let stage = &mut *self.stage.lock();
        if matches!(stage, Stage::Connecting(_)) {
            *stage = match outcome {
                Ok(()) => Stage::Connected(communicator),
                Err(_) => Stage::Apart,
            };
        }
        outcome.map_err(not_reached)
    }

    /// Leaves the run. Calls in other threads end first; when this returns nothing of the
    /// communicator is left but what they still hold.
    fn destroy(&self) {
        let stage = std::mem::replace(&mut *self.stage.lock(), Stage::Destroyed);
        let flights = std::mem::take(&mut *self.flights.lock());
        match stage {
            Stage::Apart | Stage::Destroyed => {}
            Stage::Connecting(communicator) => communicator.close(),
            Stage::Connected(communicator) => {
                // With a word to the others where nothing is under way.
                if !flights.is_empty() || communicator.leave().is_err() {
                    communicator.close();
                }
            }
        }
        for (_, flight) in flights {
            flight.end();
        }
    }
}

/// Keeps the text of a failure where `pcclGetLastError` looks for it.
pub(crate) fn keep_error(handle: *const Opaque, text: String) {
    if let Ok(comm) = COMMUNICATORS.get(handle) {
        *comm.last_error.lock() = text;
    }
}

fn not_reached(error: core_pccl::ConnectError) -> Failure {
    let code = match &error {
        core_pccl::ConnectError::InvalidConfig { .. } => INVALID_ARGUMENT,
        _ => MASTER_CONNECTION_FAILED,
    };
    Failure::new(code, error.to_string())
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclInit() -> Code {
    guard("pcclInit", || {
        logging::start();
        initialize();
        Ok(())
    })
}

/// See `pccl.h`.
///
/// # Safety
///
/// `info` is NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclGetBuildInfo(info: *mut BuildInfo) -> Code {
    guard("pcclGetBuildInfo", || {
        let value = BuildInfo {
            has_cuda_support: false,
        };
        // SAFETY: the caller's promise.
        unsafe { write(info, value, "info") }
    })
}

/// See `pccl.h`.
///
/// # Safety
///
/// `params` is NULL or valid for a read, `comm_out` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclCreateCommunicator(
    params: *const CreateParams,
    comm_out: *mut *mut Opaque,
) -> Code {
    guard("pcclCreateCommunicator", || {
        initialized()?;
        if comm_out.is_null() {
            return Err(Failure::argument("comm_out is NULL"));
        }
        // SAFETY: the caller's promise.
        let Some(params) = (unsafe { params.as_ref() }) else {
            return Err(Failure::argument("params is NULL"));
        };
        let master = socket_address(&params.master_address)?;
        let mut config = Config::new(master.to_string()).group(GroupId(params.peer_group));
        let pool = params.p2p_connection_pool_size;
        if pool > DEFAULT_LANES {
            config = config.lanes_per_link(pool.min(LANES_MAX) as u16);
        }
        options::read_environment(&mut config)?;
        let handle = COMMUNICATORS.insert(Comm {
            config: Mutex::new(config),
            stage: Mutex::new(Stage::Apart),
            flights: Mutex::default(),
            last_error: Mutex::default(),
        });
        // SAFETY: not NULL, and the caller's promise.
        unsafe { write(comm_out, handle, "comm_out") }
    })
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclDestroyCommunicator(communicator: *mut Opaque) -> Code {
    guard_of("pcclDestroyCommunicator", communicator, || {
        initialized()?;
        COMMUNICATORS.remove(communicator)?.destroy();
        Ok(())
    })
}

/// See `pccl.h`.
///
/// # Safety
///
/// `key` and `value` are NULL or strings that end with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclSetOption(
    communicator: *mut Opaque,
    key: *const c_char,
    value: *const c_char,
) -> Code {
    guard_of("pcclSetOption", communicator, || {
        initialized()?;
        let comm = COMMUNICATORS.get(communicator)?;
        // SAFETY: the caller's promise.
        let (key, value) = unsafe { (text(key, "key")?, text(value, "value")?) };
        // Held, so that no connect begins with half of the settings.
        let stage = comm.stage.lock();
        if !matches!(&*stage, Stage::Apart) {
            let text = format!("option `{key}`: the communicator is connected already");
            return Err(Failure::usage(text));
        }
        options::set(&mut comm.config.lock(), &key, &value)
    })
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclConnect(communicator: *mut Opaque) -> Code {
    guard_of("pcclConnect", communicator, || {
        initialized()?;
        COMMUNICATORS.get(communicator)?.connect()
    })
}

/// See `pccl.h`.
///
/// # Safety
///
/// `attribute_out` is NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclGetAttribute(
    communicator: *const Opaque,
    attribute: c_int,
    attribute_out: *mut c_int,
) -> Code {
    guard_of("pcclGetAttribute", communicator, || {
        let (_, communicator) = Comm::connected(communicator)?;
        let WorldSizes {
            global,
            group,
            groups,
            largest_group,
        } = communicator.world_sizes();
        let value = match attribute {
            ATTRIBUTE_GLOBAL_WORLD_SIZE => global,
            ATTRIBUTE_PEER_GROUP_WORLD_SIZE => group,
            ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS => groups,
            ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE => largest_group,
            other => {
                return Err(Failure::argument(format!(
                    "no attribute has number {other}"
                )));
            }
        };
        let value = c_int::try_from(value).unwrap_or(c_int::MAX);
        // SAFETY: the caller's promise.
        unsafe { write(attribute_out, value, "p_attribute_out") }
    })
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclUpdateTopology(communicator: *mut Opaque) -> Code {
    guard_of("pcclUpdateTopology", communicator, || {
        let (comm, communicator) = Comm::connected(communicator)?;
        comm.nothing_in_flight()?;
        let failed = |error| membership(&error, UPDATE_TOPOLOGY_FAILED);
        communicator.update_topology().map_err(failed)
    })
}

/// See `pccl.h`.
///
/// # Safety
///
/// `pending_out` is NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclArePeersPending(
    communicator: *const Opaque,
    pending_out: *mut bool,
) -> Code {
    guard_of("pcclArePeersPending", communicator, || {
        initialized()?;
        COMMUNICATORS.get(communicator)?;
        if pending_out.is_null() {
            return Err(Failure::argument("pending_out is NULL"));
        }
        let (_, communicator) = Comm::connected(communicator)?;
        let failed = |error| membership(&error, crate::types::INVALID_USAGE);
        let pending = communicator.are_peers_pending().map_err(failed)?;
        // SAFETY: the caller's promise.
        unsafe { write(pending_out, pending, "pending_out") }
    })
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclOptimizeTopology(communicator: *const Opaque) -> Code {
    guard_of("pcclOptimizeTopology", communicator, || {
        let (comm, communicator) = Comm::connected(communicator)?;
        if communicator.world_sizes().global <= 1 {
            return Err(Failure::usage(
                "there is nobody to optimise a topology with",
            ));
        }
        comm.nothing_in_flight()?;
        // The ring stays as it is, until there are measurements that say better: what is left is that
        // all peers meet here.
        let failed = |error| membership(&error, TOPOLOGY_OPTIMIZATION_FAILED);
        communicator.are_peers_pending().map(drop).map_err(failed)
    })
}

/// What a joint call failed with; `usual` where nothing says better.
fn membership(error: &MembershipError, usual: Code) -> Failure {
    let code = match error {
        MembershipError::OperationsInFlight { .. } => PENDING_ASYNC_OPS,
        MembershipError::NotConnected
        | MembershipError::CallInProgress { .. }
        | MembershipError::CannotMeet { .. } => crate::types::INVALID_USAGE,
        _ => usual,
    };
    Failure::new(code, error.to_string())
}

/// See `pccl.h`.
///
/// # Safety
///
/// `text_out` is NULL or valid for writes of `size_bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclGetLastError(
    communicator: *const Opaque,
    text_out: *mut c_char,
    size_bytes: usize,
) -> usize {
    let text = match COMMUNICATORS.get(communicator) {
        Ok(comm) => comm.last_error.lock().clone(),
        Err(_) => last_error(),
    };
    if !text_out.is_null() && size_bytes > 0 {
        // Cut between two characters, so that what is left is text.
        let mut len = text.len().min(size_bytes - 1);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        // SAFETY: `len + 1` bytes at most `size_bytes`, which the caller promised; the two do not
        // overlap, as the text is ours.
        unsafe {
            text_out
                .cast::<u8>()
                .copy_from_nonoverlapping(text.as_ptr(), len);
            text_out.add(len).write(0);
        }
    }
    text.len()
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclResultToString(result: Code) -> *const c_char {
    let name = usize::try_from(result).ok().and_then(|n| CODE_NAMES.get(n));
    name.copied().unwrap_or(c"unknown pcclResult_t").as_ptr()
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclGetVersion() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Writes a result to where the caller wants it.
///
/// # Safety
///
/// `place` is NULL or valid for a write.
pub(crate) unsafe fn write<T>(place: *mut T, value: T, name: &str) -> Outcome {
    if place.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}

/// A string of C as one of ours.
///
/// # Safety
///
/// `text` is NULL or a string that ends with a zero byte.
pub(crate) unsafe fn text(text: *const c_char, name: &str) -> Outcome<String> {
    if text.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map(str::to_owned);
    text.map_err(|error| Failure::argument(format!("{name}: {error}")))
}

/// An address of C as one of ours.
pub(crate) fn socket_address(address: &SocketAddress) -> Outcome<SocketAddr> {
    let ip = match address.inet.protocol {
        INET_IPV4 => Ipv4Addr::from(address.inet.ipv4).into(),
        INET_IPV6 => Ipv6Addr::from(address.inet.ipv6).into(),
        other => {
            let text = format!("address: {other} is neither inetIPv4 nor inetIPv6");
            return Err(Failure::argument(text));
        }
    };
    Ok(SocketAddr::new(ip, address.port))
}
