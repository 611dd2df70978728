//! All-reduces: blocking, started and awaited, many with retry.
#![allow(unsafe_code, reason = "the boundary to C")]
#![allow(non_snake_case, reason = "the names are PCCL's")]
#![allow(unreachable_pub, reason = "reached by their symbols")]

use std::ffi::{c_int, c_void};
use std::slice;

use core_pccl::{
    CollectiveError, Communicator, DataType, Distribution, Quantization, RawReduction, Reduce,
    ReduceOp, ReduceOptions, ReduceReport, Tag,
};

use crate::communicator::{Comm, write};
use crate::guard::{Failure, Outcome, guard_of};
use crate::types::{
    AsyncReduceOp, Code, INVALID_ARGUMENT, INVALID_USAGE, Opaque, QUANTIZATION_MIN_MAX,
    QUANTIZATION_NONE, QUANTIZATION_ZERO_POINT_SCALE, QuantizationOptions, RANK_CONNECTION_LOST,
    ReduceDescriptor, ReduceInfo, ReduceOpDescriptor, TOO_FEW_PEERS,
};

/// An all-reduce that was started, under its tag.
pub(crate) enum Flight {
    Running(RawReduction),
    /// A thread waits for it; the tag is in use until it has the result.
    Awaited,
}

impl Flight {
    /// Waits until nobody touches its memory any more.
    pub(crate) fn end(self) {
        if let Flight::Running(reduction) = self {
            let _ = reduction.wait();
        }
    }
}

/// A descriptor that makes sense.
struct Wanted {
    count: usize,
    data_type: DataType,
    options: ReduceOptions,
}

impl Wanted {
    fn read(descriptor: &ReduceDescriptor) -> Outcome<Wanted> {
        let data_type = data_type(descriptor.src_descriptor.datatype, "datatype")?;
        let op = u32::try_from(descriptor.op).ok();
        let Some(op) = op.and_then(ReduceOp::from_number) else {
            let text = format!("no reduction has number {}", descriptor.op);
            return Err(Failure::argument(text));
        };
        if descriptor.count > isize::MAX as usize / data_type.size_bytes() {
            let text = format!("{} elements fit no memory", descriptor.count);
            return Err(Failure::argument(text));
        }
        let mut options = ReduceOptions::new(op).tag(Tag(descriptor.tag));
        options.quantization = quantization(descriptor, data_type)?;
        options.check(data_type).map_err(|error| failure(&error))?;
        Ok(Wanted {
            count: descriptor.count,
            data_type,
            options,
        })
    }

    fn len_bytes(&self) -> usize {
        self.count * self.data_type.size_bytes()
    }

    /// Memory where none is needed may be NULL, elsewhere it may not.
    fn check_memory(&self, send: *const c_void, recv: *const c_void) -> Outcome {
        for (pointer, name) in [(send, "sendbuf"), (recv, "recvbuf")] {
            if pointer.is_null() && self.count > 0 {
                return Err(Failure::argument(format!("{name} is NULL")));
            }
        }
        Ok(())
    }
}

/// How elements are quantized. To their own type means not at all.
fn quantization(
    descriptor: &ReduceDescriptor,
    data_type: DataType,
) -> Outcome<Option<Quantization>> {
    let QuantizationOptions {
        quantized_datatype,
        algorithm,
    } = descriptor.quantization_options;
    let scheme = match algorithm {
        QUANTIZATION_NONE => return Ok(None),
        QUANTIZATION_MIN_MAX => Quantization::min_max,
        QUANTIZATION_ZERO_POINT_SCALE => Quantization::zero_point_scale,
        other => {
            let text = format!("no quantization algorithm has number {other}");
            return Err(Failure::argument(text));
        }
    };
    let codes = self::data_type(quantized_datatype, "quantized_datatype")?;
    // A hint is but a hint.
    let hint = u32::try_from(descriptor.src_descriptor.distribution_hint).ok();
    let hint = hint.and_then(Distribution::from_number).unwrap_or_default();
    Ok((codes != data_type).then(|| scheme(codes).distribution(hint)))
}

pub(crate) fn data_type(number: c_int, field: &str) -> Outcome<DataType> {
    let found = u32::try_from(number).ok().and_then(DataType::from_number);
    found.ok_or_else(|| Failure::argument(format!("{field}: no type has number {number}")))
}

