//! A thread beside the program, that ends with its guard.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::sync::lock;

/// How long the end of the thread is waited for. It may be in a closure of the user's that never returns,
/// and then it is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// Dropped: the thread is told to stop, and has nearly always ended.
pub(super) struct Beside {
    stop: Option<oneshot::Sender<()>>,
    ended: Mutex<Receiver<()>>,
}

impl Beside {
    /// `run` has to return when it is told to stop.
    pub(super) fn start(
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
