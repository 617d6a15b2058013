//! Requests of the kernel, by number.

/// A connection to the kernel: a random number, drawn when a mount is made. It stays the same when
/// another daemon takes the mount over, and no two mounts have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// A request of the kernel. Where the daemon dies before it has answered, the kernel may send the
/// request again, with the same number, to the daemon that takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The connection that it came by.
    pub connection: ConnectionId,
    /// The connection's number for it.
    pub unique: u64,
}
