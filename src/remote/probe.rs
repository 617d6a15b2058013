//! Does the store honour conditional puts? Asked once per store, at `init`.

use super::engine::Engine;
use super::{ConditionStyle, RemoteError};

pub(super) async fn probe(_engine: &Engine) -> Result<ConditionStyle, RemoteError> {
    todo!()
}
