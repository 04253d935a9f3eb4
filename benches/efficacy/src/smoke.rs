//! tmp
pub(crate) fn run(_: usize) {}
