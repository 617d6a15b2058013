//! One answer for every kind of request, sent to wherever the request came from.

use std::time::Duration;

use fuser::Errno;

use super::reply::{Body, ListedInode, Listing};
use crate::fs::{DirEntry, StatFs};
use crate::fuse::answer::{
    Answer, AnswerAttr, AnswerCreated, AnswerData, AnswerEmpty, AnswerEntry, AnswerListing,
    AnswerListingPlus, AnswerOffset, AnswerStatFs, AnswerWritten, AnswerXattr,
};
use crate::types::{Attr, Buffer, Ino};

/// Takes one answer to the kernel.
pub(in crate::fuse) trait Outlet: Send + 'static {
    /// `error` is an errno, or 0.
    fn send(self, unique: u64, error: i32, body: Body);
}

/// A request's open answer. Exactly one is sent: by the operation, or as `EIO` by dropping it.
#[derive(Debug)]
pub(in crate::fuse) struct WireAnswer<O: Outlet> {
    unique: u64,
    outlet: Option<O>,
    listing: Listing,
    /// Most bytes of a listing.
    room: u32,
}

impl<O: Outlet> WireAnswer<O> {
    pub(in crate::fuse) fn new(unique: u64, outlet: O) -> WireAnswer<O> {
        WireAnswer { unique, outlet: Some(outlet), listing: Listing::default(), room: 0 }
    }

    /// With room for a listing, in bytes.
    pub(in crate::fuse) fn room(self, room: u32) -> WireAnswer<O> {
        let mut answer = self;
        answer.room = room;
        answer
    }

    fn send(mut self, body: Body) {
        self.put(0, body);
    }

    fn put(&mut self, error: i32, body: Body) {
        if let Some(outlet) = self.outlet.take() {
            outlet.send(self.unique, error, body);
        }
    }
}

impl<O: Outlet> Drop for WireAnswer<O> {
    fn drop(&mut self) {
        self.put(libc::EIO, Body::Empty);
    }
}

impl<O: Outlet> Answer for WireAnswer<O> {
    fn fail(mut self, errno: Errno) {
        self.put(errno.code(), Body::Empty);
    }
}

impl<O: Outlet> AnswerEmpty for WireAnswer<O> {
    fn done(self) {
        self.send(Body::Empty);
    }
}

impl<O: Outlet> AnswerEntry for WireAnswer<O> {
    fn entry(self, ttl: Duration, ino: Ino, attr: &Attr) {
        self.send(Body::entry(ttl, ino, attr));
    }
}

impl<O: Outlet> AnswerAttr for WireAnswer<O> {
    fn attr(self, ttl: Duration, ino: Ino, attr: &Attr) {
        self.send(Body::attr(ttl, ino, attr));
    }
}

impl<O: Outlet> AnswerCreated for WireAnswer<O> {
    fn created(self, ino: Ino, attr: &Attr) {
        self.send(Body::created(ino, attr));
    }
}

impl<O: Outlet> AnswerData for WireAnswer<O> {
    fn data(self, bytes: Buffer) {
        self.send(Body::Bytes(bytes));
    }
}

impl<O: Outlet> AnswerWritten for WireAnswer<O> {
    fn written(self, bytes: u32) {
        self.send(Body::length(bytes));
    }
}

impl<O: Outlet> AnswerOffset for WireAnswer<O> {
    fn offset(self, offset: i64) {
        self.send(Body::offset(offset));
    }
}

impl<O: Outlet> AnswerStatFs for WireAnswer<O> {
    fn statfs(self, stat: &StatFs) {
        self.send(Body::statfs(stat));
    }
}

impl<O: Outlet> AnswerXattr for WireAnswer<O> {
    fn len(self, bytes: u32) {
        self.send(Body::length(bytes));
    }

    fn value(self, value: &[u8]) {
        self.send(Body::Bytes(value.to_owned().into()));
    }
}

impl<O: Outlet> AnswerListing for WireAnswer<O> {
    fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        self.listing.add(self.room, entry, ListedInode::NotAsked)
    }

    fn listed(mut self) {
        let listing = std::mem::take(&mut self.listing);
        self.send(listing.into_body());
    }
}

impl<O: Outlet> AnswerListingPlus for WireAnswer<O> {
    const LISTS_BARE_NAMES: bool = true;

    fn add(&mut self, entry: &DirEntry<'_>, attr: &Attr) -> bool {
        self.listing.add(self.room, entry, ListedInode::Known(attr))
    }

    fn add_bare(&mut self, entry: &DirEntry<'_>) -> bool {
        self.listing.add(self.room, entry, ListedInode::Unknown)
    }

    fn listed(self) {
        AnswerListing::listed(self);
    }
}
