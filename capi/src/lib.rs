//! `libpccl.so` and `libpccl.a`: the C API of PCCL 1.0, carried out by this repository's library.
//!
//! ```text
//!   pccl.h  ──►  here: null and size checks, numbers to types,      ──►  core_pccl::Communicator
//!                handles to objects, errors to codes and a text          core_pccl::Master
//!
//!   types.rs          what crosses the boundary, sizes and places held to the header
//!   guard.rs          no panic leaves; the text of the last error
//!   handles.rs        a pointer that C holds, and the object behind it, also after it is gone
//!   communicator.rs   create, connect, ask, destroy      reduce.rs         all-reduces
//!   shared_state.rs   the sync                           master.rs         the master
//!   options.rs        settings by key and environment    logging.rs        PCCL_LOG_LEVEL
//! ```
//!
//! `include/pccl.h` says what each function does and what each code asks of its caller.

mod communicator;
mod guard;
mod handles;
mod logging;
mod master;
mod options;
mod reduce;
mod shared_state;
mod types;
