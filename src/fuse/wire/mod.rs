//! The FUSE protocol's bytes, for the transport of our own: requests in, answers and news out.
//! Layouts as in Linux's `include/uapi/linux/fuse.h`, version 7.42; numbers in the machine's own
//! byte order.
//!
//! Promises: every length is checked before it is used, and no bytes make a decoder panic. Must
//! not know: what an operation does, and how bytes get here.

mod answer;
mod fields;
mod init;
mod notice;
mod reply;
mod request;

#[cfg(test)]
mod tests;

pub(super) use answer::{Outlet, WireAnswer};
pub(super) use fields::Malformed;
pub(super) use init::{InitIn, InitOut, MAJOR};
pub(super) use notice::{attributes_changed, resend};
pub(super) use reply::{Body, OUT_HEADER_LEN, out_header};
pub(super) use request::{FIXED_LEN_MAX, HEADER_LEN, Header, Operation, opcodes};
