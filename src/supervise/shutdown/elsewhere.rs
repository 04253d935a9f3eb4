//! Systems without signals.

use std::io;
use std::sync::Arc;

use super::shared::Shared;

pub(super) enum Installed {}

pub(super) fn install(_: &Arc<Shared>) -> io::Result<Installed> {
    Err(io::ErrorKind::Unsupported.into())
}
