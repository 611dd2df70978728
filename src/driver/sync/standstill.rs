//! Transfers that stand still, and transfers that are slow.

use tokio::io::{DuplexStream, duplex, split};

use super::*;
use crate::engine::OwnedVec;
use crate::transport::{Connecting, Ends, InMemory, InMemoryListener, Network, SocketOptions};
use crate::types::{PeerName, RunId};
use crate::wire::greeting::{self, HEADER_BYTES, Header};

const STALL: Duration = Duration::from_secs(1);

/// A network on which one holder is to be reached, whose end is in the test's hands.
#[derive(Debug)]
struct Holders(mpsc::UnboundedSender<DuplexStream>);

impl InMemory for Holders {
    fn connect(&self, peer: std::net::SocketAddr, _: Option<std::net::IpAddr>) -> Connecting {
        let (near, far) = duplex(1 << 20);
        let sent = self.0.send(far);
        let (read, write) = split(near);
        let ends = Ends { local: peer, peer };
        Box::pin(async move {
            sent.map_err(|error| std::io::Error::other(error.to_string()))?;
            Ok(Stream::in_memory(read, write, ends))
        })
    }

    fn listen(
        &self,
        _: Option<std::net::IpAddr>,
        _: u16,
    ) -> std::io::Result<Box<dyn InMemoryListener>> {
        Err(std::io::Error::other("nobody listens here"))
    }
}

/// A receiver of 1000 bytes; what it tells, the tensor, and the holder's end.
async fn receiving() -> (
    Session,
    mpsc::UnboundedReceiver<SyncEvent>,
    DuplexStream,
    OwnedVec<u8>,
) {
    let (sender, mut holders) = mpsc::unbounded_channel();
    let tensor = OwnedVec::new(vec![0u8; 1000]);
    let (events, told) = mpsc::unbounded_channel();
    let mut session = Session::new(&vec![tensor.memory().clone()], STALL, events);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let caller = Caller {
        network: Network::InMemory(Arc::new(Holders(sender))),
        run: RunId(1),
        peer: PeerId(1),
        master: address,
        bind: None,
        socket: SocketOptions::default(),
        link_timeout: STALL,
        lane_stall_timeout: STALL,
    };
    let holder = PeerName {
        id: PeerId(2),
        label: String::new(),
        address: address.to_string(),
    };
    let plan = SyncPlan {
        round: 1,
        token: [1; 16],
        digests: vec![None],
        receive: vec![0],
        holder: Some(holder),
    };
    session.follow(&caller, plan);
    let stream = holders.recv().await.unwrap();
    (session, told, stream, tensor)
}

/// Answers the greeting and the request.
async fn answer(stream: &mut DuplexStream) -> Holder {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    let body = Header::decode(&header).unwrap().body_len();
    stream.read_exact(&mut vec![0; body]).await.unwrap();
    let welcome = greeting::encode(Kind::Welcome, &[]).unwrap();
    stream.write_all(&welcome).await.unwrap();
    let mut holder = Holder::new();
    let offer = Offer {
        round: 1,
        lens: vec![1000],
    };
    loop {
        match holder.step() {
            HolderStep::Read { len } => {
                let mut request = vec![0; len.min(64)];
                let n = stream.read(&mut request).await.unwrap();
                holder.feed(&request[..n]).unwrap();
            }
            HolderStep::Request { .. } => holder.answer(Some(&offer)).unwrap(),
            HolderStep::WriteHeader(bytes) => {
                let n = bytes.len();
                stream.write_all(bytes).await.unwrap();
                holder.wrote(n as u64).unwrap();
            }
            _ => return holder,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_moves_a_byte_now_and_then_is_waited_for() {
    let (session, mut told, mut stream, tensor) = receiving().await;
    answer(&mut stream).await;
    for _ in 0..1000 {
        tokio::time::sleep(STALL * 19 / 10).await;
        stream.write_all(&[7]).await.unwrap();
    }
    let event = told.recv().await.unwrap();
    assert!(
        matches!(event, SyncEvent::Received { round: 1 }),
        "{event:?}"
    );
    session.end().await;
    assert!(tensor.take_back().iter().all(|byte| *byte == 7));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_stands_still_is_reported() {
    for silent_from_the_start in [true, false] {
        let (session, mut told, mut stream, tensor) = receiving().await;
        if !silent_from_the_start {
            answer(&mut stream).await;
            stream.write_all(&[7; 500]).await.unwrap();
        }
        let before = tokio::time::Instant::now();
        let event = told.recv().await.unwrap();
        let SyncEvent::Failed { holder, reason, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(holder, PeerId(2));
        assert!(reason.contains("2000 ms"), "{reason}");
        assert!(before.elapsed() <= STALL * STALLS_OF_A_LANE + STALL / 10);
        session.end().await;
        drop(tensor);
    }
}
