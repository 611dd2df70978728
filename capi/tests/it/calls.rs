//! What each function of a communicator answers in which situation.

use std::ffi::CStr;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use crate::library::*;

#[test]
fn calls_before_connect_are_invalid_usage_and_null_is_an_invalid_argument() {
    let (api, comm) = (api(), Comm::create(1, 0));
    let descriptor = floats(1, 0);
    let (mut flag, mut number, mut info) = (false, 7, Info::default());
    let mut op = AsyncOp {
        comm: comm.0,
        tag: 0,
    };
    for (handle, code) in [(NO_HANDLE, 3), (comm.0, 4), (Handle(0x10 as *mut _), 4)] {
        // SAFETY: the pointers are NULL or to our own memory.
        unsafe {
            assert_eq!((api.pcclGetAttribute)(handle, 1, &raw mut number), code);
            assert_eq!((api.pcclGetAttribute)(handle, 1, null_mut()), code);
            assert_eq!((api.pcclUpdateTopology)(handle), code);
            assert_eq!((api.pcclArePeersPending)(handle, &raw mut flag), code);
            assert_eq!((api.pcclOptimizeTopology)(handle), code);
            let (send, recv) = ((&raw const number).cast(), (&raw mut number).cast());
            let descriptor = &raw const descriptor;
            let reduced = (api.pcclAllReduce)(send, recv, descriptor, handle, &raw mut info);
            assert_eq!(reduced, code);
            let started = (api.pcclAllReduceAsync)(send, recv, descriptor, handle, &raw mut op);
            assert_eq!(started, code);
            let operation = OpDescriptor {
                send: recv,
                recv,
                descriptor: *descriptor,
            };
            let many = (api.pcclAllReduceMultipleWithRetry)(
                &raw const operation,
                1,
                handle,
                &raw mut info,
                1,
            );
            assert_eq!(many, code);
            let synced = (api.pcclSynchronizeSharedState)(handle, null_mut(), 0, null_mut());
            assert_eq!(synced, code);
            op.comm = handle;
            assert_eq!((api.pcclAwaitAsyncReduce)(&raw const op, null_mut()), code);
        }
    }
    // SAFETY: as above.
    unsafe {
        assert_eq!((api.pcclArePeersPending)(comm.0, null_mut()), 3);
        assert_eq!((api.pcclAwaitAsyncReduce)(null(), null_mut()), 3);
        assert_eq!((api.pcclCreateCommunicator)(null(), null_mut()), 3);
        let mut out = NO_HANDLE;
        assert_eq!((api.pcclCreateCommunicator)(null(), &raw mut out), 3);
        assert_eq!((api.pcclConnect)(NO_HANDLE), 3);
        assert_eq!((api.pcclDestroyCommunicator)(NO_HANDLE), 3);
        assert_eq!((api.pcclGetBuildInfo)(null_mut()), 3);
        let mut has_cuda = true;
        assert_eq!((api.pcclGetBuildInfo)(&raw mut has_cuda), 0);
        assert!(!has_cuda);
    }
    assert_eq!(number, 7, "nothing is written where a call fails");
}

#[test]
fn a_destroyed_communicator_is_an_error_and_no_crash() {
    let comm = Comm::create(1, 0);
    assert_eq!(comm.destroy(), 0);
    assert_eq!(comm.destroy(), 4);
    assert_eq!(comm.connect(), 4);
    assert_eq!(comm.attribute(1), Err(4));
}

#[test]
fn connect_may_be_tried_again_and_only_once_succeeds() {
    let port = free_port();
    let comm = Comm::create(port, 0);
    assert_eq!(comm.set(c"connect_timeout_ms", c"200"), 0);
    assert_eq!(comm.connect(), 6);
    assert!(
        last_error().contains(&format!("127.0.0.1:{port}")),
        "{}",
        last_error()
    );
    assert_eq!(comm.update(), 4);
    let master = Master::run();
    let comm = Comm::create(master.port, 0);
    assert_eq!(comm.connect(), 0);
    assert_eq!(comm.connect(), 4);
    for (number, expected) in [
        (1, Ok(1)),
        (2, Ok(1)),
        (3, Ok(1)),
        (4, Ok(1)),
        (0, Err(3)),
        (5, Err(3)),
    ] {
        assert_eq!(comm.attribute(number), expected, "attribute {number}");
    }
    // SAFETY: NULL is an error.
    let code = unsafe { (api().pcclGetAttribute)(comm.0, 1, null_mut()) };
    assert_eq!(code, 3);
    assert_eq!(comm.set(c"lanes", c"2"), 4);
}

