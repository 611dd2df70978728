//! What is reported to a master that listens, which may be anything, and what it writes down of it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::protocol::master::{
    ConnectionId, Input, Master, MasterConfig, Memory, Output, Solution,
};
use crate::types::{
    Epoch, GroupId, OperationId, PeerId, PeerName, Revision, RunId, Tag, Timestamp, WorldSizes,
};
use crate::wire::control::{
    CallCounts, CallResult, Completed, Frame, Hello, Join, JointCall, Outcome, Proposal, Reign,
    Report, Settlement, ToMaster, ToPeer, Welcome,
};
use crate::wire::record::Record;

/// A master to which this is said, one a second.
fn told(inputs: Vec<Input>) -> (Master, Vec<Output>) {
    told_with(None, inputs)
}

fn told_with(memory: Option<Memory>, inputs: Vec<Input>) -> (Master, Vec<Output>) {
    let mut now = Timestamp::default();
    let config = MasterConfig::default();
    let mut master = Master::with_memory(config, RunId(1), memory, [3; 32], now);
    let mut outputs = Vec::new();
    for input in inputs.into_iter().chain((0..20).map(|_| Input::Tick)) {
        now = now + Duration::from_secs(1);
        master.handle(now, input);
        while let Some(output) = master.poll_output() {
            let input = match &output {
                Output::Probe { peer, .. } => Some(Input::PortRefused { peer: *peer }),
                Output::Solve(request) => Some(Input::Solved {
                    request: request.request,
                    solutions: (request.groups.iter())
                        .map(|(group, members)| (*group, Solution::Ring(members.clone())))
                        .collect(),
                }),
                _ => None,
            };
            outputs.push(output);
            if let Some(input) = input {
                master.handle(now, input);
            }
        }
    }
    (master, outputs)
}

fn from() -> SocketAddr {
    "10.0.0.9:4000".parse().unwrap()
}

fn resume(connection: u64, peer: u64) -> Input {
    Input::Greeted {
        connection: ConnectionId(connection),
        hello: Hello::Resume {
            run: RunId(9),
            peer: PeerId(peer),
            token: 4,
            last_seen: u64::MAX,
            reign: Reign { term: 7, start: 8 },
            accepted: true,
            masters: 1,
            one_of_voters: 1,
        },
        from: from(),
    }
}

fn say(connection: u64, sequence: u64, message: ToMaster) -> Input {
    Input::Message {
        connection: ConnectionId(connection),
        frame: Frame {
            sequence,
            acknowledged: u64::MAX,
            message,
        },
    }
}

fn name(peer: u64) -> PeerName {
    PeerName {
        id: PeerId(peer),
        label: String::new(),
        address: "10.0.0.9:48149".to_owned(),
    }
}

/// A report in which every number is this one.
fn report(peer: u64, term: u32, number: u64) -> ToMaster {
    let count = u32::try_from(number).unwrap_or(u32::MAX);
    let epoch = Epoch { term: 7, count };
    let op = OperationId {
        epoch,
        tag: Tag(number),
        n: count,
    };
    let settlement = Settlement {
        op,
        outcome: Outcome::Committed {
            contributors: vec![PeerId(number)],
        },
        number,
        everybody_has: 0,
    };
    let counts = CallCounts {
        updates: number,
        pendings: number,
        syncs: number,
    };
    let proposal = Proposal {
        epoch,
        sizes: WorldSizes {
            global: count,
            group: count,
            groups: count,
            largest_group: count,
        },
        ring: vec![name(peer)],
        links: Vec::new(),
        outcomes: vec![settlement.clone()],
        others: vec![(GroupId(count), vec![name(number)])],
        voters: vec![PeerId(peer)],
        calls: counts,
    };
    let revision = Revision(number);
    ToMaster::Report(Box::new(Report {
        term,
        group: GroupId(0),
        name: name(peer),
        lanes: Some(u16::MAX),
        masters: 1,
        active: Some(proposal),
        proposed: None,
        expected: Some(revision),
        settled: vec![(Tag(number), count)],
        outcomes: vec![settlement],
        completed: Completed {
            counts,
            pending: Some(CallResult::Pending(true)),
            sync: Some(CallResult::Synced { revision }),
        },
    }))
}

