//! What can be set on a connection's socket, and what each setting buys and costs.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::{congestion, os};

/// Settings of a connection's socket. The defaults are right for most networks.
///
/// A setting that the system does not know or does not allow is left out, with a debug log line;
/// the connection works without it. Nagle's algorithm is always off: it costs small messages up to
/// 40 ms and gains nothing here.
///
/// ```
/// # use std::time::Duration;
/// use pccl::SocketOptions;
///
/// let options = SocketOptions::default()
///     .congestion_control("bbr")
///     .user_timeout(Some(Duration::from_secs(20)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "setters return the changed options"]
pub struct SocketOptions {
    /// Size of the kernel's send buffer, in bytes. Default `None`: the kernel grows it as needed.
    ///
    /// A fixed size turns the kernel's own sizing off. It can help where the kernel's limit is
    /// below bandwidth x round trip, and costs that much memory per lane.
    pub send_buffer_bytes: Option<usize>,
    /// Size of the kernel's receive buffer, in bytes. Default `None`: the kernel grows it as
    /// needed. Buys and costs what `send_buffer_bytes` does.
    pub receive_buffer_bytes: Option<usize>,
    /// Closes the connection once sent data has gone unacknowledged, or the receiver has taken
    /// nothing, for this long. Default 10 s; `None` is the system's patience, often 15 minutes.
    /// Linux only.
    ///
    /// Shorter finds a cut cable sooner and costs lanes on networks with long outages.
    pub user_timeout: Option<Duration>,
    /// Name of the TCP congestion control algorithm, such as `bbr`. Default `None`: the system's
    /// choice, with `reno` in the place of `bbr` where the handshake's round trip is below a
    /// millisecond: on loopback that is 1.4 times as fast, and takes three quarters of the CPU.
    /// Linux only.
    ///
    /// `bbr` is often much faster than `cubic` over long links that lose packets; the kernel must
    /// have it loaded, and it may take more than its share from other traffic.
    pub congestion_control: Option<String>,
    /// How much the kernel takes of what it cannot send yet, in bytes. Default `None`: 128 KiB where
    /// the handshake's round trip is a millisecond or more, on shorter paths no limit. Linux only.
    ///
    /// Without a limit each lane holds a round trip's worth behind what is under way, and whichever
    /// lane is slow keeps it to the end: over 50 ms and 1 Gbit/s an all-reduce of 64 MiB takes 3 to
    /// 11 % longer. It also lets what is due now pass what is due later. Costs wake-ups, which a short
    /// path would feel.
    pub unsent_bytes_max: Option<u32>,
    /// Sends an empty packet after this much silence, so that middleboxes keep the connection and
    /// a vanished host is noticed. Default 30 s; `None` sends none. Costs a packet each time.
    pub keepalive: Option<Duration>,
    /// What was lost is sent again at one pace instead of at pauses that double.
    steady_retries: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            user_timeout: Some(Duration::from_secs(10)),
            congestion_control: None,
            unsent_bytes_max: None,
            keepalive: Some(Duration::from_secs(30)),
            steady_retries: false,
        }
    }
}

impl SocketOptions {
    /// For connections between a peer and the master, which carry little and whose silence is
    /// judged: after an outage of up to a second or two the first word comes within a fifth of a
    /// second, where TCP's doubled pauses make it a second. The kernel does so only under a
    /// congestion control that knows a slow start threshold; `bbr` has none, `reno` is everywhere.
    pub(crate) fn control() -> Self {
        Self {
            congestion_control: Some("reno".to_owned()),
            steady_retries: true,
            ..Self::default()
        }
    }

    /// Sets [`send_buffer_bytes`](Self::send_buffer_bytes).
    pub fn send_buffer_bytes(mut self, bytes: Option<usize>) -> Self {
        self.send_buffer_bytes = bytes;
        self
    }

    /// Sets [`receive_buffer_bytes`](Self::receive_buffer_bytes).
    pub fn receive_buffer_bytes(mut self, bytes: Option<usize>) -> Self {
        self.receive_buffer_bytes = bytes;
        self
    }