/// See `pccl.h`.
///
/// # Safety
///
/// `descriptor` and `reduce_handle_out` are NULL or valid; the buffers are as the descriptor says
/// until the operation was awaited.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllReduceAsync(
    sendbuf: *const c_void,
    recvbuf: *mut c_void,
    descriptor: *const ReduceDescriptor,
    communicator: *const Opaque,
    reduce_handle_out: *mut AsyncReduceOp,
) -> Code {
    guard_of("pcclAllReduceAsync", communicator, || {
        // SAFETY: the caller's promise.
        unsafe {
            start(
                sendbuf,
                recvbuf,
                descriptor,
                communicator,
                reduce_handle_out,
            )
        }
    })
}

/// # Safety
///
/// As of [`pcclAllReduceAsync`].
unsafe fn start(
    sendbuf: *const c_void,
    recvbuf: *mut c_void,
    descriptor: *const ReduceDescriptor,
    handle: *const Opaque,
    reduce_handle_out: *mut AsyncReduceOp,
) -> Outcome {
    let (comm, communicator) = Comm::connected(handle)?;
    if reduce_handle_out.is_null() {
        return Err(Failure::argument("reduce_handle_out is NULL"));
    }
    // SAFETY: the caller's promise.
    let Some(descriptor) = (unsafe { descriptor.as_ref() }) else {
        return Err(Failure::argument("descriptor is NULL"));
    };
    let wanted = Wanted::read(descriptor)?;
    enough_peers(&communicator)?;
    wanted.check_memory(sendbuf, recvbuf)?;
    {
        let mut flights = comm.flights.lock();
        if flights.contains_key(&descriptor.tag) {
            let text = format!("tag {} is in use and not awaited", descriptor.tag);
            return Err(Failure::argument(text));
        }
        // SAFETY: the caller's promise; the operation is kept until it is waited for.
        let reduction = unsafe {
            communicator.start_all_reduce_raw(
                sendbuf.cast(),
                recvbuf.cast(),
                wanted.count,
                wanted.data_type,
                &wanted.options,
            )
        };
        flights.insert(descriptor.tag, Flight::Running(reduction));
    }
    let handle = AsyncReduceOp {
        comm: handle,
        tag: descriptor.tag,
    };
    // SAFETY: not NULL, and the caller's promise.
    unsafe { write(reduce_handle_out, handle, "reduce_handle_out") }
}

fn enough_peers(communicator: &Communicator) -> Outcome {
    match communicator.world_sizes().group {
        0 | 1 => Err(Failure::new(
            TOO_FEW_PEERS,
            "no other peer is in the group; wait for one with pcclUpdateTopology",
        )),
        _ => Ok(()),
    }
}

/// See `pccl.h`.
///
/// # Safety
///
/// `reduce_handle` is NULL or valid for a read, `reduce_info_out` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAwaitAsyncReduce(
    reduce_handle: *const AsyncReduceOp,
    reduce_info_out: *mut ReduceInfo,
) -> Code {
    // SAFETY: the caller's promise.
    let handle = unsafe { reduce_handle.as_ref() };
    let communicator = handle.map_or(std::ptr::null(), |handle| handle.comm);
    guard_of("pcclAwaitAsyncReduce", communicator, || {
        let Some(handle) = handle else {
            return Err(Failure::argument("reduce_handle is NULL"));
        };
        let (comm, _) = Comm::connected(handle.comm)?;
        let reduction = {
            let mut flights = comm.flights.lock();
            match flights.insert(handle.tag, Flight::Awaited) {
                Some(Flight::Running(reduction)) => reduction,
                other => {
                    if other.is_none() {
                        flights.remove(&handle.tag);
                    }
                    let text = format!("no all-reduce with tag {} waits to be awaited", handle.tag);
                    return Err(Failure::new(RANK_CONNECTION_LOST, text));
                }
            }
        };
        let outcome = reduction.wait();
        comm.flights.lock().remove(&handle.tag);
        let report = outcome.map_err(|error| failure(&error))?;
        // SAFETY: the caller's promise.
        unsafe { tell(reduce_info_out, &report) };
        Ok(())
    })
}

/// See `pccl.h`.
///
/// # Safety
///
/// `descriptor` is NULL or valid, `reduce_info_out` NULL or valid for a write; the buffers are as
/// the descriptor says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllReduce(
    sendbuf: *const c_void,
    recvbuf: *mut c_void,
    descriptor: *const ReduceDescriptor,
    communicator: *const Opaque,
    reduce_info_out: *mut ReduceInfo,
) -> Code {
    let mut handle = AsyncReduceOp {
        comm: communicator,
        tag: 0,
    };
    // SAFETY: the caller's promise, and the handle is ours.
    let started =
        unsafe { pcclAllReduceAsync(sendbuf, recvbuf, descriptor, communicator, &raw mut handle) };
    if started != crate::types::SUCCESS {
        return started;
    }
    // SAFETY: as above.
    unsafe { pcclAwaitAsyncReduce(&raw const handle, reduce_info_out) }
}

