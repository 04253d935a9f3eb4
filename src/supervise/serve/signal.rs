use std::fmt;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Version};
use tokio::time::Instant;

use crate::name::Name;
use crate::supervise::{Hold, Lifecycle, Phase};

/// Tells a long answer that the process wants to end: a request extension, or made of a [`Lifecycle`].
///
/// An event stream ends itself when it fires, a WebSocket sends its close frame. What does neither is cut
/// at the deadline.
///
/// ```
/// use buttress::supervise::{Lifecycle, Phase};
/// use buttress::supervise::serve::DrainSignal;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let life = Lifecycle::new();
/// let signal = DrainSignal::new(&life);
/// assert!(!signal.is_draining());
/// life.advance(Phase::Draining, None);
/// signal.draining().await;
/// # })
/// ```
#[derive(Clone)]
pub struct DrainSignal(Lifecycle);

impl DrainSignal {
    /// The signal of `life`. Costs a reference count: put it into the state of handlers, and requests need
    /// no extension.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainSignal;
    /// let signal = DrainSignal::new(&Lifecycle::new());
    /// ```
    #[must_use]
    pub fn new(life: &Lifecycle) -> Self {
        Self(life.clone())
    }

    /// Whether it has fired.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainSignal;
    /// assert!(!DrainSignal::new(&Lifecycle::new()).is_draining());
    /// ```
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.phase() >= Phase::Draining
    }

    /// Returns when the drain begins: now a client that comes back goes elsewhere.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use buttress::supervise::{Lifecycle, Phase};
    /// use buttress::supervise::serve::DrainSignal;
    /// let life = Lifecycle::new();
    /// life.advance(Phase::Draining, None);
    /// DrainSignal::new(&life).draining().await;
    /// # })
    /// ```
    pub async fn draining(&self) {
        self.0.reached(Phase::Draining).await;
    }

    /// Returns when the lame duck begins, which is earlier: clients that come back may come back here.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use buttress::supervise::{Lifecycle, Phase};
    /// use buttress::supervise::serve::DrainSignal;
    /// let life = Lifecycle::new();
    /// life.advance(Phase::LameDuck, None);
    /// DrainSignal::new(&life).lame_duck().await;
    /// # })
    /// ```
    pub async fn lame_duck(&self) {
        self.0.reached(Phase::LameDuck).await;
    }

    /// When everything left is cut, once the drain has begun and if its end is known.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainSignal;
    /// assert!(DrainSignal::new(&Lifecycle::new()).deadline().is_none());
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_draining() { self.0.deadline() } else { None }
    }

    /// Keeps the drain from ending before the guard is dropped: for work that outlives its request.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainSignal;
    /// let life = Lifecycle::new();
    /// let hold = DrainSignal::new(&life).hold("receipt");
    /// assert_eq!(life.held_by(), ["receipt".into()]);
    /// ```
    pub fn hold(&self, name: impl Into<Name>) -> Hold {
        self.0.hold(name)
    }
}

impl fmt::Debug for DrainSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DrainSignal").field(&self.0.phase()).finish()
    }
}

/// Puts the signal into requests whose answers may be long. Not into every one: the first extension of a
/// request costs three allocations.
#[inline]
pub(super) fn insert<B>(request: &mut Request<B>, life: &Lifecycle, every: bool) {
    if every || may_be_long(request) {
        request.extensions_mut().insert(DrainSignal::new(life));
    }
}

/// An upgrade, a tunnel, an event stream or gRPC.
fn may_be_long<B>(request: &Request<B>) -> bool {
    if request.method() == Method::CONNECT {
        return true;
    }
    // Hyper puts an extension into a request that wants an upgrade.
    let extensions = request.extensions();
    if !extensions.is_empty() && extensions.get::<hyper::upgrade::OnUpgrade>().is_some() {
        return true;
    }
    // gRPC is always a POST over HTTP/2: others need not be searched for it.
    let may_be_grpc = request.version() == Version::HTTP_2 && request.method() == Method::POST;
    begins(request, ACCEPT, b"text/event-stream")
        || may_be_grpc && begins(request, CONTENT_TYPE, b"application/grpc")
}

fn begins<B>(request: &Request<B>, name: HeaderName, prefix: &[u8]) -> bool {
    let value = request.headers().get(name).map(HeaderValue::as_bytes);
    value.and_then(|v| v.get(..prefix.len())).is_some_and(|v| v.eq_ignore_ascii_case(prefix))
}
