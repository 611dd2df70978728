//! The shared object, loaded as a program loads it, and its functions by their C types.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::{Barrier, OnceLock};
use std::time::Duration;

/// A handle of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Handle(pub(crate) *mut c_void);

// SAFETY: the library takes its handles from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

pub(crate) const NO_HANDLE: Handle = Handle(null_mut());

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Address {
    pub(crate) protocol: c_int,
    pub(crate) ipv4: [u8; 4],
    pub(crate) ipv6: [u8; 16],
    pub(crate) port: u16,
}

#[repr(C)]
pub(crate) struct Params {
    pub(crate) master: Address,
    pub(crate) group: u32,
    pub(crate) pool: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Info {
    pub(crate) world: u32,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) count: usize,
    pub(crate) op: c_int,
    pub(crate) tag: u64,
    pub(crate) datatype: c_int,
    pub(crate) hint: c_int,
    pub(crate) quantized: c_int,
    pub(crate) algorithm: c_int,
}

#[repr(C)]
pub(crate) struct OpDescriptor {
    pub(crate) send: *mut c_void,
    pub(crate) recv: *mut c_void,
    pub(crate) descriptor: Descriptor,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct AsyncOp {
    pub(crate) comm: Handle,
    pub(crate) tag: u64,
}

#[repr(C)]
pub(crate) struct Tensor {
    pub(crate) name: *const c_char,
    pub(crate) data: *mut c_void,
    pub(crate) count: usize,
    pub(crate) datatype: c_int,
    pub(crate) device: c_int,
    pub(crate) unequal: bool,
}

#[repr(C)]
pub(crate) struct State {
    pub(crate) revision: u64,
    pub(crate) count: usize,
    pub(crate) infos: *mut Tensor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct SyncInfo {
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
}

macro_rules! functions {
    ($($name:ident($($type:ty),*) -> $result:ty;)*) => {
        #[allow(non_snake_case, reason = "the names are PCCL's")]
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($type),*) -> $result,)*
        }

        impl Api {
            fn load(library: &'static libloading::Library) -> Api {
                Api {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the types are those of pccl.h.
                        *unsafe { library.get(symbol) }.expect("a function of pccl.h")
                    },)*
                }
            }
        }
    };
}

functions! {
    pcclInit() -> c_int;
    pcclGetBuildInfo(*mut bool) -> c_int;
    pcclCreateCommunicator(*const Params, *mut Handle) -> c_int;
    pcclDestroyCommunicator(Handle) -> c_int;
    pcclConnect(Handle) -> c_int;
    pcclGetAttribute(Handle, c_int, *mut c_int) -> c_int;
    pcclUpdateTopology(Handle) -> c_int;
    pcclArePeersPending(Handle, *mut bool) -> c_int;
    pcclOptimizeTopology(Handle) -> c_int;
    pcclAllReduce(*const c_void, *mut c_void, *const Descriptor, Handle, *mut Info) -> c_int;
    pcclAllReduceAsync(*const c_void, *mut c_void, *const Descriptor, Handle, *mut AsyncOp) -> c_int;
    pcclAwaitAsyncReduce(*const AsyncOp, *mut Info) -> c_int;
    pcclAllReduceMultipleWithRetry(*const OpDescriptor, usize, Handle, *mut Info, c_int) -> c_int;
    pcclSynchronizeSharedState(Handle, *mut State, c_int, *mut SyncInfo) -> c_int;
    pcclCreateMaster(Address, *mut Handle) -> c_int;
    pcclRunMaster(Handle) -> c_int;
    pcclInterruptMaster(Handle) -> c_int;
    pcclMasterAwaitTermination(Handle) -> c_int;
    pcclDestroyMaster(Handle) -> c_int;
    pcclGetLastError(Handle, *mut c_char, usize) -> usize;
    pcclResultToString(c_int) -> *const c_char;
    pcclGetVersion() -> *const c_char;
    pcclSetOption(Handle, *const c_char, *const c_char) -> c_int;
}

/// The shared object of this profile. Cargo builds it for nobody who only runs tests.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let program = std::env::current_exe().expect("this program");
        let folder = program.ancestors().nth(2).expect("the profile's folder");
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build
            .args([
                "build",
                "--locked",
                "--quiet",
                "--lib",
                "--package=pccl-capi",
            ])
            .arg("--target-dir")
            .arg(folder.parent().expect("the target's folder"))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().expect("cargo starts");
        assert!(status.success(), "{build:?}");
        folder.join("libpccl.so")
    })
}

/// The functions, before anybody has called `pcclInit`.
pub(crate) fn api_uninitialized() -> &'static Api {
    static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| {
        // No master here has peers of one before it to wait for.
        // SAFETY: all tests come through here before they do anything else.
        unsafe { std::env::set_var("PCCL_RECOVERY_WINDOW_MS", "0") };
        // SAFETY: it runs nothing when it is loaded.
        let library =
            LIBRARY.get_or_init(|| unsafe { libloading::Library::new(path()) }.expect("a library"));
        Api::load(library)
    })
}

/// The functions, after `pcclInit`.
pub(crate) fn api() -> &'static Api {
    let api = api_uninitialized();
    // SAFETY: it may be called at any time.
    assert_eq!(unsafe { (api.pcclInit)() }, 0);
    api
}

/// Of this thread.
pub(crate) fn last_error() -> String {
    last_error_of(NO_HANDLE)
}

