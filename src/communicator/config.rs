//! Settings of a communicator: unit, default, and what each costs.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::ConnectError;
use crate::transport::SocketOptions;
use crate::types::GroupId;
use crate::wire::control::{MAX_LANES, MAX_NAME_BYTES};

/// The port a master listens on unless told otherwise.
pub const DEFAULT_MASTER_PORT: u16 = 48148;

/// The first port a communicator tries to listen on unless told otherwise.
pub const DEFAULT_PEER_PORT: u16 = 48149;

/// Most masters that a peer may follow.
const MASTERS_MAX: usize = 16;

/// Settings of a [`Communicator`](super::Communicator).
///
/// ```
/// use std::time::Duration;
/// let config = pccl::Config::new("master.example.org:48148")
///     .label("berlin-3")
///     .lanes_per_link(16)
///     .master_grace(Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where the master is: `host:port` with a name, an IPv4 address, or an IPv6 address in
    /// brackets.
    pub master: String,
    /// Other masters that may take over from it, in the order in which they are asked; the same list
    /// for all peers of a run. Default: none. A run begins once all of them are up. With any, a run of which half or more fall silent
    /// waits for them and ends with `NoMajority`, as another master may have the rest; without, it
    /// goes on.
    pub standby_masters: Vec<String>,
    /// The group to reduce and share state with. Default 0.
    pub group: GroupId,
    /// This peer's name in logs and errors, at most 255 bytes. Default empty.
    pub label: String,
    /// The local address to listen on and dial from; it chooses the network card. Default: all.
    pub bind: Option<IpAddr>,
    /// The host name or address other peers shall dial, where it is not the one the master sees
    /// (containers, several network cards). Default: what the master sees.
    pub advertised_host: Option<String>,
    /// The port other peers shall dial, where it is not the one listened on (forwarded ports).
    /// Default: the one listened on.
    pub advertised_port: Option<u16>,
    /// Ports to listen on; the first free one is taken. Default 48149 upwards. `0..=0` takes any.
    pub listen_ports: RangeInclusive<u16>,
    /// TCP connections per link, 1 to 256; the larger wish of the two ends holds. Default: 4, and 8
    /// where the first of them finds the round trip to be 10 ms or more. More fill a long fat pipe
    /// sooner after the start and after losses, and cost a socket and two small tasks each.
    pub lanes_per_link: Option<u16>,
    /// Threads that move and combine data. Default: half the cores, 1 to 4. One thread moves about
    /// 2 to 4 GB/s.
    pub data_threads: usize,
    /// How long `connect` tries to reach the master. Being accepted may take longer: it waits for
    /// the others' `update_topology`. Default 10 s.
    pub connect_timeout: Duration,
    /// How long the master may be away before this peer leaves the run for good; zero leaves at
    /// once. Calls that need the master wait that long. Default 30 s. Where a peer is lost together
    /// with its master, the next one waits for it for `silence_ceiling` and `resume_grace` of
    /// [`MasterConfig`](crate::MasterConfig) (3.7 s by default), twice as long where there are
    /// standbys: a shorter grace ends the run then.
    pub master_grace: Duration,
    /// How long a link may take to be made, or mended, before it is reported to the master, which
    /// then wires around it or removes a peer. Default: what the master says
    /// ([`MasterConfig::link_timeout`](crate::MasterConfig::link_timeout)).
    pub link_timeout: Option<Duration>,
    /// How long a lane may be idle before the other side is asked for a word, so that NATs and
    /// firewalls keep it, and one that they forgot is made anew before it is needed. Default 30 s;
    /// 60 bytes each way each time.
    pub keepalive_interval: Duration,
    /// Options of the sockets that carry tensors.
    pub socket: SocketOptions,
}

