//! Programs on the system's sockets, in one runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use super::*;
use crate::sim::Dice;
use crate::sim::checkers::{self, End, Tolerance};

/// Plays these roles until all have come right.
fn play(roles: Vec<Role>, manner: Manner, faulty: Duration) {
    let recorder = Recorder::new(
        checkers::all(Tolerance {
            outage: Duration::from_secs(1),
            memory: Duration::from_secs(60),
        }),
        std::env::var_os("PCCL_SIM_TRACE").is_some(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let master: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let signals = Signals::default();
    runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let now: Arc<dyn Fn() -> WorldTime + Send + Sync> =
            Arc::new(move || WorldTime::default() + start.elapsed());
        let ground = |process: u32| Ground {
            process: ProcessId(process),
            host: Host::default(),
            recorder: recorder.clone(),
            now: now.clone(),
            master,
            manner: manner.clone(),
            config: Config::new("").listen_ports(0..=0),
            signals: signals.clone(),
            // All share one runtime, which knows of no process.
            leftovers: Arc::new(|| (0, 0)),
            next_call: Arc::new(AtomicU64::new(0)),
            next_life: Arc::new(AtomicU32::new(0)),
        };
        let living = roles.len() as u32;
        let (config, secret) = (MasterConfig::default(), Secret([7; 40]));
        tokio::spawn(run_master(ground(0), config, secret));
        let mut tasks = Vec::new();
        for (process, role) in (1..).zip(roles) {
            ground(process).record(Event::Started);
            tasks.push(tokio::spawn(run(ground(process), role)));
        }
        tokio::time::sleep(faulty).await;
        let calm = now();
        ground(0).record(Event::Calm);
        signals.set_calm(living);
        tokio::time::sleep(faulty).await;
        signals.set_over();
        for task in tasks {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            if recorder.violation().is_none() {
                ended.expect("a program does not end").unwrap();
            }
        }
        recorder.end(&End {
            at: now(),
            calm,
            bound: faulty,
            owed: (1..=living).map(ProcessId).collect(),
        });
    });
    if let Some(violation) = recorder.violation() {
        for line in recorder.lines() {
            println!("{line}");
        }
        panic!("{violation}");
    }
    println!("{} records", recorder.records());
}

fn manner(dice: &mut Dice, strict: bool, misbehaving: bool) -> Manner {
    Manner::draw(dice, 1 << 30, strict, misbehaving)
}

#[test]
fn recommended_programs_come_right() {
    let dice = &mut Dice::new(1, 1);
    let roles = (0..3)
        .map(|_| Role::Recommended(Recommended::draw(dice)))
        .collect();
    play(roles, manner(dice, true, false), Duration::from_secs(4));
}

#[test]
fn programs_that_call_in_any_order_come_right() {
    let dice = &mut Dice::new(2, 1);
    let mut roles = vec![Role::Recommended(Recommended::draw(dice))];
    roles.extend((0..3).map(|_| Role::AnyOrder(AnyOrder::draw(dice))));
    play(roles, manner(dice, false, false), Duration::from_secs(4));
}

#[test]
fn programs_beside_one_that_misbehaves_come_right() {
    let dice = &mut Dice::new(3, 1);
    let mut roles: Vec<Role> = (0..3)
        .map(|_| Role::Recommended(Recommended::draw(dice)))
        .collect();
    roles.push(Role::Misbehaving(Misbehaving::draw(dice)));
    play(roles, manner(dice, false, true), Duration::from_secs(4));
}
