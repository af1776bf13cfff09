//! Namespaces made ahead: one thread makes them one after another, for those that wait first, and frees them.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use votive_protocol::limits::DNS_SERVERS_MAX;

use super::addresses::{GATEWAY, GUEST, PREFIX};
use super::host::{Host, has_taps};
use super::{Attachment, Lease, NetworkError, NetworkSpec};

/// How long nothing is made ahead after a failure; who waits is tried for at once.
const PAUSE: Duration = Duration::from_secs(1);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// One was taken: look whether there are enough.
    Taken,
    /// Make one for somebody who waits.
    Make(oneshot::Sender<Result<Attachment, NetworkError>>),
    /// A way out is free again.
    Release(u32),
    /// Put everything back.
    Close,
}

/// The networks of an agent's guests.
#[derive(Debug)]
pub struct Network {
    ready: Arc<Ready>,
    orders: Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dns: Vec<Ipv4Addr>,
}

type Ready = Mutex<VecDeque<Attachment>>;

impl Network {
    /// Removes what an agent before left, sets up the host, and begins to make namespaces. Blocks for that long.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub fn open(spec: &NetworkSpec) -> Result<Self, NetworkError> {
        if !has_taps() {
            return Err(NetworkError::NoTaps);
        }
        let dns = spec.reach.dns.clone();
        let (orders, received) = mpsc::channel();
        let (told, opened) = mpsc::sync_channel(1);
        let ready = Arc::new(Ready::default());
        let (spec, shared, sender) = (spec.clone(), Arc::clone(&ready), orders.clone());
        let thread = std::thread::Builder::new().name(String::from("network")).spawn(move || {
            // A netlink socket belongs to the namespace of the thread that opens it; this one never leaves the host's.
            let (host, opened) = match Host::open(&spec) {
                Ok(host) => (Some(host), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if told.send(opened).is_ok()
                && let Some(host) = host
            {
                let slots = Slots::new(host.slots());
                let wanted = spec.ready;
                Maker { host, slots, ready: shared, wanted, orders: sender }.serve(&received);
            }
        });
        let thread = thread.map_err(NetworkError::Namespace)?;
        let opened = opened.recv().unwrap_or(Err(NetworkError::Lost));
        opened.map(|()| Self { ready, orders, thread: Mutex::new(Some(thread)), dns })
    }

    /// What a guest sets its network device up with.
    #[must_use]
    pub fn settings(&self) -> votive_protocol::Network {
        let mut dns = [None; DNS_SERVERS_MAX];
        for (place, server) in dns.iter_mut().zip(&self.dns) {
            *place = Some(server.octets());
        }
        let (address, gateway) = (GUEST.octets(), GATEWAY.octets());
        votive_protocol::Network { address, prefix: PREFIX, gateway, dns }
    }

    /// A network for a guest: one that is ready, or a new one.
    ///
    /// # Errors
    /// [`NetworkError`]
    pub async fn take(&self) -> Result<Attachment, NetworkError> {
        let ready = lock(&self.ready).pop_front();
        if let Some(attachment) = ready {
            // The thread is gone: nothing more is made ahead, and this one is good.
            let _ = self.orders.send(Order::Taken);
            return Ok(attachment);
        }
        let (answer, made) = oneshot::channel();
        self.orders.send(Order::Make(answer)).map_err(|_| NetworkError::Lost)?;
        made.await.unwrap_or(Err(NetworkError::Lost))
    }

    /// Removes all links and rules, also of guests that are still there, and waits until that is done.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let closed = self.orders.send(Order::Close);
        if let (Ok(()), Some(thread)) = (closed, thread)
            && thread.join().is_err()
        {
            tracing::error!(
                "the thread of guests' networks failed: the next start removes what it left"
            );
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(ready: &Ready) -> std::sync::MutexGuard<'_, VecDeque<Attachment>> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Maker {
    host: Host,
    slots: Slots,
    ready: Arc<Ready>,
    wanted: usize,
    orders: Sender<Order>,
}

impl Maker {
    fn serve(&mut self, received: &Receiver<Order>) {
        let mut failed = false;
        loop {
            let lacks = lock(&self.ready).len() < self.wanted;
            // Who waits comes before what is made ahead.
            let wait = match (lacks, failed) {
                (true, false) => Duration::ZERO,
                (true, true) => PAUSE,
                (false, _) => Duration::MAX,
            };
            match received.recv_timeout(wait) {
                Ok(Order::Taken) => {}
                Ok(Order::Make(answer)) => {
                    // Dropped if nobody waits any more: its way out is released then.
                    let _ = answer.send(self.make());
                }
                Ok(Order::Release(slot)) => {
                    self.host.release(slot);
                    self.slots.give_back(slot);
                }
                Ok(Order::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => failed = self.make_ahead().is_err(),
            }
        }
        lock(&self.ready).clear();
        self.host.end();
    }

    fn make_ahead(&mut self) -> Result<(), ()> {
        match self.make() {
            Ok(attachment) => {
                lock(&self.ready).push_back(attachment);
                Ok(())
            }
            Err(error) => {
                let error = crate::causes::with_causes(&error);
                tracing::warn!(error, "no guest's network was made ahead");
                Err(())
            }
        }
    }

    fn make(&mut self) -> Result<Attachment, NetworkError> {
        let slot = self.slots.take().ok_or(NetworkError::Exhausted)?;
        match self.host.make(slot) {
            Ok(device) => {
                let lease = Lease { slot, orders: self.orders.clone() };
                Ok(Attachment { device, lease })
            }
            Err(error) => {
                self.slots.give_back(slot);
                Err(error)
            }
        }
    }
}

/// Numbers from 0 that are not in use; the one that was given back longest ago comes first.
#[derive(Debug)]
pub(super) struct Slots {
    free: VecDeque<u32>,
    next: u32,
    end: u32,
}

impl Slots {
    pub(super) fn new(end: u32) -> Self {
        Self { free: VecDeque::new(), next: 0, end }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        if self.next < self.end {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.free.pop_front()
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        self.free.push_back(slot);
    }
}
