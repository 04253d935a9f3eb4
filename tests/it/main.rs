//! Integration tests: everything that goes through the public interface.

mod circuit_breaker;
