//! serve

mod body;
mod core;
mod drive;
mod layer;
mod listener;
mod report;
mod run;
mod server;
mod service;
mod shared;
mod signal;
mod stream;

pub use body::DrainBody;
pub use layer::{DrainFuture, DrainLayer, DrainService};
pub use listener::{Connected, Handshake, Listener, Looked, NoHandshake, Unread};
pub use report::ServeReport;
pub use server::{Serve, Server, ServerBuilder, serve};
pub use signal::DrainSignal;

#[cfg(test)]
mod tests;