#[test]
fn no_number_is_too_large_to_be_reported() {
    for number in [u64::MAX, u64::from(u32::MAX), u64::MAX - 1] {
        for call in [JointCall::ArePeersPending, JointCall::UpdateTopology] {
            let (_, outputs) = told(vec![
                resume(1, 5),
                // In the term that this master has taken above that of the hello.
                say(1, 1, report(5, 8, number)),
                Input::Tick,
                Input::Tick,
                Input::PortRefused {
                    peer: PeerId(number),
                },
                Input::Tick,
                say(1, 2, ToMaster::Call(call.clone())),
                say(1, 3, ToMaster::CancelCall),
                say(1, 4, ToMaster::Call(call)),
                Input::Greeted {
                    connection: ConnectionId(2),
                    hello: Hello::Join(Join::default()),
                    from: from(),
                },
                Input::Tick,
                Input::HandOver,
            ]);
            let rules = |output: &Output| match output {
                Output::Send { frame, .. } => frame.message == ToPeer::RunGoesOn,
                _ => false,
            };
            assert!(outputs.iter().any(rules), "{outputs:?}");
        }
    }
}

#[test]
fn a_number_that_a_stranger_says_hello_with_takes_none_from_those_who_join() {
    let (master, outputs) = told(vec![
        resume(1, u64::MAX),
        resume(2, 5),
        say(2, 1, report(5, 8, 9)),
        Input::Tick,
        Input::Tick,
        Input::Tick,
        Input::Tick,
        Input::Tick,
        Input::Tick,
        Input::Tick,
        Input::Greeted {
            connection: ConnectionId(3),
            hello: Hello::Join(Join::default()),
            from: from(),
        },
    ]);
    assert!(master.rules());
    let given = outputs.iter().find_map(|output| match output {
        Output::Welcome {
            welcome: Welcome::Registered { peer, .. },
            ..
        } => Some(*peer),
        _ => None,
    });
    assert!(given > Some(PeerId(9)), "{given:?}");
}

#[test]
fn what_only_the_file_of_the_master_before_knew_is_in_the_next_one_at_once() {
    for syncs_unheard_of in [0, 1] {
        file_knows_what_only_the_one_before_knew(syncs_unheard_of);
    }
}

fn file_knows_what_only_the_one_before_knew(syncs_unheard_of: u64) {
    let ToMaster::Report(known) = report(5, 8, 9) else {
        unreachable!("it is a report");
    };
    let mut memory = Memory::default();
    memory.learn(Record::Ruling {
        run: RunId(9),
        reign: Reign { term: 7, start: 8 },
    });
    memory.learn(Record::Known(known.clone()));
    let mut forgetful = known.clone();
    forgetful.outcomes.clear();
    forgetful.settled.clear();
    forgetful.completed.counts.syncs -= syncs_unheard_of;
    let (master, outputs) = told_with(
        Some(memory),
        vec![
            resume(1, 5),
            say(1, 1, ToMaster::Report(forgetful)),
            Input::Tick,
        ],
    );
    assert!(master.rules());
    // A crash at the first word after it leaves this.
    let mut file = Memory::default();
    for output in outputs {
        match output {
            Output::Record(record) => file.learn(record),
            Output::Send { frame, .. } if frame.message == ToPeer::RunGoesOn => break,
            _ => {}
        }
    }
    let written = file.records().into_iter().find_map(|record| match record {
        Record::Known(report) => Some(report),
        _ => None,
    });
    let written = written.expect("the group is written down");
    assert_eq!(written.outcomes, known.outcomes);
    assert_eq!(written.completed, known.completed);
}
