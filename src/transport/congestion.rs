//! Which congestion control a connection gets where its user names none: the system's, but not
//! `bbr` on a path of less than a millisecond.
//!
//! There its pacing costs more than the path: a timer for every burst, and half of what loopback
//! carries. A socket that `bbr` has paced stays paced under any other, so every socket begins with
//! `reno`, which is everywhere, and is given to the system's choice once its handshake has shown
//! that the path is long. That is before it has sent anything.

use std::sync::OnceLock;

use socket2::{Domain, SockRef, Socket, Type};

use super::options::attempt;
use super::os;

/// What a socket begins with.
const FIRST: &str = "reno";

/// Before the path is known: on a socket that is to be connected, or that listens.
pub(super) fn begin(socket: &SockRef<'_>) {
    if system_choice().is_some() {
        attempt(
            "congestion control",
            os::set_congestion_control(socket, FIRST),
        );
    }
}

/// Once the connection is there, and its path known.
pub(super) fn settle(socket: &SockRef<'_>, is_long: bool) {
    if let Some(name) = system_choice().filter(|_| is_long) {
        attempt(
            "congestion control",
            os::set_congestion_control(socket, name),
        );
    }
}

/// The system's choice, where it is one that paces.
fn system_choice() -> Option<&'static str> {
    static CHOICE: OnceLock<Option<String>> = OnceLock::new();
    let choice = CHOICE.get_or_init(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
        os::congestion_control(&SockRef::from(&socket)).filter(|name| name.starts_with("bbr"))
    });
    choice.as_deref()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_types, reason = "it is about sockets")]
    fn a_connection_on_loopback_is_not_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        begin(&SockRef::from(&listener));
        let dialled = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        begin(&SockRef::from(&dialled));
        dialled
            .connect(&listener.local_addr().unwrap().into())
            .unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut dialled = TcpStream::from(dialled);
        dialled.write_all(&[1]).unwrap();
        for socket in [SockRef::from(&dialled), SockRef::from(&accepted)] {
            settle(&socket, false);
            assert!(os::round_trip(&socket).is_some_and(|round_trip| round_trip > Duration::ZERO));
            let name = os::congestion_control(&socket).unwrap();
            assert!(!name.starts_with("bbr"), "{name}");
        }
    }
}
