//! Integration tests: everything that goes through the public interface.

#[cfg(feature = "http")]
mod http;
