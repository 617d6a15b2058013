//! What is agreed with the kernel when a mount begins, and why.

use fuser::{InitFlags, KernelConfig};

use super::options::MountOptions;

/// Smallest write size that the kernel accepts.
const WRITE_BYTES_MIN: u32 = 4096;

/// Largest write size: 256 pages, the kernel's default limit.
const WRITE_BYTES_MAX: u32 = 1024 * 1024;

/// Requests that nobody waits for (read-ahead, asynchronous direct I/O) under way at once.
pub(super) const BACKGROUND_MAX: u16 = 64;

/// Flags that are asked for wherever the kernel knows them.
///
/// One writer per workspace, so everything the kernel has seen stays true until it changes it
/// itself: it may cache content, names and symlinks, and nothing is invalidated behind its back
/// (`EXPLICIT_INVAL_DATA` without `AUTO_INVAL_DATA`).
///
/// - `HANDLE_KILLPRIV_V2`: we clear setuid and setgid on write, chown and truncate; else the
///   kernel asks for `security.capability` before each write instead of once per file.
/// - `DONT_MASK`: the umask comes to us, because a default ACL takes its place.
/// - `NO_EXPORT_SUPPORT`: a file handle can't be looked up again after it was forgotten.
/// - Not `POSIX_LOCKS`, `FLOCK_LOCKS`: the kernel keeps locks; one mount, and no lock request
///   that could wait in the daemon. Not `ATOMIC_O_TRUNC`: there are no OPEN requests. Not
///   `SPLICE_*`: fuser copies. Not `SETXATTR_EXT`, `SECURITY_CTX`, `CREATE_SUPP_GROUP`: fuser
///   does not parse what they add. Not `ABORT_ERROR`: fuser takes `ENODEV` as the end.
const ALWAYS: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_NO_EXPORT_SUPPORT);

/// The flags that a mount with these options asks for.
pub(super) fn wanted(options: &MountOptions) -> InitFlags {
    let mut wanted = ALWAYS;
    if options.xattr {
        // The kernel then enforces ACLs and caches them; inheritance stays with `fs`.
        wanted |= InitFlags::FUSE_POSIX_ACL;
    }
    if options.writeback_cache {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    wanted
}

/// Largest write, bytes: what the options ask for, within the kernel's bounds and the buffers'.
pub(super) fn write_bytes(options: &MountOptions, buffer_bytes: usize) -> u32 {
    let buffer_bytes = u32::try_from(buffer_bytes).unwrap_or(u32::MAX);
    options.write_bytes_max.clamp(WRITE_BYTES_MIN, WRITE_BYTES_MAX).min(buffer_bytes)
}

/// Fills in fuser's answer to INIT.
pub fn configure(config: &mut KernelConfig, options: &MountOptions) {
    let wanted = wanted(options);
    let known = wanted & config.capabilities();
    // Refused is only what the kernel does not know, and that was taken out.
    let _ = config.add_capabilities(known);
    let write_bytes = write_bytes(options, usize::MAX);
    // Both refuse only what lies outside the bounds above.
    let _ = config.set_max_write(write_bytes);
    let _ = config.set_max_background(BACKGROUND_MAX);
    tracing::debug!(flags = ?known, missing = ?(wanted & !known), write_bytes, "INIT");
}
