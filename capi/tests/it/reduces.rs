//! All-reduces through C: what they give, and what they answer where they cannot.

use std::ffi::c_int;
use std::ptr::{null, null_mut};

use crate::library::*;

#[test]
fn sums_are_the_same_everywhere_and_the_info_tells_what_moved() {
    let (_master, results) = peers(3, |number, comm| {
        let values = vec![number as f32 + 1.0; 1000];
        comm.sum(&values, 7).expect("a sum")
    });
    for (sum, info) in results {
        assert_eq!(sum, vec![6.0; 1000]);
        assert_eq!(info.world, 3);
        assert!(info.tx_bytes >= 4000 && info.rx_bytes >= 4000, "{info:?}");
    }
}

#[test]
fn few_and_many_elements_are_summed_at_every_world_size_in_place_and_not() {
    for world in [2, 3, 4] {
        let (_master, _) = peers(world, |number, comm| {
            for count in [1, 2, 3, 1025, 203_530] {
                let own = |n: usize, i: usize| (n + 1) as f32 * (i % 7) as f32;
                let send: Vec<f32> = (0..count).map(|i| own(number, i)).collect();
                let expected: Vec<f32> = (0..count)
                    .map(|i| (0..world).map(|n| own(n, i)).sum())
                    .collect();
                let (sum, info) = comm.sum(&send, 0).expect("a sum");
                assert!(sum == expected, "{count} at {world}");
                assert_eq!(info.world as usize, world);
                let mut buffers = [send];
                assert_eq!(many(comm, &mut buffers, 1).0, 0, "{}", last_error());
                assert!(buffers[0] == expected, "{count} at {world}, in place");
            }
        });
    }
}

#[test]
fn averages_of_integers_are_cut_towards_zero() {
    let (_master, results) = peers(2, |number, comm| {
        let mut values = if number == 0 {
            [-3_i32, 3, 8]
        } else {
            [0, 0, 1]
        };
        let descriptor = Descriptor {
            op: 1,
            datatype: 5,
            ..floats(3, 0)
        };
        let place = values.as_mut_ptr();
        // SAFETY: the buffer is ours until the call returns.
        let code = unsafe {
            let descriptor = &raw const descriptor;
            (api().pcclAllReduce)(place.cast(), place.cast(), descriptor, comm.0, null_mut())
        };
        assert_eq!(code, 0, "{}", last_error());
        values
    });
    assert_eq!(results, [[-1, 1, 4]; 2]);
}

#[test]
fn every_type_and_reduction_goes_through() {
    let (_master, _) = peers(2, |_, comm| {
        for datatype in 0..12 {
            for op in 0..5 {
                let mut buffer = [0_u8; 8 * 16];
                let descriptor = Descriptor {
                    op,
                    datatype,
                    ..floats(16, 1)
                };
                // One buffer, and not aligned.
                let place = buffer[1..].as_mut_ptr();
                let descriptor = Descriptor {
                    count: 15,
                    ..descriptor
                };
                // SAFETY: 15 elements of 8 bytes fit behind the first byte.
                let code = unsafe {
                    let descriptor = &raw const descriptor;
                    (api().pcclAllReduce)(
                        place.cast(),
                        place.cast(),
                        descriptor,
                        comm.0,
                        null_mut(),
                    )
                };
                assert_eq!(code, 0, "type {datatype}, op {op}: {}", last_error());
            }
        }
    });
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let (_master, _) = peers(2, |_, comm| {
        let mut value = 1.0_f32;
        let place: *mut f32 = &raw mut value;
        let mut op = AsyncOp {
            comm: comm.0,
            tag: 0,
        };
        let usual = floats(1, 0);
        let wrong = [
            Descriptor {
                datatype: 12,
                ..usual
            },
            Descriptor {
                datatype: -1,
                ..usual
            },
            Descriptor { op: 5, ..usual },
            Descriptor {
                algorithm: 3,
                ..usual
            },
            Descriptor {
                algorithm: 1,
                quantized: 99,
                ..usual
            },
            // Codes that are no integers, and elements that are no floats.
            Descriptor {
                algorithm: 2,
                quantized: 9,
                ..usual
            },
            Descriptor {
                datatype: 5,
                algorithm: 1,
                quantized: 0,
                ..usual
            },
            Descriptor {
                count: usize::MAX / 2,
                ..usual
            },
        ];
        for descriptor in wrong {
            let descriptor = &raw const descriptor;
            // SAFETY: the pointers are NULL or to our own memory; so below.
            let code = unsafe {
                (api().pcclAllReduceAsync)(
                    place.cast(),
                    place.cast(),
                    descriptor,
                    comm.0,
                    &raw mut op,
                )
            };
            assert_eq!(code, 3);
        }
        // SAFETY: as above.
        unsafe {
            let start = api().pcclAllReduceAsync;
            let usual = &raw const usual;
            assert_eq!(
                start(place.cast(), place.cast(), usual, comm.0, null_mut()),
                3
            );
            assert_eq!(
                start(place.cast(), place.cast(), null(), comm.0, &raw mut op),
                3
            );
            assert_eq!(start(null(), place.cast(), usual, comm.0, &raw mut op), 3);
            assert_eq!(
                start(place.cast(), null_mut(), usual, comm.0, &raw mut op),
                3
            );
        }
        // Nothing of it is left: the tag is free.
        assert_eq!(comm.sum(&[1.0], 0).expect("a sum").0, [2.0]);
    });
}

