//! The control channel's server: what an orchestrator says to this worker.
//!
//! A connection passes these in order, and each may end it: [`admission`] (how many there may be), TLS with the caller's
//! certificate and its role (`votive_control::tls`), HTTP/2 with its limits (`connection`), the role that the call needs
//! ([`calls`]), and only then a message is decoded and `service` asks the worker. Whatever is refused is counted in
//! [`tally`] and told in the log, which never holds a payload.
//!
//! **Invariant:** nothing here is sized by a peer: connections, handshakes, streams, headers, messages and payloads under way
//! have their limits in [`ControlLimits`], and every wait for a peer ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use votive_control::address::Address;
use votive_control::tls::{Identity, TlsError};

use crate::worker::WorkerHandle;

pub mod admission;
mod body;
pub mod calls;
mod connection;
mod convert;
pub mod deadline;
mod gate;
mod limits;
mod listener;
mod refused;
mod service;
pub mod tally;
#[cfg(test)]
mod tests;

pub use limits::ControlLimits;

use admission::{Admission, Arrival, Peer};
use connection::Connection;
use listener::{Listener, Socket};
use service::Service;
use tally::{Cut, Tally};

/// Where a worker listens for its orchestrators, and who it is.
#[derive(Debug)]
pub struct ControlSpec {
    /// TCP addresses.
    pub tcp: Vec<SocketAddr>,
    /// Paths of Unix sockets, each made with mode 660 for the user and group of the process.
    pub unix: Vec<PathBuf>,
    /// The folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub identity: PathBuf,
    /// The limits.
    pub limits: ControlLimits,
}

/// A control channel that listens already and serves nobody yet.
#[derive(Debug)]
pub struct ControlServer {
    listeners: Vec<Listener>,
    identity: PathBuf,
    tls: watch::Sender<Arc<ServerConfig>>,
    limits: ControlLimits,
    tally: Arc<Tally>,
}

/// Reads the certificates again while the channel serves.
#[derive(Clone, Debug)]
pub struct Renewal {
    identity: PathBuf,
    tls: watch::Sender<Arc<ServerConfig>>,
}

impl Renewal {
    /// Takes new certificates from the same folder: new connections are served with them, those that exist stay.
    ///
    /// # Errors
    /// They are of no use; the old ones stay.
    pub fn renew(&self) -> Result<(), TlsError> {
        let config = Identity::read(&self.identity)?.server_config()?;
        self.tls.send_replace(config);
        Ok(())
    }
}

/// Why there is no control channel.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The worker's certificate, key or authority is of no use.
    #[error("the worker's keys in {folder} cannot be used")]
    Identity {
        /// Where they are.
        folder: PathBuf,
        /// Why.
        source: TlsError,
    },
    /// An address is taken or not ours.
    #[error("cannot listen at {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A control channel that nobody can reach is a mistake.
    #[error("there is no address to listen at")]
    NoAddress,
}

impl ControlServer {
    /// Reads the keys and listens. Connections wait until [`ControlServer::serve`].
    ///
    /// # Errors
    /// [`ControlError`]
    pub async fn bind(spec: ControlSpec) -> Result<Self, ControlError> {
        let config =
            Identity::read(&spec.identity).and_then(|identity| identity.server_config()).map_err(
                |source| ControlError::Identity { folder: spec.identity.clone(), source },
            )?;
        let mut listeners = Vec::new();
        for address in spec.tcp {
            let listener = Listener::tcp(address).await;
            let address = address.to_string();
            listeners.push(listener.map_err(|source| ControlError::Listen { address, source })?);
        }
        for path in spec.unix {
            let address = path.display().to_string();
            let listener = Listener::unix(path);
            listeners.push(listener.map_err(|source| ControlError::Listen { address, source })?);
        }
        if listeners.is_empty() {
            return Err(ControlError::NoAddress);
        }
        Ok(Self {
            listeners,
            identity: spec.identity,
            tls: watch::Sender::new(config),
            limits: spec.limits,
            tally: Arc::new(Tally::default()),
        })
    }

    /// Where it listens, with the ports that were chosen.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// What was served and refused.
    #[must_use]
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// The way to new certificates.
    #[must_use]
    pub fn renewal(&self) -> Renewal {
        Renewal { identity: self.identity.clone(), tls: self.tls.clone() }
    }

    /// Serves until `stop` is done; then takes no more connections, lets calls under way finish for a while, and returns.
    pub async fn serve(self, worker: WorkerHandle, stop: impl Future<Output = ()> + Send) {
        let (ending, ended) = watch::channel(false);
        let shared = Arc::new(Shared {
            admission: Mutex::new(Admission::new(self.limits.admission)),
            tls: self.tls.subscribe(),
            service: Service::new(worker, self.limits, Arc::clone(&self.tally)),
            tally: self.tally,
            limits: self.limits,
            ending: ended,
        });
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, Arc::clone(&shared)));
        }
        stop.await;
        // Nobody listens: there are no connections left to tell.
        let _ = ending.send(true);
        drop(shared);
        while accepting.join_next().await.is_some() {}
    }
}

/// What all connections share.
struct Shared {
    admission: Mutex<Admission<oneshot::Sender<()>>>,
    tls: watch::Receiver<Arc<ServerConfig>>,
    service: Service,
    tally: Arc<Tally>,
    limits: ControlLimits,
    ending: watch::Receiver<bool>,
}

impl Shared {
    /// What `change` makes of the admission. Nothing in it can panic half-way.
    fn admission<T>(&self, change: impl FnOnce(&mut Admission<oneshot::Sender<()>>) -> T) -> T {
        change(&mut self.admission.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Accepts connections until the channel ends; then waits for those that are left.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut ending = shared.ending.clone();
    loop {
        tokio::select! {
            () = ended(&mut ending) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => begin(&mut connections, &shared, socket, peer),
                Err(error) => {
                    shared.tally.cut(Cut::AcceptFailed, None, &error);
                    // Out of descriptors or memory: they come back when connections end, not by asking again at once.
                    tokio::time::sleep(shared.limits.accept_pause).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Whoever is still there is cut when the set is dropped.
    let _ = tokio::time::timeout(shared.limits.end_grace, all).await;
}

fn begin(connections: &mut JoinSet<()>, shared: &Arc<Shared>, socket: Socket, peer: Peer) {
    let (evict, evicted) = oneshot::channel();
    let arrival = shared.admission(|admission| admission.arrive(peer, evict));
    let Arrival { id, evicted: other } = arrival;
    if let Some(other) = other {
        // Its task cuts the connection, and tells.
        let _ = other.send(());
    }
    let connection = Connection { shared: Arc::clone(shared), id, peer, evicted };
    connections.spawn(connection.run(socket));
}

/// Waits until the channel ends.
async fn ended(ending: &mut watch::Receiver<bool>) {
    // Without its other side the channel has ended, too.
    let _ = ending.wait_for(|ending| *ending).await;
}
