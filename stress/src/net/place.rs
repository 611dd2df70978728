//! The network of one process, and the ways to cut it: all of them silent, as the real ones are.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::ip;

/// What does not arrive any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Anything, either way: the cable is pulled.
    Link,
    /// What others send.
    In,
    /// What this process sends.
    Out,
    /// What this one sends.
    From(Ipv4Addr),
    /// What comes over one connection.
    Connection {
        from: Ipv4Addr,
        from_port: u16,
        to_port: u16,
    },
}

/// A network namespace with one cable to the hub. It goes with its last copy.
#[derive(Clone)]
pub(crate) struct Place(Arc<Cable>);

struct Cable {
    namespace: String,
    /// The hub's end.
    port: String,
    address: Ipv4Addr,
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Err(error) = ip(None, &format!("netns del {}\n", self.namespace)) {
            eprintln!("stress: {error}");
        }
    }
}

impl Place {
    /// Incoming packets are dropped by a rule that is asked before that for local addresses. For
    /// outgoing ones there is a second table, which sends everything to a machine that is not
    /// there: a rule that drops them would tell the sender.
    ///
    /// After a cut, addresses of machines are asked for every 100 ms; the usual second between
    /// questions would make each cut on this one wire longer than cuts on the routes of a WAN are.
    pub(super) fn make(number: u32, address: Ipv4Addr) -> Result<Self, String> {
        let namespace = format!("pccl-{}-{number}", std::process::id());
        let port = format!("h{number}");
        ip(
            None,
            &format!(
                "netns add {namespace}\n\
                 link add {port} type veth peer name eth0 netns {namespace}\n\
                 link set {port} master hub up\n"
            ),
        )?;
        ip(
            Some(&namespace),
            &format!(
                "link set lo up\n\
                 addr add {address}/16 dev eth0\n\
                 link set eth0 up\n\
                 ntable change name arp_cache dev eth0 retrans 100\n\
                 rule add pref 100 lookup local\n\
                 rule del pref 0\n\
                 route add default via 10.77.255.254 dev eth0 onlink table 66\n\
                 neigh add 10.77.255.254 lladdr 02:00:00:00:00:01 dev eth0 nud permanent\n"
            ),
        )?;
        Ok(Self(Arc::new(Cable {
            namespace,
            port,
            address,
        })))
    }

    /// Where others reach it.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// Runs `program` here. `ip` becomes it, so signals for the one reach the other.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0.namespace])
            .arg(program);
        command
    }

    pub(crate) fn cut(&self, cut: Cut) -> Result<(), String> {
        self.change(cut, "add", "down")
    }

    pub(crate) fn mend(&self, cut: Cut) -> Result<(), String> {
        self.change(cut, "del", "up")
    }

    fn change(&self, cut: Cut, verb: &str, state: &str) -> Result<(), String> {
        let rule = match cut {
            Cut::Link => {
                let line = format!("link set {} {state}\n", self.0.port);
                return ip(None, &line);
            }
            Cut::In => "pref 10 iif eth0 blackhole".to_owned(),
            Cut::Out => "pref 200 iif lo lookup 66".to_owned(),
            Cut::From(address) => format!("pref 11 iif eth0 from {address} blackhole"),
            Cut::Connection {
                from,
                from_port,
                to_port,
            } => format!(
                "pref 12 iif eth0 from {from} ipproto tcp sport {from_port} dport {to_port} blackhole"
            ),
        };
        let line = format!("rule {verb} {rule}\n");
        ip(Some(&self.0.namespace), &line)
    }
}
