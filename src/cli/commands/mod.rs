//! One file per command, or per few that are alike.

mod checkpoint;
mod documents;
mod hibernate;
mod mount;
mod status;
mod store;
mod unmount;
mod upgrade;
mod verify;

pub use checkpoint::checkpoint;
pub use documents::{completions, exit_codes, man};
pub use hibernate::hibernate;
pub use mount::mount;
pub use status::status;
pub use store::{init, snapshots, workspaces};
pub use unmount::unmount;
pub use upgrade::upgrade;
pub use verify::verify;
