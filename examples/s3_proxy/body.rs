//! A body on its way: each piece waits for the wire, is counted, and goes on, damaged perhaps.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::counts::Flight;
use crate::wire::{Line, Wire};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// What happens to a body's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The connection breaks after so many.
    Cut(u64),
    /// They end after so many.
    Truncate(u64),
    /// A bit of this one is flipped.
    Flip(u64),
}

/// A metered body. One piece of at most a connection's read buffer is held back at a time.
pub struct Metered {
    inner: Incoming,
    line: Arc<Line>,
    direction: Direction,
    flight: Flight,
    damage: Option<Damage>,
    /// Bytes that have passed.
    passed: u64,
    /// Bytes that are still to come, where the length is known.
    left: Option<u64>,
    /// Came, and is not on the wire yet.
    came: Bytes,
    waiting: Option<(Bytes, Pin<Box<Sleep>>)>,
}

type Piece = Option<Result<Frame<Bytes>, io::Error>>;

impl Metered {
    pub fn new(inner: Incoming, line: Arc<Line>, direction: Direction, flight: Flight) -> Metered {
        let left = inner.size_hint().exact();
        let metered = Metered {
            inner,
            line,
            direction,
            flight,
            damage: None,
            passed: 0,
            left,
            came: Bytes::new(),
            waiting: None,
        };
        if left == Some(0) || metered.inner.is_end_stream() {
            metered.ended();
        }
        metered
    }

    /// Does this to its bytes. An offset is taken modulo the length, where that is known.
    #[must_use]
    pub fn damaged(mut self, damage: Option<Damage>) -> Metered {
        let len = self.left.filter(|len| *len > 0);
        self.damage = damage.map(|damage| match damage {
            Damage::Flip(at) => Damage::Flip(len.map_or(at, |len| at % len)),
            other => other,
        });
        if let (Some(Damage::Truncate(after)), Some(left)) = (self.damage, self.left) {
            self.left = Some(left.min(after));
        }
        self
    }

    fn wire(&self) -> &Wire {
        match self.direction {
            Direction::Up => &self.line.up,
            Direction::Down => &self.line.down,
        }
    }

    fn ended(&self) {
        if self.direction == Direction::Down {
            self.flight.end();
        }
    }

    fn count(&mut self, bytes: u64) {
        match self.direction {
            Direction::Up => self.flight.sent_up(bytes),
            Direction::Down => self.flight.sent_down(bytes),
        }
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        // Before the client has the last byte, so that its next request is seen to be later.
        if self.left == Some(0) {
            self.ended();
        }
    }

    /// The piece after its wait; the end or the break, where the damage says so.
    fn pass(&mut self, bytes: Bytes) -> Piece {
        let (from, to) = (self.passed, self.passed + bytes.len() as u64);
        let bytes = match self.damage {
            Some(Damage::Cut(after)) if to > after => {
                self.flight.broke();
                return Some(Err(io::Error::other("cut as told")));
            }
            Some(Damage::Truncate(after)) if from >= after => {
                self.ended();
                return None;
            }
            Some(Damage::Truncate(after)) if to > after => bytes.slice(..(after - from) as usize),
            Some(Damage::Flip(at)) if (from..to).contains(&at) => {
                let mut damaged = BytesMut::from(&bytes[..]);
                damaged[(at - from) as usize] ^= 1;
                damaged.freeze()
            }
            _ => bytes,
        };
        self.passed += bytes.len() as u64;
        self.count(bytes.len() as u64);
        Some(Ok(Frame::data(bytes)))
    }

    fn broke(&self, error: hyper::Error) -> Piece {
        self.flight.broke();
        Some(Err(io::Error::other(error)))
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Piece> {
        if self.waiting.is_none() {
            if self.came.is_empty() {
                let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => return Poll::Ready(self.broke(error)),
                    None => {
                        self.ended();
                        return Poll::Ready(None);
                    }
                };
                match frame.into_data() {
                    Ok(bytes) => self.came = bytes,
                    // Trailers are not counted.
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                }
            }
            let len = self.wire().piece_bytes_max().min(self.came.len());
            let piece = self.came.split_to(len);
            match self.wire().pass(Instant::now(), piece.len()) {
                Some(passed) => self.waiting = Some((piece, Box::pin(sleep_until(passed)))),
                None => return Poll::Ready(self.pass(piece)),
            }
        }
        if let Some((_, sleep)) = &mut self.waiting {
            ready!(sleep.as_mut().poll(context));
        }
        let bytes = self.waiting.take().map(|(bytes, _)| bytes).unwrap_or_default();
        Poll::Ready(self.pass(bytes))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.came.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
