//! Somebody who is no communicator, and speaks to ports: noise, beginnings, lies.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Ground;
use crate::sim::Dice;
use crate::transport::{Network, SocketOptions, dial};
use crate::types::{Epoch, GroupId, PeerId, RunId};
use crate::wire::control::{Hello, Join, Message, Reign};
use crate::wire::greeting::{Kind, encode};
use crate::wire::hello::{LaneHello, TransferHello};

/// One connection of a stranger.
#[derive(Clone, Debug)]
pub(super) struct Lie {
    target: SocketAddr,
    bytes: Vec<u8>,
    /// How long it then says nothing.
    silence: Duration,
}

impl Lie {
    /// To the master, or to one of these ports.
    pub(super) fn draw(ground: &Ground, ports: &[SocketAddr], dice: &mut Dice) -> Self {
        let target = match ports {
            [] => ground.master,
            ports if dice.one_in(2) => *dice.pick(ports),
            _ => ground.master,
        };
        Self {
            target,
            bytes: words(dice),
            silence: dice.ms(0, 2500),
        }
    }

    /// Says it and waits; what comes back is read and forgotten.
    pub(super) async fn tell(&self, network: &Network) {
        let options = SocketOptions::default();
        let timeout = Duration::from_secs(1);
        let Ok(mut stream) = dial(network, &[self.target], None, &options, timeout).await else {
            return;
        };
        if stream.write_all(&self.bytes).await.is_err() {
            return;
        }
        let listen = async {
            let mut answer = [0; 256];
            while matches!(stream.read(&mut answer).await, Ok(1..)) {}
        };
        let _ = tokio::time::timeout(self.silence, listen).await;
    }
}

fn words(dice: &mut Dice) -> Vec<u8> {
    let run = RunId(dice.any());
    let (from, to) = (PeerId(dice.below(8)), PeerId(dice.below(8)));
    let kind = *dice.pick(&[Kind::Control, Kind::Lane, Kind::StateTransfer]);
    let mut bytes = match dice.below(8) {
        0 => return Vec::new(),
        1 => {
            let len = dice.between(1, 200);
            return (0..len).map(|_| dice.any() as u8).collect();
        }
        2 | 3 => {
            let hello = LaneHello {
                run,
                from,
                to,
                secret: [dice.any() as u8; 16],
                lane: dice.below(4) as u16,
                epoch: Epoch {
                    term: 1,
                    count: dice.below(40) as u32,
                },
            };
            encode(Kind::Lane, &hello.encode())
        }
        4 => {
            let hello = TransferHello {
                run,
                from,
                to,
                round: dice.below(10),
                token: [dice.any() as u8; 16],
            };
            encode(Kind::StateTransfer, &hello.encode())
        }
        5 => {
            let hello = Hello::Resume {
                run,
                peer: from,
                token: dice.any(),
                last_seen: dice.below(100),
                reign: Reign {
                    term: dice.below(4) as u32,
                    start: dice.any(),
                },
                accepted: dice.one_in(2),
                masters: 1,
                one_of_voters: 0,
            };
            encode(Kind::Control, &hello.encode())
        }
        // One in two of these: it delays whoever lets newcomers in.
        6 if dice.one_in(2) => {
            let hello = Hello::Join(Join {
                group: GroupId(0),
                label: "nobody".to_owned(),
                advertised_host: String::new(),
                port: 1,
                lanes: Some(1),
                ..Join::default()
            });
            encode(Kind::Control, &hello.encode())
        }
        _ => {
            let len = dice.below(60);
            let body: Vec<u8> = (0..len).map(|_| dice.any() as u8).collect();
            encode(kind, &body)
        }
    }
    .unwrap_or_default();
    match dice.below(4) {
        0 => bytes.truncate(dice.below(bytes.len() as u64) as usize),
        1 => {
            let place = dice.below(bytes.len() as u64) as usize;
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << dice.below(8);
            }
        }
        _ => {}
    }
    bytes
}
