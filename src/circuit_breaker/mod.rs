//! Stops calling a callee that keeps failing.