#[test]
fn a_tag_is_in_use_until_it_is_awaited_and_awaited_once() {
    let (_master, _) = peers(2, |_, comm| {
        let (send, mut recv) = ([1.0_f32; 4], [0.0_f32; 4]);
        let descriptor = floats(4, 3);
        let mut op = AsyncOp {
            comm: NO_HANDLE,
            tag: 99,
        };
        let mut info = Info::default();
        // SAFETY: the buffers live until the operation was awaited.
        unsafe {
            let (send, recv) = (send.as_ptr().cast(), recv.as_mut_ptr().cast());
            let start =
                |op| (api().pcclAllReduceAsync)(send, recv, &raw const descriptor, comm.0, op);
            assert_eq!(start(&raw mut op), 0);
            assert_eq!((op.comm, op.tag), (comm.0, 3));
            let mut other = op;
            assert_eq!(start(&raw mut other), 3, "in use");
            assert_eq!(comm.update(), 10);
            assert_eq!(comm.optimize(), 10);
            let mut state = State {
                revision: 0,
                count: 0,
                infos: null_mut(),
            };
            let synced = (api().pcclSynchronizeSharedState)(comm.0, &raw mut state, 0, null_mut());
            assert_eq!(synced, 10);
            assert_eq!(comm.pending(), Ok(false), "runs beside operations");
            assert_eq!(
                (api().pcclAwaitAsyncReduce)(&raw const op, &raw mut info),
                0
            );
            assert_eq!(
                (api().pcclAwaitAsyncReduce)(&raw const op, &raw mut info),
                8
            );
            op.tag = 1234;
            assert_eq!((api().pcclAwaitAsyncReduce)(&raw const op, null_mut()), 8);
        }
        assert_eq!((recv, info.world), ([2.0; 4], 2));
    });
}

#[test]
fn nothing_is_reduced_where_there_is_nothing() {
    let (_master, results) = peers(2, |_, comm| comm.sum(&[], 5));
    for result in results {
        assert_eq!(
            result.map(|(_, info)| info),
            Ok(Info {
                world: 2,
                tx_bytes: 0,
                rx_bytes: 0
            })
        );
    }
}

#[test]
fn peers_that_differ_in_a_descriptor_are_all_told() {
    let (_master, results) = peers(2, |number, comm| {
        let code = comm.sum(&vec![1.0; 10 + number], 2).map(|_| ());
        (code, last_error())
    });
    for (code, text) in results {
        assert_eq!(code, Err(3));
        assert!(text.contains("count"), "{text}");
    }
}

fn many(comm: &Comm, buffers: &mut [Vec<f32>], in_flight: c_int) -> (c_int, Info) {
    let operations: Vec<OpDescriptor> = (0..)
        .zip(&mut *buffers)
        .map(|(tag, buffer)| OpDescriptor {
            send: buffer.as_mut_ptr().cast(),
            recv: buffer.as_mut_ptr().cast(),
            descriptor: floats(buffer.len(), tag),
        })
        .collect();
    let mut info = Info::default();
    // SAFETY: the buffers are ours until the call returns.
    let code = unsafe {
        (api().pcclAllReduceMultipleWithRetry)(
            operations.as_ptr(),
            operations.len(),
            comm.0,
            &raw mut info,
            in_flight,
        )
    };
    (code, info)
}

