//! Shells made ahead of need: an environment that finds one of its size starts in it, and is spared a process, a jail, a control
//! group and KVM's objects.
//!
//! `pool` decides which are made and which are given up, without input or output. One task, `keep`, does what it says, and
//! one for each shell waits for its end. **Invariant:** a shell is given to one environment at most, one that has ended to none,
//! and none is left when [`Shells::close`] has returned.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::sync::Arc;

use metrics::{counter, gauge};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::function::Function;
use crate::metrics::{SHELLS, SHELLS_LOST, SHELLS_MISSED, SHELLS_TAKEN};

mod pool;
#[cfg(test)]
mod tests;

use pool::{Pool, ShellId};

pub use pool::SIZES_MAX;

/// Questions that wait for the keeper, which answers each at once.
const ASKED_MAX: usize = 64;

/// What a shell must fit: environments of one size can use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The function's memory size in MB, which its processor share follows from.
    pub memory_mb: u32,
    /// The guest's memory in MiB.
    pub guest_memory_mib: u32,
    /// Its vCPUs.
    pub vcpus: u32,
}

impl Size {
    /// What a function's environments need.
    #[must_use]
    pub fn of(function: &Function) -> Self {
        Self {
            memory_mb: function.memory_mb(),
            guest_memory_mib: function.microvm_memory_mib(),
            vcpus: function.vcpus(),
        }
    }
}

/// A shell that waits, with all that it has.
pub trait Waiting: Send + 'static {
    /// Waits for its end. May be dropped and called again.
    fn ended(&mut self) -> impl Future<Output = ()> + Send;
    /// Ends it, and takes away what it had. Gives its last words.
    fn end(self) -> impl Future<Output = String> + Send;
}

/// What makes shells.
pub trait Maker: Send + Sync + 'static {
    /// A shell.
    type Shell: Waiting;
    /// Makes one. Nothing is left when it cannot: it says why.
    fn make(&self, size: Size) -> impl Future<Output = Result<Self::Shell, String>> + Send;
}

/// The shells of a worker.
pub struct Shells<S> {
    /// Nothing when none are kept.
    keeper: Option<mpsc::Sender<Asked<S>>>,
}

enum Asked<S> {
    Take(Size, oneshot::Sender<S>),
    Close(oneshot::Sender<()>),
}

impl<S> Clone for Shells<S> {
    fn clone(&self) -> Self {
        Self { keeper: self.keeper.clone() }
    }
}

impl<S> Debug for Shells<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shells").field("kept", &self.keeper.is_some()).finish()
    }
}

impl<S: Waiting> Shells<S> {
    /// Keeps `ahead` shells of each size that was asked for last, or none at all; called in an asynchronous runtime.
    pub fn keep(maker: impl Maker<Shell = S>, ahead: usize) -> Self {
        if ahead == 0 {
            return Self { keeper: None };
        }
        let (keeper, asked) = mpsc::channel(ASKED_MAX);
        tokio::spawn(keep(Arc::new(maker), ahead, asked));
        Self { keeper: Some(keeper) }
    }

    /// Takes a shell of a size, if there is one; more of that size are made from now on.
    pub async fn take(&self, size: Size) -> Option<S> {
        let (give, given) = oneshot::channel();
        self.keeper.as_ref()?.send(Asked::Take(size, give)).await.ok()?;
        let shell = given.await.ok();
        counter!(if shell.is_some() { SHELLS_TAKEN } else { SHELLS_MISSED }).increment(1);
        shell
    }

    /// Ends all shells, and waits for that. None is given or made from then on.
    pub async fn close(&self) {
        let Some(keeper) = &self.keeper else { return };
        let (done, closed) = oneshot::channel();
        if keeper.send(Asked::Close(done)).await.is_ok() {
            // Whoever closed it first is answered; it is closed for all.
            let _ = closed.await;
        }
    }
}

