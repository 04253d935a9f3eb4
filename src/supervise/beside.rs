//! A thread beside the program, that ends with its guard.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::sync::lock;

/// How long the end of the thread is waited for. It may be in a closure of the user's that never returns,
/// and then it is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// A runtime for such a thread. It may be dropped where there is another, as when no thread is to be had: a
/// plain one panics there.
pub(crate) struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    pub(crate) const fn new(runtime: Runtime) -> Self {
        Self(Some(runtime))
    }

    pub(crate) fn block_on<F: Future<Output = ()>>(&self, future: F) {
        if let Some(runtime) = &self.0 {
            runtime.block_on(future);
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Dropped: the thread is told to stop, and has nearly always ended.
pub(crate) struct Beside {
    stop: Option<oneshot::Sender<()>>,
    ended: Mutex<Receiver<()>>,
}

impl Beside {
    /// `run` has to return when it is told to stop.
    pub(crate) fn start(
        name: &str,
        run: impl FnOnce(oneshot::Receiver<()>) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = channel();
        thread::Builder::new().name(name.into()).spawn(move || {
            let _alive = alive; // dropped last, also by a panic
            run(stopped);
        })?;
        Ok(Self { stop: Some(stop), ended: Mutex::new(ended) })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Nothing is ever sent: this is an error when the thread has ended, or after the time.
        let _ = lock(&self.ended).recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_for_which_there_is_no_thread_may_be_dropped_anywhere() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dropped = |what: Box<dyn FnOnce()>| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(what))).is_ok()
        };
        let own = OwnRuntime::new(runtime());
        assert!(dropped(Box::new(move || own.block_on(async {}))));
        let plain = runtime();
        assert!(!dropped(Box::new(move || plain.block_on(async {}))), "then why all this");
    }
}
