//! The life of a master.

use std::ptr::null_mut;

use crate::library::*;

#[test]
fn a_master_runs_once_and_is_awaited_after_it_was_interrupted() {
    let api = api();
    let mut handle = NO_HANDLE;
    // SAFETY: the pointers are NULL or to our own memory, and a handle may be used at any time.
    unsafe {
        for call in [
            api.pcclRunMaster,
            api.pcclInterruptMaster,
            api.pcclMasterAwaitTermination,
            api.pcclDestroyMaster,
        ] {
            assert_eq!(call(NO_HANDLE), 3);
        }
        assert_eq!((api.pcclCreateMaster)(loopback(1), null_mut()), 3);
        let taken = Master::run();
        assert_eq!((api.pcclRunMaster)(taken.handle), 4, "it runs");
        // The address is taken, and it never runs.
        assert_eq!(
            (api.pcclCreateMaster)(loopback(taken.port), &raw mut handle),
            0
        );
        assert_eq!((api.pcclInterruptMaster)(handle), 4);
        assert_eq!((api.pcclMasterAwaitTermination)(handle), 4);
        assert_eq!((api.pcclRunMaster)(handle), 4);
        assert!(
            last_error().contains(&taken.port.to_string()),
            "{}",
            last_error()
        );
        assert_eq!((api.pcclInterruptMaster)(handle), 4);
        assert_eq!((api.pcclDestroyMaster)(handle), 0);
        assert_eq!((api.pcclDestroyMaster)(handle), 4);
        // The other's life.
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| (api.pcclMasterAwaitTermination)(taken.handle));
            assert_eq!((api.pcclInterruptMaster)(taken.handle), 0);
            assert_eq!((api.pcclInterruptMaster)(taken.handle), 0);
            assert_eq!(waits.join().ok(), Some(0));
        });
        assert_eq!((api.pcclMasterAwaitTermination)(taken.handle), 0);
        assert_eq!((api.pcclRunMaster)(taken.handle), 4);
    }
}

#[test]
fn port_0_and_an_unknown_kind_of_address_are_refused() {
    let mut handle = NO_HANDLE;
    // SAFETY: as above.
    unsafe {
        assert_eq!((api().pcclCreateMaster)(loopback(0), &raw mut handle), 0);
        assert_eq!((api().pcclRunMaster)(handle), 4);
        assert_eq!((api().pcclRunMaster)(handle), 4);
        assert_eq!((api().pcclDestroyMaster)(handle), 0);
        let mut address = loopback(1);
        address.protocol = 2;
        assert_eq!((api().pcclCreateMaster)(address, &raw mut handle), 3);
    }
}

#[test]
fn ipv6_addresses_are_understood() {
    let api = api();
    let mut address = loopback(free_port());
    (address.protocol, address.ipv6[15]) = (1, 1);
    let (mut master, mut comm) = (NO_HANDLE, NO_HANDLE);
    // SAFETY: as above.
    unsafe {
        assert_eq!((api.pcclCreateMaster)(address, &raw mut master), 0);
        if (api.pcclRunMaster)(master) != 0 {
            eprintln!("skipped: needs IPv6 on loopback");
            assert!(std::env::var_os("PCCL_TEST_REQUIRE_IPV6").is_none());
            return;
        }
        let params = Params {
            master: address,
            group: 0,
            pool: 0,
        };
        assert_eq!(
            (api.pcclCreateCommunicator)(&raw const params, &raw mut comm),
            0
        );
        let comm = Comm(comm);
        assert_eq!(comm.set(c"listen_ports", c"0"), 0);
        assert_eq!(comm.connect(), 0, "{}", last_error());
        assert_eq!(comm.world(), 1);
        assert_eq!(comm.destroy(), 0);
        assert_eq!((api.pcclDestroyMaster)(master), 0);
    }
}
