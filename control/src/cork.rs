//! Writing together what is said together.
//!
//! HTTP/2 flushes a request's head, its body and its end one by one, since each comes from another task; each flush would be a
//! TLS record, a system call, and a turn of the peer. A [`Cork`] holds a flush back while the tasks that are ready have
//! their turn, a few times at most, and no longer: it never waits for anything.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// How many bytes are held at most: a TLS record's worth. A write that is larger passes by.
pub const HELD_MAX: usize = 16 * 1024;

/// How often a flush is held back for what may follow: once each for the body and for the end.
pub const HOLDS_MAX: u8 = 3;

/// A stream whose writes are gathered.
#[derive(Debug)]
pub struct Cork<S> {
    stream: S,
    held: Vec<u8>,
    /// How much of `held` the stream has taken.
    taken: usize,
    /// How often the flush under way was held back.
    holds: u8,
    /// Something was written since it was held back last.
    grown: bool,
}

impl<S> Cork<S> {
    /// Gathers what is written to `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), taken: 0, holds: 0, grown: false }
    }

    /// The stream beneath.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Hands on what is held.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.taken += len,
            }
        }
        self.held.clear();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes; says whether they are to be held.
    fn poll_room(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<bool>> {
        if self.held.len() + len <= HELD_MAX {
            self.grown = true;
            return Poll::Ready(Ok(true));
        }
        ready!(self.poll_release(cx))?;
        self.grown = len <= HELD_MAX;
        Poll::Ready(Ok(self.grown))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if ready!(this.poll_room(cx, bytes.len()))? {
            this.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = slices.iter().map(|slice| slice.len()).sum();
        if ready!(this.poll_room(cx, len))? {
            slices.iter().for_each(|slice| this.held.extend_from_slice(slice));
            return Poll::Ready(Ok(len));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.grown && this.holds < HOLDS_MAX {
            this.grown = false;
            this.holds += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_release(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        (this.holds, this.grown) = (0, false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_release(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}