    /// Sets [`user_timeout`](Self::user_timeout).
    pub fn user_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.user_timeout = timeout;
        self
    }

    /// Sets [`congestion_control`](Self::congestion_control).
    pub fn congestion_control(mut self, name: impl Into<String>) -> Self {
        self.congestion_control = Some(name.into());
        self
    }

    /// Sets [`unsent_bytes_max`](Self::unsent_bytes_max).
    pub fn unsent_bytes_max(mut self, bytes: Option<u32>) -> Self {
        self.unsent_bytes_max = bytes;
        self
    }

    /// Sets [`keepalive`](Self::keepalive).
    pub fn keepalive(mut self, idle: Option<Duration>) -> Self {
        self.keepalive = idle;
        self
    }

    /// Applies what depends on the path, once the connection is there.
    pub(super) fn settle(&self, socket: &SockRef<'_>) {
        let is_long = os::round_trip(socket).is_none_or(|round_trip| round_trip >= SHORT_PATH);
        if self.congestion_control.is_none() {
            congestion::settle(socket, is_long);
        }
        if self.unsent_bytes_max.is_none() && is_long {
            attempt(
                "unsent bytes",
                os::set_unsent_bytes_max(socket, UNSENT_BYTES_MAX),
            );
        }
    }

    /// Applies the settings. Before connecting, where possible: a receive buffer that is set later
    /// cannot widen the window that the two sides agree on.
    pub(super) fn apply(&self, socket: &SockRef<'_>) {
        attempt("no delay", socket.set_tcp_nodelay(true));
        if let Some(bytes) = self.send_buffer_bytes {
            attempt("send buffer", socket.set_send_buffer_size(bytes));
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            attempt("receive buffer", socket.set_recv_buffer_size(bytes));
        }
        if let Some(timeout) = self.user_timeout {
            attempt("user timeout", os::set_user_timeout(socket, timeout));
        }
        match &self.congestion_control {
            Some(name) => attempt(
                "congestion control",
                os::set_congestion_control(socket, name),
            ),
            None => congestion::begin(socket),
        }
        if let Some(bytes) = self.unsent_bytes_max {
            attempt("unsent bytes", os::set_unsent_bytes_max(socket, bytes));
        }
        if self.steady_retries {
            attempt("steady retries", os::set_steady_retries(socket));
        }
        if let Some(idle) = self.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(idle.min(KEEPALIVE_INTERVAL_MAX));
            attempt("keepalive", socket.set_tcp_keepalive(&keepalive));
        }
    }
}

/// Below it a path is within a machine, a rack or a building.
const SHORT_PATH: Duration = Duration::from_millis(1);

/// On longer paths: what a lane of 10 Gbit/s sends while its writer wakes up.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Between keepalive packets once one went unanswered; the usual default of 75 s takes 11 minutes
/// to give up.
const KEEPALIVE_INTERVAL_MAX: Duration = Duration::from_secs(5);

pub(super) fn attempt(setting: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(setting, %error, "socket setting left out");
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn socket_with(options: &SocketOptions) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        options.apply(&SockRef::from(&socket));
        socket
    }

    #[test]
    fn nagle_is_off_and_keepalive_on_by_default() {
        let socket = socket_with(&SocketOptions::default());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_is_told_the_user_timeout() {
        let socket = socket_with(&SocketOptions::default());
        let timeout = socket.tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_secs(10)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn control_connections_send_again_at_a_steady_pace() {
        let socket = socket_with(&SocketOptions::control());
        assert!(socket.tcp_thin_linear_timeouts().unwrap());
        assert_eq!(socket.tcp_congestion().unwrap()[..5], *b"reno\0");
    }

    #[test]
    fn fixed_buffers_reach_the_kernel() {
        let options = SocketOptions::default()
            .send_buffer_bytes(Some(64 << 10))
            .receive_buffer_bytes(Some(64 << 10));
        let socket = socket_with(&options);
        // Linux doubles the number for its own bookkeeping.
        assert!(socket.send_buffer_size().unwrap() >= 64 << 10);
        assert!(socket.recv_buffer_size().unwrap() >= 64 << 10);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_is_told_how_much_it_may_hold_unsent() {
        let socket = socket_with(&SocketOptions::default().unsent_bytes_max(Some(70_000)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 70_000);
    }

    #[test]
    fn an_unknown_congestion_control_is_left_out() {
        let socket = socket_with(&SocketOptions::default().congestion_control("no such thing"));
        assert!(socket.tcp_nodelay().unwrap());
    }
}
