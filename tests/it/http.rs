//! The HTTP vocabulary, against real clients and servers where they matter.

mod attempts;
mod classify;
mod errors;
mod grpc_timeout;
mod keys;
mod one_port;
mod replay;
mod respond;
mod trailers;
