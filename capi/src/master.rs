//! The master: made, run, interrupted, awaited, destroyed.
#![allow(unsafe_code, reason = "the boundary to C")]
#![allow(non_snake_case, reason = "the names are PCCL's")]
#![allow(unreachable_pub, reason = "reached by their symbols")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use core_pccl::Master;
use parking_lot::{Condvar, Mutex};

use crate::communicator::{socket_address, write};
use crate::guard::{Failure, Outcome, guard};
use crate::handles::Handles;
use crate::options;
use crate::types::{Code, Opaque, SocketAddress};

static MASTERS: Handles<Instance> = Handles::new();

/// What stands behind a `pcclMasterInstance_t`.
struct Instance {
    address: SocketAddr,
    stage: Mutex<Stage>,
    ended: Condvar,
}

enum Stage {
    Made,
    /// It could not listen, or was told to stop before it ran; it never will.
    Failed,
    Running(Running),
    Ended,
}

struct Running {
    /// Wakes the thread that stops the master. That takes its time, and interrupting is done in
    /// signal handlers.
    interrupt: Arc<Interrupt>,
    stopper: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Interrupt {
    wanted: AtomicBool,
    thread: Mutex<Option<std::thread::Thread>>,
}

impl Instance {
    fn run(self: &Arc<Self>) -> Outcome {
        let stage = &mut *self.stage.lock();
        if !matches!(stage, Stage::Made) {
            return Err(Failure::usage("the master was launched before"));
        }
        *stage = Stage::Failed;
        if self.address.port() == 0 {
            return Err(Failure::usage("port 0 is no address that peers can know"));
        }
        let master = Master::bind_with(self.address, options::master()?)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let interrupt = Arc::new(Interrupt::default());
        let (instance, wanted) = (self.clone(), interrupt.clone());
        let stopper = std::thread::Builder::new()
            .name("pccl-stop".to_owned())
            .spawn(move || {
                while !wanted.wanted.load(Ordering::Acquire) {
                    std::thread::park();
                }
                master.stop();
                let stage = &mut *instance.stage.lock();
                *stage = Stage::Ended;
                instance.ended.notify_all();
            })
            .map_err(|error| Failure::usage(error.to_string()))?;
        *interrupt.thread.lock() = Some(stopper.thread().clone());
        *stage = Stage::Running(Running {
            interrupt,
            stopper: Some(stopper),
        });
        Ok(())
    }

    fn interrupt(&self) -> Outcome {
        match &*self.stage.lock() {
            Stage::Made | Stage::Failed => Err(never_ran()),
            Stage::Ended => Ok(()),
            Stage::Running(running) => {
                running.interrupt.wanted.store(true, Ordering::Release);
                if let Some(thread) = &*running.interrupt.thread.lock() {
                    thread.unpark();
                }
                Ok(())
            }
        }
    }

    fn wait(&self) -> Outcome {
        let mut stage = self.stage.lock();
        loop {
            match &*stage {
                Stage::Made | Stage::Failed => return Err(never_ran()),
                Stage::Ended => return Ok(()),
                Stage::Running(_) => self.ended.wait(&mut stage),
            }
        }
    }

    fn destroy(&self) {
        let stopper = match &mut *self.stage.lock() {
            Stage::Running(running) => running.stopper.take(),
            _ => None,
        };
        if self.interrupt().is_ok() {
            let _ = self.wait();
        }
        if let Some(stopper) = stopper {
            let _ = stopper.join();
        }
    }
}

fn never_ran() -> Failure {
    Failure::usage("the master never ran")
}

/// See `pccl.h`.
///
/// # Safety
///
/// `master_out` is NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclCreateMaster(
    listen_address: SocketAddress,
    master_out: *mut *mut Opaque,
) -> Code {
    guard("pcclCreateMaster", || {
        if master_out.is_null() {
            return Err(Failure::argument("p_master_handle_out is NULL"));
        }
        let handle = MASTERS.insert(Instance {
            address: socket_address(&listen_address)?,
            stage: Mutex::new(Stage::Made),
            ended: Condvar::new(),
        });
        // SAFETY: not NULL, and the caller's promise.
        unsafe { write(master_out, handle, "p_master_handle_out") }
    })
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclRunMaster(master: *mut Opaque) -> Code {
    guard("pcclRunMaster", || {
        crate::logging::start();
        MASTERS.get(master)?.run()
    })
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclInterruptMaster(master: *mut Opaque) -> Code {
    guard("pcclInterruptMaster", || MASTERS.get(master)?.interrupt())
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclMasterAwaitTermination(master: *mut Opaque) -> Code {
    guard("pcclMasterAwaitTermination", || MASTERS.get(master)?.wait())
}

/// See `pccl.h`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclDestroyMaster(master: *mut Opaque) -> Code {
    guard("pcclDestroyMaster", || {
        MASTERS.remove(master)?.destroy();
        Ok(())
    })
}