/// See `pccl.h`.
///
/// # Safety
///
/// `descriptors` is NULL or valid for reads of `count`, `reduce_info_out` NULL or valid for a write;
/// the buffers are as the descriptors say and no two of them overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllReduceMultipleWithRetry(
    descriptors: *const ReduceOpDescriptor,
    count: usize,
    communicator: *const Opaque,
    reduce_info_out: *mut ReduceInfo,
    max_in_flight: c_int,
) -> Code {
    guard_of("pcclAllReduceMultipleWithRetry", communicator, || {
        crate::guard::initialized()?;
        if descriptors.is_null() {
            return Err(Failure::argument("descriptors is NULL"));
        }
        if count == 0 {
            return Err(Failure::argument("count is 0"));
        }
        let (comm, communicator) = Comm::connected(communicator)?;
        let max_in_flight = usize::try_from(max_in_flight).unwrap_or(0);
        if max_in_flight == 0 {
            return Err(Failure::argument("max_in_flight is not above 0"));
        }
        enough_peers(&communicator)?;
        if count > isize::MAX as usize / size_of::<ReduceOpDescriptor>() {
            return Err(Failure::argument(format!(
                "{count} descriptors fit no memory"
            )));
        }
        // SAFETY: the caller's promise; so many fit.
        let descriptors = unsafe { slice::from_raw_parts(descriptors, count) };
        let mut operations = Vec::new();
        for descriptor in descriptors {
            let wanted = Wanted::read(&descriptor.descriptor)?;
            wanted.check_memory(descriptor.sendbuf, descriptor.recvbuf)?;
            if comm.flights.lock().contains_key(&descriptor.descriptor.tag) {
                let tag = descriptor.descriptor.tag;
                return Err(Failure::argument(format!(
                    "tag {tag} is in use and not awaited"
                )));
            }
            // SAFETY: the caller's promise.
            operations.push(unsafe { reduce(descriptor, &wanted) });
        }
        let outcome = communicator.all_reduce_many(&mut operations, max_in_flight);
        let report = outcome.map_err(|error| failure(&error))?;
        // SAFETY: the caller's promise.
        unsafe { tell(reduce_info_out, &report) };
        Ok(())
    })
}

/// # Safety
///
/// The buffers are valid as the descriptor says for as long as the result is used.
unsafe fn reduce<'a>(descriptor: &ReduceOpDescriptor, wanted: &Wanted) -> Reduce<'a> {
    let (len, data_type) = (wanted.len_bytes(), wanted.data_type);
    if len == 0 {
        return Reduce::bytes_in_place(&mut [], data_type, wanted.options);
    }
    // SAFETY: not NULL, of this length, nobody else's; bytes need no alignment.
    let recv = unsafe { slice::from_raw_parts_mut(descriptor.recvbuf.cast::<u8>(), len) };
    if std::ptr::eq(descriptor.sendbuf, descriptor.recvbuf) {
        return Reduce::bytes_in_place(recv, data_type, wanted.options);
    }
    // SAFETY: as above.
    let send = unsafe { slice::from_raw_parts(descriptor.sendbuf.cast::<u8>(), len) };
    Reduce::bytes(send, recv, data_type, wanted.options)
}

/// # Safety
///
/// `place` is NULL or valid for a write.
unsafe fn tell(place: *mut ReduceInfo, report: &ReduceReport) {
    if !place.is_null() {
        let info = ReduceInfo {
            local_world_size: report.world_size,
            tx_bytes: report.tx_bytes,
            rx_bytes: report.rx_bytes,
        };
        // SAFETY: the caller's promise.
        unsafe { place.write(info) };
    }
}

/// What an all-reduce failed with.
fn failure(error: &CollectiveError) -> Failure {
    let code = match error {
        CollectiveError::TooFewPeers { .. } => TOO_FEW_PEERS,
        // The program is wrong: the same call would fail again.
        CollectiveError::Mismatch { .. }
        | CollectiveError::TagInUse { .. }
        | CollectiveError::InvalidArgument { .. } => INVALID_ARGUMENT,
        CollectiveError::CannotMeet { .. }
        | CollectiveError::CallInProgress { .. }
        | CollectiveError::TooManyOperations { .. }
        | CollectiveError::NotConnected => INVALID_USAGE,
        // Peers were lost, or this one is: the world size says which.
        _ => RANK_CONNECTION_LOST,
    };
    Failure::new(code, error.to_string())
}