pub(crate) fn last_error_of(communicator: Handle) -> String {
    let mut text = [0; 1000];
    // SAFETY: it writes as many bytes at most.
    unsafe { (api().pcclGetLastError)(communicator, text.as_mut_ptr(), text.len()) };
    // SAFETY: it ends with a zero byte.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    text.to_string_lossy().into_owned()
}

pub(crate) fn loopback(port: u16) -> Address {
    Address {
        protocol: 0,
        ipv4: [127, 0, 0, 1],
        ipv6: [0; 16],
        port,
    }
}

/// A master on a port that nobody else has.
pub(crate) struct Master {
    pub(crate) handle: Handle,
    pub(crate) port: u16,
}

impl Master {
    pub(crate) fn run() -> Master {
        // Another program may take the port between the two steps.
        for _ in 0..20 {
            let port = free_port();
            let mut handle = NO_HANDLE;
            // SAFETY: the pointers are to our own memory.
            unsafe {
                assert_eq!((api().pcclCreateMaster)(loopback(port), &raw mut handle), 0);
                if (api().pcclRunMaster)(handle) == 0 {
                    return Master { handle, port };
                }
                assert_eq!((api().pcclDestroyMaster)(handle), 0);
            }
        }
        panic!("no free port");
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // SAFETY: a handle may be used at any time.
        unsafe { (api().pcclDestroyMaster)(self.handle) };
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A communicator that takes any port.
pub(crate) struct Comm(pub(crate) Handle);

impl Comm {
    pub(crate) fn create(port: u16, group: u32) -> Comm {
        let params = Params {
            master: loopback(port),
            group,
            pool: 2,
        };
        let mut handle = NO_HANDLE;
        // SAFETY: the pointers are to our own memory.
        let code = unsafe { (api().pcclCreateCommunicator)(&raw const params, &raw mut handle) };
        assert_eq!(code, 0, "{}", last_error());
        let comm = Comm(handle);
        for (key, value) in [
            (c"listen_ports", c"0"),
            (c"master_grace_ms", c"0"),
            (c"connect_timeout_ms", c"2000"),
        ] {
            assert_eq!(comm.set(key, value), 0, "{}", last_error());
        }
        comm
    }

    pub(crate) fn set(&self, key: &CStr, value: &CStr) -> c_int {
        // SAFETY: both end with a zero byte.
        unsafe { (api().pcclSetOption)(self.0, key.as_ptr(), value.as_ptr()) }
    }

    pub(crate) fn connect(&self) -> c_int {
        // SAFETY: a handle may be used at any time; so below.
        unsafe { (api().pcclConnect)(self.0) }
    }

    pub(crate) fn attribute(&self, number: c_int) -> Result<c_int, c_int> {
        let mut value = -1;
        // SAFETY: the pointer is to our own memory.
        match unsafe { (api().pcclGetAttribute)(self.0, number, &raw mut value) } {
            0 => Ok(value),
            code => Err(code),
        }
    }

    pub(crate) fn world(&self) -> c_int {
        self.attribute(2).expect("connected")
    }

    pub(crate) fn pending(&self) -> Result<bool, c_int> {
        let mut value = false;
        // SAFETY: the pointer is to our own memory.
        match unsafe { (api().pcclArePeersPending)(self.0, &raw mut value) } {
            0 => Ok(value),
            code => Err(code),
        }
    }

    pub(crate) fn update(&self) -> c_int {
        // SAFETY: as in `connect`.
        unsafe { (api().pcclUpdateTopology)(self.0) }
    }

    pub(crate) fn optimize(&self) -> c_int {
        // SAFETY: as in `connect`.
        unsafe { (api().pcclOptimizeTopology)(self.0) }
    }

    pub(crate) fn destroy(&self) -> c_int {
        // SAFETY: as in `connect`.
        unsafe { (api().pcclDestroyCommunicator)(self.0) }
    }

    /// Lets others in until `count` are there.
    pub(crate) fn gather(&self, count: c_int) {
        while self.attribute(1).expect("connected") < count {
            if self.pending().expect("connected") {
                assert_eq!(self.update(), 0, "{}", last_error());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sums floats, out of place.
    pub(crate) fn sum(&self, values: &[f32], tag: u64) -> Result<(Vec<f32>, Info), c_int> {
        let mut sum = vec![0.0; values.len()];
        let mut info = Info::default();
        let descriptor = floats(values.len(), tag);
        // SAFETY: the buffers are ours until the call returns.
        let code = unsafe {
            (api().pcclAllReduce)(
                values.as_ptr().cast(),
                sum.as_mut_ptr().cast(),
                &raw const descriptor,
                self.0,
                &raw mut info,
            )
        };
        match code {
            0 => Ok((sum, info)),
            code => Err(code),
        }
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// A sum of floats.
pub(crate) fn floats(count: usize, tag: u64) -> Descriptor {
    Descriptor {
        count,
        op: 0,
        tag,
        datatype: 10,
        hint: 0,
        quantized: 10,
        algorithm: 0,
    }
}

/// Runs `work` at so many peers of one run that all see each other, each in a thread of its own.
pub(crate) fn peers<R: Send>(
    count: usize,
    work: impl Fn(usize, &Comm) -> R + Sync,
) -> (Master, Vec<R>) {
    let master = Master::run();
    // Nobody leaves before all have seen all.
    let (work, gathered) = (&work, &Barrier::new(count));
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let port = master.port;
                scope.spawn(move || {
                    let comm = Comm::create(port, 0);
                    assert_eq!(comm.connect(), 0, "{}", last_error());
                    comm.gather(count as c_int);
                    gathered.wait();
                    work(number, &comm)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.expect("no panic")).collect()
    });
    (master, results)
}
