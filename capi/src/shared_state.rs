//! The sync of the shared state.
#![allow(unsafe_code, reason = "the boundary to C")]
#![allow(non_snake_case, reason = "the names are PCCL's")]
#![allow(unreachable_pub, reason = "reached by their symbols")]

use std::ffi::c_int;
use std::slice;

use core_pccl::{Revision, SharedState as State, SyncError, SyncStrategy};

use crate::communicator::{Comm, text};
use crate::guard::{Failure, Outcome, guard_of};
use crate::reduce::data_type;
use crate::types::{
    Code, DEVICE_CPU, INVALID_ARGUMENT, INVALID_USAGE, Opaque, PENDING_ASYNC_OPS, SharedState,
    SyncInfo, TensorInfo,
};

/// See `pccl.h`.
///
/// # Safety
///
/// `shared_state` is NULL or valid with all its tensors, `sync_info_out` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclSynchronizeSharedState(
    communicator: *const Opaque,
    shared_state: *mut SharedState,
    strategy: c_int,
    sync_info_out: *mut SyncInfo,
) -> Code {
    guard_of("pcclSynchronizeSharedState", communicator, || {
        let (comm, communicator) = Comm::connected(communicator)?;
        comm.nothing_in_flight()?;
        let number = usize::try_from(strategy).ok();
        let Some(strategy) = number.and_then(|number| SyncStrategy::ALL.get(number)) else {
            let text = format!("no strategy has number {strategy}");
            return Err(Failure::argument(text));
        };
        // SAFETY: the caller's promise.
        let Some(shared_state) = (unsafe { shared_state.as_mut() }) else {
            return Err(Failure::argument("shared_state is NULL"));
        };
        if shared_state.infos.is_null() || shared_state.count == 0 {
            return Err(Failure::argument("the shared state has no tensors"));
        }
        if shared_state.count > isize::MAX as usize / size_of::<TensorInfo>() {
            let count = shared_state.count;
            return Err(Failure::argument(format!("{count} tensors fit no memory")));
        }
        let mut state = State::new();
        state.revision = Revision(shared_state.revision);
        // SAFETY: the caller's promise; so many fit.
        let tensors = unsafe { slice::from_raw_parts(shared_state.infos, shared_state.count) };
        for tensor in tensors {
            // SAFETY: the caller's promise.
            unsafe { add(&mut state, tensor)? };
        }
        let report = communicator
            .sync_shared_state(&mut state, *strategy)
            .map_err(|error| failure(&error))?;
        shared_state.revision = report.revision.0;
        if !sync_info_out.is_null() {
            let info = SyncInfo {
                tx_bytes: report.tx_bytes,
                rx_bytes: report.rx_bytes,
            };
            // SAFETY: the caller's promise.
            unsafe { sync_info_out.write(info) };
        }
        Ok(())
    })
}

/// # Safety
///
/// The tensor is as its description says for as long as `state` is used, and nobody else's.
unsafe fn add(state: &mut State<'_>, tensor: &TensorInfo) -> Outcome {
    // SAFETY: the caller's promise.
    let name = unsafe { text(tensor.name, "a tensor's name")? };
    let data_type = data_type(tensor.datatype, &format!("tensor `{name}`"))?;
    if tensor.device_type != DEVICE_CPU {
        let device = tensor.device_type;
        let text = format!("tensor `{name}`: device {device} is not host memory");
        return Err(Failure::argument(text));
    }
    if tensor.data.is_null() && tensor.count > 0 {
        return Err(Failure::argument(format!("tensor `{name}`: data is NULL")));
    }
    if tensor.count > isize::MAX as usize / data_type.size_bytes() {
        let count = tensor.count;
        let text = format!("tensor `{name}`: {count} elements fit no memory");
        return Err(Failure::argument(text));
    }
    let bytes: &mut [u8] = match tensor.count {
        0 => &mut [],
        // SAFETY: not NULL, and the caller's promise; bytes need no alignment.
        count => unsafe {
            slice::from_raw_parts_mut(tensor.data.cast(), count * data_type.size_bytes())
        },
    };
    state.tensor_bytes(name, data_type, bytes, tensor.allow_content_inequality != 0);
    Ok(())
}

/// What a sync failed with.
fn failure(error: &SyncError) -> Failure {
    let code = match error {
        SyncError::InvalidState { .. } => INVALID_ARGUMENT,
        SyncError::OperationsInFlight { .. } => PENDING_ASYNC_OPS,
        // PCCL has this code for all else.
        _ => INVALID_USAGE,
    };
    Failure::new(code, error.to_string())
}
