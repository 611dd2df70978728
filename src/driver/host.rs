//! What a driver stands on: the network it lives in, and who watches it.

use crate::transport::Network;

/// The ground under a driver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// Where connections are made.
    pub(crate) network: Network,
    /// Who sees what goes into the machines and what comes out.
    #[cfg(feature = "sim")]
    pub(crate) observer: Option<observer::Observer>,
}

#[cfg(feature = "sim")]
pub(crate) mod observer {
    use std::fmt;
    use std::sync::Arc;

    use crate::protocol::{master, peer};

    /// One input or output of a state machine.
    #[derive(Debug)]
    pub(crate) enum Observed<'a> {
        /// The master hears.
        MasterInput(&'a master::Input),
        /// The master wants.
        MasterOutput(&'a master::Output),
        /// A peer hears.
        PeerInput(&'a peer::Input),
        /// A peer wants.
        PeerOutput(&'a peer::Output),
    }

    /// Called before the machine, or the driver, acts on it.
    #[derive(Clone)]
    pub(crate) struct Observer(pub(crate) Arc<dyn Fn(Observed<'_>) + Send + Sync>);

    impl fmt::Debug for Observer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Observer").finish()
        }
    }

    impl super::Host {
        pub(in crate::driver) fn observe(&self, observed: Observed<'_>) {
            if let Some(Observer(observer)) = &self.observer {
                observer(observed);
            }
        }
    }
}