#[test]
fn many_operations_are_reduced_or_the_call_says_why() {
    let (_master, _) = peers(2, |_, comm| {
        let mut buffers = vec![vec![1.0_f32; 100]; 9];
        assert_eq!(many(comm, &mut buffers, 0).0, 3);
        assert_eq!(many(comm, &mut buffers, -1).0, 3);
        assert_eq!(many(comm, &mut [], 1).0, 3);
        let nothing = OpDescriptor {
            send: null_mut(),
            recv: null_mut(),
            descriptor: floats(1, 0),
        };
        for count in [1, usize::MAX] {
            // SAFETY: a buffer that is NULL, and more descriptors than there can be, are errors.
            let code = unsafe {
                let nothing = &raw const nothing;
                (api().pcclAllReduceMultipleWithRetry)(nothing, count, comm.0, null_mut(), 1)
            };
            assert_eq!(code, 3);
        }
        let (code, info) = many(comm, &mut buffers, 4);
        assert_eq!((code, info.world), (0, 2));
        assert!(buffers.iter().all(|buffer| *buffer == [2.0; 100]));
        // SAFETY: NULL is an error.
        let code =
            unsafe { (api().pcclAllReduceMultipleWithRetry)(null(), 1, comm.0, null_mut(), 1) };
        assert_eq!(code, 3);
    });
}

#[test]
fn a_lost_peer_costs_an_error_that_names_it_and_no_input() {
    let (_master, results) = peers(3, |number, comm| {
        if number == 2 {
            // With the others in an operation that needs it.
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert_eq!(comm.destroy(), 0);
            return Vec::new();
        }
        let mut buffer = vec![number as f32 + 1.0; 50_000];
        let descriptor = floats(buffer.len(), 0);
        let reduce = |buffer: &mut Vec<f32>| {
            let place = buffer.as_mut_ptr();
            // SAFETY: the buffer is ours until the call returns.
            unsafe {
                let descriptor = &raw const descriptor;
                (api().pcclAllReduce)(place.cast(), place.cast(), descriptor, comm.0, null_mut())
            }
        };
        assert_eq!(reduce(&mut buffer), 8);
        assert!(last_error().contains("lost peer"), "{}", last_error());
        assert_eq!(buffer, vec![number as f32 + 1.0; 50_000]);
        assert_eq!(comm.world(), 2, "known as soon as the error is");
        assert_eq!(reduce(&mut buffer), 0);
        buffer
    });
    assert!(results[..2].iter().all(|sum| *sum == vec![3.0; 50_000]));
}

#[test]
fn many_go_on_without_a_lost_peer_and_each_is_reduced() {
    let (_master, results) = peers(3, |number, comm| {
        let mut buffers = vec![vec![1.0_f32; 20_000]; 12];
        if number == 2 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            assert_eq!(comm.destroy(), 0);
            return Vec::new();
        }
        assert_eq!(many(comm, &mut buffers, 3).0, 0, "{}", last_error());
        buffers
    });
    for buffers in &results[..2] {
        for buffer in buffers {
            assert!(*buffer == [2.0; 20_000] || *buffer == [3.0; 20_000]);
        }
    }
    assert_eq!(results[0], results[1]);
}

#[test]
fn destroying_ends_what_runs_and_gives_the_memory_back() {
    let (_master, _) = peers(2, |number, comm| {
        if number == 1 {
            return;
        }
        let mut buffer = vec![1.0_f32; 1000];
        let descriptor = floats(buffer.len(), 0);
        let mut op = AsyncOp {
            comm: comm.0,
            tag: 0,
        };
        let place = buffer.as_mut_ptr();
        // SAFETY: the buffer lives until the communicator is destroyed.
        unsafe {
            let descriptor = &raw const descriptor;
            let code = (api().pcclAllReduceAsync)(
                place.cast(),
                place.cast(),
                descriptor,
                comm.0,
                &raw mut op,
            );
            assert!(code == 0 || code == 5, "{code}");
        }
        assert_eq!(comm.destroy(), 0);
        assert_eq!(buffer, vec![1.0; 1000]);
        // SAFETY: a handle may be used at any time.
        let code = unsafe { (api().pcclAwaitAsyncReduce)(&raw const op, null_mut()) };
        assert_eq!(code, 4);
    });
}
