//! What strangers and friends meet at the listening port. The clients here are bare sockets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use tokio::net::TcpStream;

use crate::transport::{Network, greet, listen_in_range, welcome};
use crate::wire::greeting::{self, Kind};

const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
/// Long enough never to be what ends a test.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(options: AcceptorOptions) -> (Acceptor, mpsc::Receiver<Incoming>) {
    Acceptor::spawn(
        listen_in_range(&Network::System, LOOPBACK, 0..=0).unwrap(),
        options,
    )
    .unwrap()
}

fn patient() -> AcceptorOptions {
    AcceptorOptions {
        greeting_timeout: PATIENCE,
        ..AcceptorOptions::default()
    }
}

fn hasty() -> AcceptorOptions {
    AcceptorOptions {
        greeting_timeout: Duration::from_millis(50),
        ..AcceptorOptions::default()
    }
}

async fn client_of(acceptor: &Acceptor) -> TcpStream {
    TcpStream::connect(acceptor.local_addr()).await.unwrap()
}

/// Waits for the acceptor to close the connection; what it sent before.
async fn until_closed(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match client.read_to_end(&mut bytes).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    bytes
}

/// A whole exchange with a well-behaved client, as proof that the port still serves.
async fn serves(acceptor: &Acceptor, incoming: &mut mpsc::Receiver<Incoming>) {
    let mut near = Stream::new(client_of(acceptor).await);
    let dialler = greet(&mut near, Kind::Lane, b"hello", PATIENCE);
    let accepter = async {
        let mut taken = incoming.recv().await.unwrap();
        assert_eq!(taken.greeting.kind, Kind::Lane);
        assert_eq!(taken.greeting.body, b"hello");
        welcome(&mut taken.stream, b"").await.unwrap();
        taken
    };
    let (answer, taken) = tokio::join!(dialler, accepter);
    answer.unwrap();
    assert_eq!(taken.from, near.local_addr().unwrap());
}

#[tokio::test]
async fn a_slow_hello_is_closed() {
    let (acceptor, mut incoming) = start(hasty());
    let mut client = client_of(&acceptor).await;
    // All but the last byte of a greeting that would be fine.
    let bytes = greeting::encode(Kind::Lane, b"abc").unwrap();
    client.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    assert!(incoming.try_recv().is_err());
}

#[tokio::test]
async fn an_endless_trickle_of_hello_is_closed() {
    let (acceptor, mut incoming) = start(hasty());
    let (mut read, mut write) = client_of(&acceptor).await.into_split();
    let header = greeting::encode(Kind::Lane, &[0; 4096]).unwrap();
    let trickle = async {
        // A byte now and then keeps any timeout that counts from the last byte waiting.
        for byte in header {
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut buf = [0; 1];
    tokio::select! {
        end = read.read(&mut buf) => assert!(matches!(end, Ok(0) | Err(_))),
        () = trickle => {}
    }
    assert!(incoming.try_recv().is_err());
}

#[tokio::test]
async fn garbage_is_closed_and_costs_nobody_else_anything() {
    let (acceptor, mut incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    serves(&acceptor, &mut incoming).await;
}

#[tokio::test]
async fn a_length_of_two_to_the_63_is_closed() {
    let (acceptor, mut incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    let mut bytes = greeting::encode(Kind::Lane, b"").unwrap();
    // Our length has 32 bits; these are the bytes of a 64-bit one, which a peer might mean.
    bytes[8..16].copy_from_slice(&(1u64 << 63 | 1 << 31).to_le_bytes());
    client.write_all(&bytes).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    serves(&acceptor, &mut incoming).await;
}

#[tokio::test]
async fn a_damaged_greeting_is_closed() {
    let (acceptor, mut incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    let mut bytes = greeting::encode(Kind::Lane, b"abc").unwrap();
    bytes[17] ^= 1;
    client.write_all(&bytes).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    serves(&acceptor, &mut incoming).await;
}

#[tokio::test]
async fn an_answer_is_no_greeting() {
    let (acceptor, mut incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    let bytes = greeting::encode(Kind::Welcome, b"").unwrap();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    assert!(incoming.try_recv().is_err());
}

#[tokio::test]
async fn another_version_is_refused_naming_both() {
    let (acceptor, mut incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    let mut bytes = greeting::encode(Kind::Control, b"whatever version 7 says").unwrap();
    bytes[4] = 7;
    client.write_all(&bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let answer = Greeting::decode(&until_closed(&mut client).await).unwrap();
    assert_eq!(answer.kind, Kind::Refused);
    assert_eq!(answer.body, b"you speak wire version 7, I speak 1");
    assert!(incoming.try_recv().is_err());
}

#[tokio::test]
async fn five_hundred_idle_connections_are_closed_and_a_good_one_is_served() {
    let (acceptor, mut incoming) = start(AcceptorOptions {
        greeting_timeout: Duration::from_millis(500),
        ..AcceptorOptions::default()
    });
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(client_of(&acceptor).await);
    }
    serves(&acceptor, &mut incoming).await;
    for client in &mut idle {
        assert_eq!(until_closed(client).await, b"");
    }
    serves(&acceptor, &mut incoming).await;
}

#[tokio::test]
async fn the_oldest_silent_connection_makes_room_for_the_newest() {
    let (acceptor, mut incoming) = start(AcceptorOptions {
        max_waiting: 4,
        ..patient()
    });
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(client_of(&acceptor).await);
    }
    serves(&acceptor, &mut incoming).await;
    assert_eq!(until_closed(&mut idle[0]).await, b"");
    // The others still may greet.
    let bytes = greeting::encode(Kind::Lane, b"late").unwrap();
    idle[3].write_all(&bytes).await.unwrap();
    assert_eq!(incoming.recv().await.unwrap().greeting.body, b"late");
}

#[tokio::test]
async fn what_follows_the_greeting_is_left_for_its_reader() {
    let (acceptor, mut incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    let mut bytes = greeting::encode(Kind::StateTransfer, b"abc").unwrap();
    bytes.extend_from_slice(b"and more");
    client.write_all(&bytes).await.unwrap();
    let mut taken = incoming.recv().await.unwrap();
    assert_eq!(taken.greeting.body, b"abc");
    let mut more = [0; 8];
    taken.stream.read_exact(&mut more).await.unwrap();
    assert_eq!(&more, b"and more");
}

#[tokio::test]
async fn a_stopped_acceptor_closes_who_waits_and_frees_its_port() {
    let (acceptor, _incoming) = start(patient());
    let address = acceptor.local_addr();
    let mut client = client_of(&acceptor).await;
    acceptor.stop().await;
    assert_eq!(until_closed(&mut client).await, b"");
    listen_in_range(
        &Network::System,
        Some(address.ip()),
        address.port()..=address.port(),
    )
    .unwrap();
}

#[tokio::test]
async fn nobody_to_take_connections_ends_the_acceptor() {
    let (mut acceptor, incoming) = start(patient());
    let mut client = client_of(&acceptor).await;
    drop(incoming);
    (&mut acceptor.task).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
}

#[tokio::test(start_paused = true)]
async fn errors_of_accept_are_waited_out_ever_longer() {
    let mut pause = Pause::default();
    pause.after(&ErrorKind::ConnectionAborted.into());
    assert_eq!(pause.until, None);
    pause.after(&io::Error::other("too many open files"));
    assert_eq!(pause.until, Some(Instant::now() + Pause::FIRST));
    for _ in 0..20 {
        pause.after(&io::Error::other("too many open files"));
    }
    assert_eq!(pause.length, Pause::LONGEST);
}
