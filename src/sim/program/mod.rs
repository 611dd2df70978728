//! What lives in a world: the programs of its processes.
//!
//! ```text
//!   recommended   the loop that the documentation recommends: pending, update, sync, reduces
//!   any_order     any legal call at any time, several at once, cancelled, left, closed
//!   misbehaving   what nobody may call; beside it, a stranger who is no communicator at all
//! ```
//!
//! Once it is calm every program goes on in the recommended loop, until an update, a sync and an
//! all-reduce went well with everybody, and then until the world is over. Programs draw from what
//! they are given only, and never block the thread.

mod any_order;
mod explain;
mod life;
mod manner;
mod misbehaving;
mod model;
mod numbers;
mod recommended;
mod stranger;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

pub(super) use manner::{AnyOrder, Manner, Misbehaving, Recommended, Role};

use super::history::{Event, ProcessId, WorldTime};
use super::recorder::Recorder;
use super::world::Signals;
use crate::communicator::Config;
use crate::driver::{Disk, Host, Secret, listen, serve_for_ever};
use crate::protocol::master::MasterConfig;
use life::Life;
use model::Model;

/// How often programs look whether it is calm, or over.
const GLANCE: Duration = Duration::from_millis(20);

/// How many glances whatever belongs to a communicator may take to be gone: three seconds. A refused
/// connection is kept for one, so that the reason arrives. Counted, as the clock runs on while a
/// process is frozen, and what is to be gone does not.
const FAREWELL_GLANCES: u32 = 150;

/// What a process stands on.
#[derive(Clone)]
pub(crate) struct Ground {
    /// Which process it is.
    pub(crate) process: ProcessId,
    /// Its network; who watches its machines is added here.
    pub(crate) host: Host,
    /// Where everything is written down.
    pub(crate) recorder: Recorder,
    /// The world's time.
    pub(crate) now: Arc<dyn Fn() -> WorldTime + Send + Sync>,
    /// Where the master is.
    pub(crate) master: SocketAddr,
    /// What programs agree on in this world.
    pub(crate) manner: Manner,
    /// The settings of its communicators, but for the master's address.
    pub(crate) config: Config,
    /// What the world says.
    pub(crate) signals: Signals,
    /// Sockets of the process, and tasks on its runtime.
    pub(crate) leftovers: Arc<dyn Fn() -> (usize, usize) + Send + Sync>,
    /// Numbers the calls.
    pub(crate) next_call: Arc<AtomicU64>,
    /// Numbers the communicators.
    pub(crate) next_life: Arc<AtomicU32>,
}

/// The main of a process that is a peer; it ends once the world is over.
pub(crate) async fn run(mut ground: Ground, role: Role) {
    ground.watch();
    ground.config.master = ground.master.to_string();
    let mut model = Model::new(&ground);
    match role {
        Role::Recommended(parameters) => {
            recommended::run(&ground, &parameters, &mut model).await;
        }
        Role::AnyOrder(parameters) => {
            let life = any_order::run(&ground, parameters, &mut model).await;
            go_on(&ground, life, &mut model).await;
        }
        Role::Misbehaving(parameters) => {
            ground.record(Event::Misbehaves);
            let life = misbehaving::run(&ground, parameters, &mut model).await;
            go_on(&ground, life, &mut model).await;
        }
    }
}

/// What was anything else becomes recommended.
async fn go_on(ground: &Ground, life: Option<Life>, model: &mut Model) {
    let parameters = Recommended::calm();
    if let Some(life) = life {
        recommended::go_on(life, &parameters, model).await;
    }
    recommended::run(ground, &parameters, model).await;
}

/// The main of the master's process. It does not end: the others need it until they have left.
pub(crate) async fn run_master(
    mut ground: Ground,
    config: MasterConfig,
    disk: Option<Box<dyn Disk>>,
    secret: Secret,
) {
    ground.watch();
    match listen(&ground.host, ground.master) {
        Ok(listener) => {
            let ended = serve_for_ever(ground.host.clone(), listener, config, disk, secret).await;
            ground.complain(format!("the master ended by itself: {ended:?}"));
        }
        Err(error) => ground.complain(format!("the master cannot listen: {error}")),
    }
}

impl Ground {
    fn watch(&mut self) {
        let now = self.now.clone();
        self.host.observer = Some(self.recorder.observer(self.process, move || now()));
    }

    fn record(&self, event: Event) {
        self.recorder.record((self.now)(), self.process, event);
    }

    fn complain(&self, words: String) {
        self.record(Event::Complaint(words));
    }

    /// Waits until nothing of a communicator is left, or that has taken too long.
    async fn farewell(&self, life: u32, buffers: impl Fn() -> usize) {
        let left = || {
            let (sockets, tasks) = (self.leftovers)();
            (sockets, tasks, buffers())
        };
        for _ in 0..FAREWELL_GLANCES {
            if left() == (0, 0, 0) {
                break;
            }
            tokio::time::sleep(GLANCE).await;
        }
        let (sockets, tasks, buffers) = left();
        self.record(Event::LifeEnded {
            life,
            sockets,
            tasks,
            buffers,
        });
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