/// The keeper's view of its shells: who makes one, and who holds one.
struct Keeper<M: Maker> {
    maker: Arc<M>,
    pool: Pool,
    making: JoinSet<(Size, Result<M::Shell, String>)>,
    holding: JoinSet<Option<ShellId>>,
    /// Where to say whom a shell is for; a shell ends when this is dropped.
    held: HashMap<ShellId, oneshot::Sender<oneshot::Sender<M::Shell>>>,
}

async fn keep<M: Maker>(maker: Arc<M>, ahead: usize, mut asked: mpsc::Receiver<Asked<M::Shell>>) {
    let mut keeper = Keeper {
        maker,
        pool: Pool::new(ahead),
        making: JoinSet::new(),
        holding: JoinSet::new(),
        held: HashMap::new(),
    };
    let done = loop {
        let retry = keeper.make();
        tokio::select! {
            asked = asked.recv() => match asked {
                Some(Asked::Take(size, to)) => keeper.give(size, to),
                Some(Asked::Close(done)) => break Some(done),
                None => break None,
            },
            Some(made) = keeper.making.join_next() => {
                if let Ok((size, made)) = made {
                    keeper.made(size, made);
                }
            }
            Some(ended) = keeper.holding.join_next() => {
                if let Ok(Some(id)) = ended {
                    keeper.lost(id);
                }
            }
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
        }
    };
    // Whoever asks from now on finds nobody.
    drop(asked);
    keeper.end().await;
    if let Some(done) = done {
        // It may wait no longer.
        let _ = done.send(());
    }
}

impl<M: Maker> Keeper<M> {
    /// Begins to make what is missing; tells when to look again.
    fn make(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some(size) = self.pool.begin(now) {
            let maker = Arc::clone(&self.maker);
            self.making.spawn(async move { (size, maker.make(size).await) });
        }
        self.tell();
        self.pool.next_look(now)
    }

    fn give(&mut self, size: Size, to: oneshot::Sender<M::Shell>) {
        if let Some(holder) =
            self.pool.take(size, Instant::now()).and_then(|id| self.held.remove(&id))
        {
            // When the shell has just ended, its holder is gone, and whoever asked hears that.
            let _ = holder.send(to);
        }
        for id in self.pool.given_up() {
            self.held.remove(&id);
        }
    }

    fn made(&mut self, size: Size, made: Result<M::Shell, String>) {
        match made {
            Ok(shell) => {
                let (hold, told) = oneshot::channel();
                let id = self.pool.made(size);
                self.holding.spawn(hold_one(shell, id, told));
                if let Some(id) = id {
                    self.held.insert(id, hold);
                }
            }
            Err(error) => {
                tracing::warn!(error, memory_mb = size.memory_mb, "a shell cannot be made");
                counter!(SHELLS_LOST).increment(1);
                self.pool.failed(size, Instant::now());
            }
        }
    }

    fn lost(&mut self, id: ShellId) {
        self.held.remove(&id);
        counter!(SHELLS_LOST).increment(1);
        self.pool.lost(id, Instant::now());
    }

    async fn end(mut self) {
        self.held.clear();
        while let Some(made) = self.making.join_next().await {
            if let Ok((_, Ok(shell))) = made {
                shell.end().await;
            }
        }
        while self.holding.join_next().await.is_some() {}
        gauge!(SHELLS).set(0.0);
    }

    #[expect(clippy::cast_precision_loss, reason = "few")]
    fn tell(&self) {
        gauge!(SHELLS).set(self.pool.ready() as f64);
    }
}

/// Holds a shell until it is known for whom it is, until it is given up, or until it ends by itself, which is told by its number.
async fn hold_one<S: Waiting>(
    mut shell: S,
    id: Option<ShellId>,
    told: oneshot::Receiver<oneshot::Sender<S>>,
) -> Option<ShellId> {
    let to = tokio::select! {
        biased;
        () = shell.ended() => {
            let reason = shell.end().await;
            tracing::warn!(reason, "a shell ended before its time");
            return id;
        }
        to = told => to,
    };
    let left = match to {
        // Who asked has gone.
        Ok(to) => to.send(shell).err(),
        Err(_) => Some(shell),
    };
    if let Some(shell) = left {
        shell.end().await;
    }
    None
}