#[test]
fn a_peer_that_is_alone_may_sync_and_update_and_cannot_reduce_or_optimise() {
    let master = Master::run();
    let comm = Comm::create(master.port, 0);
    assert_eq!(comm.connect(), 0);
    assert_eq!(comm.update(), 0);
    assert_eq!(comm.pending(), Ok(false));
    assert_eq!(comm.optimize(), 4);
    assert_eq!(comm.sum(&[1.0], 0), Err(5));
}

#[test]
fn options_are_named_where_they_make_no_sense() {
    let comm = Comm::create(1, 0);
    assert_eq!(comm.set(c"lanes", c"16"), 0);
    assert_eq!(comm.set(c"lanez", c"16"), 3);
    assert!(last_error().contains("lanez"), "{}", last_error());
    assert_eq!(comm.set(c"lanes", c"some"), 3);
    assert!(last_error().contains("`some`"), "{}", last_error());
    // Checked with all the others when it connects.
    assert_eq!(comm.set(c"lanes", c"0"), 0);
    assert_eq!(comm.connect(), 3);
    assert!(last_error().contains("lanes_per_link"), "{}", last_error());
    // SAFETY: NULL is an error.
    unsafe {
        assert_eq!((api().pcclSetOption)(comm.0, null(), c"1".as_ptr()), 3);
        assert_eq!((api().pcclSetOption)(comm.0, c"lanes".as_ptr(), null()), 3);
    }
}

#[test]
fn a_communicator_keeps_the_text_of_its_own_last_failure_for_every_thread() {
    let (one, other) = (Comm::create(1, 0), Comm::create(1, 0));
    assert_eq!(last_error_of(one.0), "");
    assert_eq!(one.set(c"nothing", c"1"), 3);
    assert_eq!(other.update(), 4);
    let seen = std::thread::scope(|scope| {
        let asks = scope.spawn(|| [last_error(), last_error_of(one.0), last_error_of(other.0)]);
        asks.join().expect("asked")
    });
    assert_eq!(seen[0], "", "nothing failed there");
    assert!(
        seen[1].starts_with("pcclSetOption: ") && seen[1].contains("`nothing`"),
        "{seen:?}"
    );
    assert!(seen[2].starts_with("pcclUpdateTopology: "), "{seen:?}");
}

#[test]
fn before_init_only_masters_and_the_build_info_answer() {
    // Other tests of this program have called it.
    if !is_alone("calls::before_init_only_masters_and_the_build_info_answer") {
        return;
    }
    let api = api_uninitialized();
    let (mut handle, mut number, mut flag) = (NO_HANDLE, 0, false);
    let operation = AsyncOp {
        comm: NO_HANDLE,
        tag: 0,
    };
    // SAFETY: the pointers are NULL or to our own memory.
    unsafe {
        assert_eq!((api.pcclCreateCommunicator)(null(), &raw mut handle), 1);
        assert_eq!((api.pcclDestroyCommunicator)(NO_HANDLE), 1);
        assert_eq!((api.pcclConnect)(NO_HANDLE), 1);
        assert_eq!((api.pcclGetAttribute)(NO_HANDLE, 1, &raw mut number), 1);
        assert_eq!((api.pcclUpdateTopology)(NO_HANDLE), 1);
        assert_eq!((api.pcclArePeersPending)(NO_HANDLE, &raw mut flag), 1);
        assert_eq!((api.pcclOptimizeTopology)(NO_HANDLE), 1);
        let reduced = (api.pcclAllReduce)(null(), null_mut(), null(), NO_HANDLE, null_mut());
        assert_eq!(reduced, 1);
        assert_eq!(
            (api.pcclAwaitAsyncReduce)(&raw const operation, null_mut()),
            1
        );
        let many = (api.pcclAllReduceMultipleWithRetry)(null(), 0, NO_HANDLE, null_mut(), 0);
        assert_eq!(many, 1);
        let synced = (api.pcclSynchronizeSharedState)(NO_HANDLE, null_mut(), 0, null_mut());
        assert_eq!(synced, 1);
        assert_eq!((api.pcclGetBuildInfo)(&raw mut flag), 0);
        assert_eq!((api.pcclCreateMaster)(loopback(1), &raw mut handle), 0);
        assert_eq!((api.pcclDestroyMaster)(handle), 0);
        assert_eq!((api.pcclInit)(), 0);
        assert_eq!((api.pcclDestroyCommunicator)(NO_HANDLE), 3);
    }
}

