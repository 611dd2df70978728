//! The shared state through C.

use std::ffi::c_int;
use std::ptr::null_mut;

use crate::library::*;

/// Presents one tensor of floats, or of another type over the same bytes.
fn sync(
    comm: &Comm,
    values: &mut [f32],
    revision: &mut u64,
    strategy: c_int,
) -> Result<SyncInfo, c_int> {
    sync_as(comm, values, revision, strategy, 10, 0)
}

fn sync_as(
    comm: &Comm,
    values: &mut [f32],
    revision: &mut u64,
    strategy: c_int,
    datatype: c_int,
    device: c_int,
) -> Result<SyncInfo, c_int> {
    let mut tensor = Tensor {
        name: c"weights".as_ptr(),
        data: values.as_mut_ptr().cast(),
        count: values.len(),
        datatype,
        device,
        unequal: false,
    };
    let mut state = State {
        revision: *revision,
        count: 1,
        infos: &raw mut tensor,
    };
    let mut info = SyncInfo::default();
    // SAFETY: the tensor is ours until the call returns.
    let code = unsafe {
        (api().pcclSynchronizeSharedState)(comm.0, &raw mut state, strategy, &raw mut info)
    };
    *revision = state.revision;
    match code {
        0 => Ok(info),
        code => Err(code),
    }
}

#[test]
fn what_most_hold_reaches_everybody_and_a_second_round_moves_nothing() {
    let (_master, _) = peers(3, |number, comm| {
        let mut values = if number == 1 { [7.0; 100] } else { [1.0; 100] };
        let mut revision = 0;
        let info = sync(comm, &mut values, &mut revision, 0).expect("a sync");
        assert_eq!((values, revision), ([1.0; 100], 0));
        assert_eq!(info.rx_bytes, if number == 1 { 400 } else { 0 });
        revision += 1;
        let info = sync(comm, &mut values, &mut revision, 0).expect("a sync");
        assert_eq!((info, revision), (SyncInfo::default(), 1));
    });
}

#[test]
fn senders_win_over_receivers() {
    let (_master, _) = peers(3, |number, comm| {
        let mut values = [number as f32; 10];
        let strategy = if number == 0 { 2 } else { 1 };
        sync(comm, &mut values, &mut 0, strategy).expect("a sync");
        assert_eq!(values, [0.0; 10]);
    });
}

#[test]
fn a_peer_alone_syncs_with_itself() {
    let master = Master::run();
    let comm = Comm::create(master.port, 0);
    assert_eq!(comm.connect(), 0);
    let mut revision = 41;
    let info = sync(&comm, &mut [1.0; 3], &mut revision, 0);
    assert_eq!((info, revision), (Ok(SyncInfo::default()), 41));
}

#[test]
fn receivers_alone_have_nothing_to_receive() {
    let (_master, results) = peers(2, |number, comm| {
        sync(comm, &mut [number as f32; 4], &mut 0, 1)
    });
    assert_eq!(results, [Err(4), Err(4)]);
}

#[test]
fn a_sender_among_those_who_enforce_what_is_popular_is_evicted() {
    let (_master, results) = peers(3, |number, comm| {
        let strategy = if number == 2 { 2 } else { 0 };
        let result = sync(comm, &mut [1.0; 4], &mut 0, strategy).map(|_| ());
        if number == 2 {
            assert_eq!(comm.world(), 1, "out of the run");
        }
        result
    });
    assert_eq!(results, [Ok(()), Ok(()), Err(4)]);
}

#[test]
fn a_state_that_makes_no_sense_is_refused() {
    let master = Master::run();
    let comm = Comm::create(master.port, 0);
    assert_eq!(comm.connect(), 0);
    assert_eq!(sync(&comm, &mut [1.0], &mut 0, 3), Err(3));
    assert_eq!(sync(&comm, &mut [1.0], &mut 0, -1), Err(3));
    assert_eq!(sync_as(&comm, &mut [1.0], &mut 0, 0, 12, 0), Err(3));
    assert_eq!(sync_as(&comm, &mut [1.0], &mut 0, 0, 10, 1), Err(3));
    assert!(last_error().contains("weights"), "{}", last_error());
    let mut state = State {
        revision: 0,
        count: 1,
        infos: null_mut(),
    };
    // SAFETY: NULL is an error.
    unsafe {
        let sync = api().pcclSynchronizeSharedState;
        assert_eq!(sync(comm.0, null_mut(), 0, null_mut()), 3);
        assert_eq!(sync(comm.0, &raw mut state, 0, null_mut()), 3);
    }
}

#[test]
fn a_newcomer_is_given_what_the_others_hold() {
    let master = Master::run();
    let old = Comm::create(master.port, 0);
    assert_eq!(old.connect(), 0);
    let (mut values, mut revision) = (vec![3.0_f32; 100_000], 0);
    sync(&old, &mut values, &mut revision, 0).expect("a sync");
    revision += 1;
    std::thread::scope(|scope| {
        let port = master.port;
        let joined = scope.spawn(move || {
            let new = Comm::create(port, 0);
            assert_eq!(new.connect(), 0);
            let (mut values, mut revision) = (vec![0.0_f32; 100_000], 0);
            let info = sync(&new, &mut values, &mut revision, 0).expect("a sync");
            assert_eq!((info.rx_bytes, revision), (400_000, 1));
            values
        });
        old.gather(2);
        let info = sync(&old, &mut values, &mut revision, 0).expect("a sync");
        assert_eq!(info.tx_bytes, 400_000);
        assert_eq!(joined.join().expect("joined"), values);
    });
}
