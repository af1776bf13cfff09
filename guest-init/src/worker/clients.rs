//! The Runtime API's sockets.

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::{Errno, IoSlice};
use rustix::net::{Shutdown, SocketFlags};

use super::{CLIENTS, CONNECTIONS_MAX, Client, Ending, LISTENER, Platform, Worker, system};
use crate::server::Place;

/// Reads of one connection after the runtime's end: what a socket can hold, and then some.
const DRAIN_READS: usize = 256;

impl<P: Platform> Worker<'_, P> {
    /// Takes every client that is waiting, as far as there are places.
    pub(super) fn accept(&mut self) -> Result<(), Ending> {
        loop {
            let place = self.server.place();
            let index = match place {
                Place::Free(index) | Place::Evict(index) => index,
                Place::None => return self.set_accepting(false),
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(&self.descriptors.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => return Err(system(errno, "accept4").into()),
            };
            if matches!(place, Place::Evict(_)) {
                self.close(index);
            }
            let interest = EventFlags::IN;
            let data = EventData::new_u64(CLIENTS + index as u64);
            epoll::add(&self.epoll, &socket, data, interest)
                .map_err(|errno| system(errno, "epoll_ctl"))?;
            self.server.open(index);
            if let Some(slot) = self.clients.get_mut(index) {
                *slot = Some(Client { socket, interest });
            }
        }
    }

    pub(super) fn set_accepting(&mut self, accepting: bool) -> Result<(), Ending> {
        if accepting != self.accepting {
            let wanted = if accepting { EventFlags::IN } else { EventFlags::empty() };
            let data = EventData::new_u64(LISTENER);
            epoll::modify(&self.epoll, &self.descriptors.listener, data, wanted)
                .map_err(|errno| system(errno, "epoll_ctl"))?;
            self.accepting = accepting;
        }
        Ok(())
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index).and_then(Option::take) {
            let _ = epoll::delete(&self.epoll, &client.socket);
        }
        self.server.closed(index);
    }

    /// Reads all that a client has sent by now, as far as that is bounded; says whether that was possible.
    pub(super) fn drain_client(&mut self, index: usize) -> Result<bool, Ending> {
        for _ in 0..DRAIN_READS {
            let Some(client) = self.clients.get(index).and_then(Option::as_ref) else { break };
            let mut wanted = [PollFd::new(&client.socket, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if !matches!(poll(&mut wanted, Some(&now)), Ok(1..)) {
                break;
            }
            if !self.has_room()? {
                return Ok(false);
            }
            self.read_client(index)?;
        }
        Ok(true)
    }

    /// Reads what a client sent.
    pub(super) fn read_client(&mut self, index: usize) -> Result<(), Ending> {
        if !self.has_room()? {
            return Ok(());
        }
        let Some(client) = self.clients.get(index).and_then(Option::as_ref) else { return Ok(()) };
        let space = self.server.space(index);
        if space.is_empty() {
            return self.flush_client(index);
        }
        match rustix::io::read(&client.socket, space) {
            Ok(len) if len > 0 => {
                self.server.received(index, len, &self.platform);
                // The caller waits for the agent's answer, the runtime only for its receipt.
                self.flush_link()?;
                self.flush_client(index)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok(_) | Err(_) => {
                self.server.ended(index, &self.platform);
                self.flush_client(index)?;
                self.close(index);
                self.set_accepting(true)
            }
        }
    }

    /// Writes to clients whose output changed behind their backs.
    pub(super) fn flush_stirred(&mut self) -> Result<(), Ending> {
        let stirred = self.server.take_stirred();
        for index in (0..CONNECTIONS_MAX).filter(|index| stirred & (1 << index) != 0) {
            self.flush_client(index)?;
        }
        Ok(())
    }

    /// Writes to a client as far as it takes it.
    pub(super) fn flush_client(&mut self, index: usize) -> Result<(), Ending> {
        let Some(client) = self.clients.get(index).and_then(Option::as_ref) else { return Ok(()) };
        let mut blocked = false;
        let mut broken = false;
        while let Some([first, second]) = self.server.output(index) {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            let written = match (first, second) {
                (one, []) | ([], one) => rustix::io::write(&client.socket, one),
                _ => rustix::io::writev(&client.socket, &pieces),
            };
            match written {
                Ok(len) => self.server.written(index, len, &self.platform),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    blocked = true;
                    break;
                }
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if self.server.take_half_close(index) {
            let _ = rustix::net::shutdown(&client.socket, Shutdown::Write);
        }
        if broken {
            self.server.ended(index, &self.platform);
        }
        if broken || self.server.is_done(index) {
            self.close(index);
            return self.set_accepting(true);
        }
        self.set_interest(index, blocked)
    }

    /// Asks to be woken for what the client can be served with.
    pub(super) fn set_interest(&mut self, index: usize, blocked: bool) -> Result<(), Ending> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, !self.server.space(index).is_empty());
        wanted.set(EventFlags::OUT, blocked);
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        if client.interest != wanted {
            let data = EventData::new_u64(CLIENTS + index as u64);
            epoll::modify(&self.epoll, client.socket.as_fd(), data, wanted)
                .map_err(|errno| system(errno, "epoll_ctl"))?;
            client.interest = wanted;
        }
        Ok(())
    }
}