/// Runs the named test in a process of its own; true there.
fn is_alone(name: &str) -> bool {
    if std::env::var_os("PCCL_TEST_ALONE").is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--test-threads=1"])
        .env("PCCL_TEST_ALONE", "1")
        .status();
    assert!(status.expect("it ran").success());
    false
}

#[test]
fn codes_have_names_and_texts_are_cut_to_the_space_there_is() {
    // SAFETY: what comes back is never NULL and ends with a zero byte.
    let name = |code| unsafe { CStr::from_ptr((api().pcclResultToString)(code)) };
    assert_eq!(name(0), c"pcclSuccess");
    assert_eq!(name(12), c"pcclTopologyOptimizationFailed");
    assert_eq!(name(13), name(-1));
    // SAFETY: as above.
    let version = unsafe { CStr::from_ptr((api().pcclGetVersion)()) };
    assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    assert_eq!(Comm(NO_HANDLE).connect(), 3);
    let mut text = [1; 6];
    // SAFETY: it writes as many bytes at most.
    let len = unsafe { (api().pcclGetLastError)(NO_HANDLE, text.as_mut_ptr(), 5) };
    assert_eq!(len, last_error().len());
    assert_eq!((text[4], text[5]), (0, 1));
    // SAFETY: nothing is written.
    let whole = unsafe { (api().pcclGetLastError)(NO_HANDLE, null_mut(), 0) };
    assert_eq!(whole, len);
}

#[test]
fn after_the_masters_end_every_call_fails_at_once_and_the_world_is_one() {
    let (master, ()) = {
        let master = Master::run();
        (master, ())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let comm = Comm::create(master.port, 0);
                    assert_eq!(comm.connect(), 0);
                    comm.gather(2);
                    comm
                })
            })
            .collect();
        let comms: Vec<Comm> = threads
            .into_iter()
            .map(|t| t.join().expect("joined"))
            .collect();
        // SAFETY: a handle may be used at any time.
        assert_eq!(unsafe { (api().pcclDestroyMaster)(master.handle) }, 0);
        for comm in &comms {
            while comm.world() > 1 {
                std::thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(comm.update(), 11);
            assert!(last_error().contains("master"), "{}", last_error());
            assert_eq!(comm.pending(), Err(4));
            assert_eq!(comm.sum(&[1.0], 0), Err(5));
            assert_eq!(comm.connect(), 4);
            assert_eq!(comm.optimize(), 4);
            assert_eq!(comm.destroy(), 0);
        }
    });
}

#[test]
fn groups_count_their_own_peers_and_all() {
    let master = Master::run();
    std::thread::scope(|scope| {
        for group in [0, 0, 1] {
            let port = master.port;
            scope.spawn(move || {
                let comm = Comm::create(port, group);
                assert_eq!(comm.connect(), 0);
                comm.gather(3);
                let own = if group == 0 { 2 } else { 1 };
                let seen = [1, 2, 3, 4].map(|number| comm.attribute(number));
                assert_eq!(seen, [Ok(3), Ok(own), Ok(2), Ok(2)]);
                assert_eq!(comm.optimize(), 0, "{}", last_error());
            });
        }
    });
}

#[test]
fn many_communicators_and_masters_leave_no_thread_and_no_descriptor() {
    let count = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let round = || {
        let (_master, sums) = peers(2, |_, comm| comm.sum(&[1.0], 0).map(|(sum, _)| sum));
        assert_eq!(sums, [Ok(vec![2.0]), Ok(vec![2.0])]);
    };
    // Other tests of this program have threads and descriptors of their own.
    if !is_alone("calls::many_communicators_and_masters_leave_no_thread_and_no_descriptor") {
        return;
    }
    let rounds = std::env::var("PCCL_TEST_ROUNDS").map_or(20, |n| n.parse().expect("a number"));
    round();
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    for _ in 0..rounds {
        round();
    }
    // A thread that was joined is listed for a moment longer.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let after = (count("/proc/self/task"), count("/proc/self/fd"));
        if after <= before {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{after:?} threads and descriptors, {before:?} before"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
