//! Admission: as many calls in flight as a backend can take, and a waiting room that knows deadlines.
//!
//! # The failure it prevents
//!
//! A backend loses half of its capacity for ten seconds. Requests pile up in its queue until each of them waits
//! longer there than its caller does. From then on it works at full capacity on requests whose callers have gone,
//! also after the capacity is back: nobody is answered in time although nothing is broken any more.
mod future;
mod handle;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use handle::Admission;
pub use layer::AdmissionLayer;
pub use service::AdmissionService;