impl Config {
    /// The defaults, with the master at `host:port`.
    pub fn new(master: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            master: master.into(),
            standby_masters: Vec::new(),
            group: GroupId(0),
            label: String::new(),
            bind: None,
            advertised_host: None,
            advertised_port: None,
            listen_ports: DEFAULT_PEER_PORT..=u16::MAX,
            lanes_per_link: None,
            data_threads: (cores / 2).clamp(1, 4),
            connect_timeout: Duration::from_secs(10),
            master_grace: Duration::from_secs(30),
            link_timeout: None,
            keepalive_interval: Duration::from_secs(30),
            socket: SocketOptions::default(),
        }
    }

    /// Adds to [`standby_masters`](Self::standby_masters).
    pub fn standby_master(mut self, address: impl Into<String>) -> Self {
        self.standby_masters.push(address.into());
        self
    }

    /// All masters, in the order in which they are asked.
    pub(crate) fn masters(&self) -> Vec<String> {
        let standbys = self.standby_masters.iter().cloned();
        std::iter::once(self.master.clone())
            .chain(standbys)
            .collect()
    }

    /// Sets [`group`](Self::group).
    pub fn group(mut self, group: GroupId) -> Self {
        self.group = group;
        self
    }

    /// Sets [`label`](Self::label).
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets [`bind`](Self::bind).
    pub fn bind(mut self, address: IpAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Sets [`advertised_host`](Self::advertised_host).
    pub fn advertised_host(mut self, host: impl Into<String>) -> Self {
        self.advertised_host = Some(host.into());
        self
    }

    /// Sets [`advertised_port`](Self::advertised_port).
    pub fn advertised_port(mut self, port: u16) -> Self {
        self.advertised_port = Some(port);
        self
    }

    /// Sets [`listen_ports`](Self::listen_ports).
    pub fn listen_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.listen_ports = ports;
        self
    }

    /// Sets [`lanes_per_link`](Self::lanes_per_link).
    pub fn lanes_per_link(mut self, lanes: u16) -> Self {
        self.lanes_per_link = Some(lanes);
        self
    }

    /// Sets [`data_threads`](Self::data_threads).
    pub fn data_threads(mut self, threads: usize) -> Self {
        self.data_threads = threads;
        self
    }

    /// Sets [`connect_timeout`](Self::connect_timeout).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`master_grace`](Self::master_grace).
    pub fn master_grace(mut self, grace: Duration) -> Self {
        self.master_grace = grace;
        self
    }

    /// Sets [`link_timeout`](Self::link_timeout).
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.link_timeout = Some(timeout);
        self
    }

    /// Sets [`keepalive_interval`](Self::keepalive_interval).
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.keepalive_interval = interval;
        self
    }

    /// Sets [`socket`](Self::socket).
    pub fn socket(mut self, socket: SocketOptions) -> Self {
        self.socket = socket;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        let invalid = |field, reason: String| Err(ConnectError::InvalidConfig { field, reason });
        let is_host_and_port = |address: &str| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                let bracketed = host.starts_with('[') && host.ends_with(']');
                let is_host = !host.is_empty() && (bracketed || !host.contains(':'));
                is_host && matches!(port.parse::<u16>(), Ok(1..))
            })
        };
        if !is_host_and_port(&self.master) {
            return invalid("master", format!("{:?} is not host:port", self.master));
        }
        if self.standby_masters.len() >= MASTERS_MAX {
            return invalid("standby_masters", format!("more than {}", MASTERS_MAX - 1));
        }
        let masters = self.masters();
        for (number, address) in masters.iter().enumerate() {
            if !is_host_and_port(address) {
                return invalid("standby_masters", format!("{address:?} is not host:port"));
            }
            if masters.iter().take(number).any(|other| other == address) {
                return invalid("standby_masters", format!("{address:?} is there twice"));
            }
        }
        if self.label.len() > MAX_NAME_BYTES {
            return invalid("label", format!("more than {MAX_NAME_BYTES} bytes"));
        }
        match self.advertised_host.as_deref() {
            Some("") => return invalid("advertised_host", "it is empty".to_owned()),
            Some(host) if host.len() > MAX_NAME_BYTES => {
                return invalid(
                    "advertised_host",
                    format!("more than {MAX_NAME_BYTES} bytes"),
                );
            }
            _ => {}
        }
        if self.advertised_port == Some(0) {
            return invalid("advertised_port", "port 0 cannot be dialled".to_owned());
        }
        if self.listen_ports.is_empty() {
            return invalid("listen_ports", "the range is empty".to_owned());
        }
        if self
            .lanes_per_link
            .is_some_and(|lanes| !(1..=MAX_LANES).contains(&lanes))
        {
            return invalid("lanes_per_link", format!("not within 1 to {MAX_LANES}"));
        }
        if !(1..=256).contains(&self.data_threads) {
            return invalid("data_threads", "not within 1 to 256".to_owned());
        }
        for (field, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("link_timeout", self.link_timeout.unwrap_or(Duration::MAX)),
            ("keepalive_interval", self.keepalive_interval),
        ] {
            if duration.is_zero() {
                return invalid(field, "it is zero".to_owned());
            }
        }
        Ok(())
    }
}
