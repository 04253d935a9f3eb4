//! The HTTP vocabulary, against real clients and servers where they matter.

mod classify;
mod errors;
mod grpc_timeout;
mod keys;
mod replay;
mod respond;
mod trailers;
