//! One callback: run, watched, and left behind when its time is over.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::caught::discard;
use crate::sync::lock;

use super::callback::{CleanupCallback, Job};
use super::report::CallbackOutcome;

/// How long a runtime may take to look at a new task before it counts as blocked.
const PATIENCE: Duration = Duration::from_secs(1);

enum Word {
    Started,
    Ended(CallbackOutcome),
}

/// Returns after `limit` at the latest, but for a machine that gives no more threads.
pub(super) fn run(callback: CleanupCallback, limit: Duration) -> CallbackOutcome {
    match callback.job.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Job::Blocking(job) => {
            let work = move || outcome(catch_unwind(AssertUnwindSafe(job)));
            let told = on_a_thread(work);
            wait(&told, limit)
        }
        Job::Async(start) => match callback.runtime {
            Some(runtime) => on_the_runtime(&runtime, start, limit),
            None => on_a_runtime_of_its_own(start, limit),
        },
    }
}

type Start = Box<dyn FnOnce() -> std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>> + Send>;
type Outcome = Result<(), String>;

fn outcome(result: thread::Result<Outcome>) -> CallbackOutcome {
    match result {
        Ok(Ok(())) => CallbackOutcome::Ok,
        Ok(Err(error)) => CallbackOutcome::Failed(error),
        Err(payload) => panicked(payload),
    }
}

fn panicked(payload: Box<dyn Any + Send>) -> CallbackOutcome {
    let outcome = CallbackOutcome::Panicked(message(&*payload));
    discard(payload);
    outcome
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// A thread that nobody joins: not `spawn_blocking`, for whose tasks the end of a runtime waits.
fn on_a_thread(work: impl FnOnce() -> CallbackOutcome + Send + 'static) -> Receiver<Word> {
    let (tell, told) = channel();
    let slot = Arc::new(Mutex::new(Some((work, tell))));
    let theirs = Arc::clone(&slot);
    let act = move || {
        // Not within the `if let`, which would keep the lock.
        let taken = lock(&theirs).take();
        if let Some((work, tell)) = taken {
            let _ = tell.send(Word::Ended(work()));
        }
    };
    let thread = thread::Builder::new().name("buttress-cleanup".into());
    if thread.spawn(act).is_err() {
        // Better without a limit than not at all. The guard still ends the process.
        let taken = lock(&slot).take();
        if let Some((work, tell)) = taken {
            let _ = tell.send(Word::Ended(work()));
        }
    }
    told
}

fn wait(told: &Receiver<Word>, limit: Duration) -> CallbackOutcome {
    let from = Instant::now();
    loop {
        match told.recv_timeout(limit.saturating_sub(from.elapsed())) {
            Ok(Word::Started) => {}
            Ok(Word::Ended(outcome)) => return outcome,
            Err(RecvTimeoutError::Timeout) => return CallbackOutcome::TimedOut,
            Err(RecvTimeoutError::Disconnected) => {
                return CallbackOutcome::Failed("its runtime was shut down".to_owned());
            }
        }
    }
}

/// The callback's future; a panic in it is its outcome.
async fn guarded(start: Start) -> CallbackOutcome {
    let mut future = match catch_unwind(AssertUnwindSafe(start)) {
        Ok(future) => future,
        Err(payload) => return panicked(payload),
    };
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(result)) => Poll::Ready(outcome(Ok(result))),
        Err(payload) => Poll::Ready(outcome(Err(payload))),
    })
    .await
}

fn on_the_runtime(runtime: &Handle, start: Start, limit: Duration) -> CallbackOutcome {
    let from = Instant::now();
    let (tell, told): (Sender<Word>, _) = channel();
    let slot = Arc::new(Mutex::new(Some(start)));
    let theirs = Arc::clone(&slot);
    let task = runtime.spawn(async move {
        let taken = lock(&theirs).take();
        if let Some(start) = taken {
            let _ = tell.send(Word::Started);
            let _ = tell.send(Word::Ended(guarded(start).await));
        }
    });
    let first = told.recv_timeout(PATIENCE.min(limit / 4));
    let left = || limit.saturating_sub(from.elapsed());
    let outcome = match first {
        Ok(Word::Ended(outcome)) => outcome,
        Ok(Word::Started) => wait(&told, left()),
        // Its workers are all blocked, or it has been shut down.
        Err(_) => {
            let back = lock(&slot).take();
            match back {
                Some(start) => on_a_runtime_of_its_own(start, left()),
                None => wait(&told, left()),
            }
        }
    };
    task.abort();
    outcome
}

fn on_a_runtime_of_its_own(start: Start, limit: Duration) -> CallbackOutcome {
    let (enough, stop) = oneshot::channel::<()>();
    let told = on_a_thread(move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return CallbackOutcome::Failed(format!("no runtime: {error}")),
        };
        let outcome = runtime.block_on(async move {
            tokio::select! {
                outcome = guarded(start) => outcome,
                _ = stop => CallbackOutcome::TimedOut,
            }
        });
        runtime.shutdown_background();
        outcome
    });
    let outcome = wait(&told, limit);
    drop(enough);
    outcome
}
