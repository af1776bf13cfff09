//! The sockets to telemetry's subscribers. Nothing here waits: a subscriber that does not take what it is sent holds up
//! nobody but itself.

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Ipv4Addr, SocketAddrV4, SocketFlags, SocketType};

use super::{Ending, Platform, Ready, SINKS, Worker, system};
use crate::limits::{DELIVERY_NS, EXTENSIONS_MAX};
use crate::telemetry::Times;
use crate::telemetry::delivery::Answer;
use crate::telemetry::request::Destination;

/// Bytes that one write takes at most.
const PIECE: usize = 16 * 1024;

/// One subscriber's connection.
#[derive(Debug)]
pub(super) struct Sink {
    socket: OwnedFd,
    interest: EventFlags,
    /// When the batch that is under way is given up.
    deadline_ns: u64,
}

impl<P: Platform> Worker<'_, P> {
    /// Goes on with every batch, and begins those that are due.
    pub(super) fn serve_sinks(&mut self, ready: Ready) -> Result<(), Ending> {
        if !self.server.telemetry.has_subscribers() {
            return Ok(());
        }
        for slot in 0..EXTENSIONS_MAX {
            let token = SINKS + slot as u64;
            if ready.reads(token) {
                self.read_sink(slot);
            }
            if ready.writes(token) {
                self.flush_sink(slot)?;
            }
            let now_ns = self.platform.now_ns();
            let late = |sink: &Sink| now_ns >= sink.deadline_ns;
            let is_late = self.sinks.get(slot).and_then(Option::as_ref).is_some_and(late);
            if is_late && self.server.telemetry.in_flight(slot) {
                self.server.telemetry.broken(slot);
                self.close_sink(slot);
            }
            if self.server.telemetry.is_due(slot, now_ns) {
                self.begin_batch(slot)?;
            }
        }
        Ok(())
    }

    /// When a batch is due to be begun or given up.
    pub(super) fn sinks_due_ns(&self) -> Option<u64> {
        let telemetry = &self.server.telemetry;
        let in_flight = self.sinks.iter().enumerate();
        let in_flight = in_flight.filter(|(slot, _)| telemetry.in_flight(*slot));
        let deadlines = in_flight.filter_map(|(_, sink)| Some(sink.as_ref()?.deadline_ns));
        deadlines.chain(telemetry.next_due_ns()).min()
    }

    /// Time goes on after a freeze: nobody could answer in the meantime.
    pub(super) fn sinks_thaw(&mut self) {
        let deadline_ns = self.platform.now_ns().saturating_add(DELIVERY_NS);
        for sink in self.sinks.iter_mut().flatten() {
            sink.deadline_ns = deadline_ns;
        }
    }

    /// Ends every connection.
    pub(super) fn close_sinks(&mut self) {
        for slot in 0..EXTENSIONS_MAX {
            self.close_sink(slot);
        }
    }

    pub(super) fn close_sink(&mut self, slot: usize) {
        if let Some(sink) = self.sinks.get_mut(slot).and_then(Option::take) {
            let _ = epoll::delete(&self.epoll, &sink.socket);
        }
    }

    fn begin_batch(&mut self, slot: usize) -> Result<(), Ending> {
        let at = Times { now_ns: self.platform.now_ns(), realtime_ns: self.platform.realtime_ns() };
        let port = match self.server.telemetry.destination(slot) {
            // Each request has a connection of its own, which its answer ends.
            Some(Destination::Http { port, .. }) => {
                self.close_sink(slot);
                port
            }
            Some(Destination::Tcp { port }) => port,
            None => return Ok(()),
        };
        if self.sinks.get(slot).is_some_and(Option::is_none) && !self.connect_sink(slot, port)? {
            self.server.telemetry.unreachable(slot, at.now_ns);
            return Ok(());
        }
        if let Some(Some(sink)) = self.sinks.get_mut(slot) {
            sink.deadline_ns = at.now_ns.saturating_add(DELIVERY_NS);
        }
        if self.server.telemetry.begin(slot, at) { self.flush_sink(slot) } else { Ok(()) }
    }

    /// Connects to a port of the loopback device; says whether there is somebody, as far as that is known yet.
    fn connect_sink(&mut self, slot: usize, port: u16) -> Result<bool, Ending> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .map_err(|errno| system(errno, "socket"))?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return Ok(false),
        }
        let interest = EventFlags::IN;
        let data = EventData::new_u64(SINKS + slot as u64);
        epoll::add(&self.epoll, &socket, data, interest)
            .map_err(|errno| system(errno, "epoll_ctl"))?;
        if let Some(place) = self.sinks.get_mut(slot) {
            *place = Some(Sink { socket, interest, deadline_ns: u64::MAX });
        }
        Ok(true)
    }

    /// Writes as far as the subscriber takes it.
    fn flush_sink(&mut self, slot: usize) -> Result<(), Ending> {
        let mut buffer = [0; PIECE];
        let mut blocked = false;
        loop {
            let Self { sinks, server, platform, .. } = self;
            let Some(sink) = sinks.get(slot).and_then(Option::as_ref) else { return Ok(()) };
            let len = server.telemetry.fill(slot, &mut buffer);
            if len == 0 {
                break;
            }
            match rustix::io::write(&sink.socket, buffer.get(..len).unwrap_or(&[])) {
                Ok(len) => server.telemetry.written(slot, len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    blocked = true;
                    break;
                }
                Err(errno) => {
                    let now_ns = platform.now_ns();
                    if errno == Errno::CONNREFUSED {
                        server.telemetry.unreachable(slot, now_ns);
                    } else {
                        server.telemetry.broken(slot);
                    }
                    self.close_sink(slot);
                    return Ok(());
                }
            }
        }
        let Some(sink) = self.sinks.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        let wanted = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        if wanted != sink.interest {
            let data = EventData::new_u64(SINKS + slot as u64);
            epoll::modify(&self.epoll, &sink.socket, data, wanted)
                .map_err(|errno| system(errno, "epoll_ctl"))?;
            sink.interest = wanted;
        }
        Ok(())
    }

    /// Reads a piece of what a subscriber answers; only its first line matters.
    fn read_sink(&mut self, slot: usize) {
        let Self { sinks, server, platform, .. } = self;
        let Some(sink) = sinks.get(slot).and_then(Option::as_ref) else { return };
        let mut buffer = [0; 1024];
        match rustix::io::read(&sink.socket, &mut buffer) {
            Ok(len) if len > 0 => {
                let tcp = matches!(
                    server.telemetry.destination(slot),
                    Some(Destination::Tcp { .. }) | None
                );
                // Behind the first line the rest is read and thrown away, until the subscriber hangs up.
                if !tcp
                    && server.telemetry.in_flight(slot)
                    && server.telemetry.answered(slot, buffer.get(..len).unwrap_or(&[]))
                        == Answer::Refused
                {
                    self.close_sink(slot);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNREFUSED) => {
                server.telemetry.unreachable(slot, platform.now_ns());
                self.close_sink(slot);
            }
            Ok(_) | Err(_) => {
                server.telemetry.broken(slot);
                self.close_sink(slot);
            }
        }
    }
}
