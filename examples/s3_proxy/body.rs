//! A body on its way: each piece waits for the wire, is counted, and goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
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

/// A metered body. One piece of at most a connection's read buffer is held back at a time.
pub struct Metered {
    inner: Incoming,
    line: Arc<Line>,
    direction: Direction,
    flight: Flight,
    /// Bytes that are still to come, where the length is known.
    left: Option<u64>,
    waiting: Option<(Bytes, Pin<Box<Sleep>>)>,
}

impl Metered {
    pub fn new(inner: Incoming, line: Arc<Line>, direction: Direction, flight: Flight) -> Metered {
        let left = inner.size_hint().exact();
        let metered = Metered { inner, line, direction, flight, left, waiting: None };
        if left == Some(0) || metered.inner.is_end_stream() {
            metered.ended();
        }
        metered
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
}

impl Body for Metered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.waiting.is_none() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.flight.broke();
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.ended();
                    return Poll::Ready(None);
                }
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                // Trailers are not counted.
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            match self.wire().pass(Instant::now(), bytes.len()) {
                Some(passed) => self.waiting = Some((bytes, Box::pin(sleep_until(passed)))),
                None => {
                    self.count(bytes.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
            }
        }
        if let Some((_, sleep)) = &mut self.waiting {
            ready!(sleep.as_mut().poll(context));
        }
        let bytes = self.waiting.take().map(|(bytes, _)| bytes).unwrap_or_default();
        self.count(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
