//! A service that follows a script and writes down what is done to it.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tower::Service;

/// What one call does.
pub(crate) enum Step {
    Ok(u16),
    Err(Failure),
    /// The same after some time.
    After(Duration, Box<Self>),
    Never,
    Panic,
}

#[derive(Debug)]
pub(crate) enum Failure {
    Io(io::ErrorKind),
    Boxed(buttress::BoxError),
}

pub(crate) fn reset() -> Step {
    Step::Err(Failure::Io(io::ErrorKind::ConnectionReset))
}

pub(crate) fn boxed(error: impl Into<buttress::BoxError>) -> Step {
    Step::Err(Failure::Boxed(error.into()))
}

impl Step {
    pub(crate) fn after(self, ms: u64) -> Self {
        Self::After(Duration::from_millis(ms), Box::new(self))
    }
}

/// A response that says when it is dropped.
pub(crate) struct Answer {
    pub(crate) status: u16,
    log: Log,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({})", self.status)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.log.push(&format!("drop {}", self.status));
    }
}

#[derive(Clone)]
struct Log {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    fn push(&self, what: &str) {
        let at = self.start.elapsed().as_millis();
        self.lines.lock().unwrap().push(format!("{at} {what}"));
    }
}

struct State {
    steps: VecDeque<Step>,
    instances: u32,
    /// For each `poll_ready` from the next one on: whether it is ready. Empty means ready.
    ready: VecDeque<bool>,
    requests: Vec<u32>,
}

/// The script and what came of it.
#[derive(Clone)]
pub(crate) struct Director {
    state: Arc<Mutex<State>>,
    log: Log,
}

impl Director {
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }

    /// The requests, in the order of calls.
    pub(crate) fn requests(&self) -> Vec<u32> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.state.lock().unwrap().steps.extend(steps);
    }

    pub(crate) fn readiness(&self, ready: impl IntoIterator<Item = bool>) {
        self.state.lock().unwrap().ready.extend(ready);
    }
}

/// Without steps it answers 200. A pending `poll_ready` wakes after 10 ms.
pub(crate) struct Script {
    instance: u32,
    is_ready: bool,
    director: Director,
    wait: Option<Pin<Box<Sleep>>>,
}

pub(crate) fn script(steps: impl IntoIterator<Item = Step>) -> (Script, Director) {
    let state = State {
        steps: steps.into_iter().collect(),
        instances: 1,
        ready: VecDeque::new(),
        requests: vec![],
    };
    let log = Log { start: Instant::now(), lines: Arc::default() };
    let director = Director { state: Arc::new(Mutex::new(state)), log };
    let script = Script { instance: 0, is_ready: false, director: director.clone(), wait: None };
    (script, director)
}

impl Clone for Script {
    fn clone(&self) -> Self {
        let mut state = self.director.state.lock().unwrap();
        state.instances += 1;
        let instance = state.instances - 1;
        drop(state);
        Self { instance, is_ready: false, director: self.director.clone(), wait: None }
    }
}

impl Service<u32> for Script {
    type Response = Answer;
    type Error = buttress::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, buttress::BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Some(wait) = &mut self.wait {
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.wait = None;
        }
        if self.director.state.lock().unwrap().ready.pop_front() == Some(false) {
            self.wait = Some(Box::pin(sleep(Duration::from_millis(10))));
            return self.poll_ready(cx);
        }
        if !self.is_ready {
            self.director.log.push(&format!("ready #{}", self.instance));
        }
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without being ready");
        self.director.log.push(&format!("call #{}", self.instance));
        let mut state = self.director.state.lock().unwrap();
        state.requests.push(request);
        let step = state.steps.pop_front().unwrap_or(Step::Ok(200));
        drop(state);
        if matches!(step, Step::Panic) {
            std::panic::resume_unwind(Box::new("scripted"));
        }
        let log = self.director.log.clone();
        Box::pin(play(step, log))
    }
}

async fn play(mut step: Step, log: Log) -> Result<Answer, buttress::BoxError> {
    loop {
        match step {
            Step::Ok(status) => return Ok(Answer { status, log }),
            Step::Err(Failure::Io(kind)) => return Err(io::Error::from(kind).into()),
            Step::Err(Failure::Boxed(error)) => return Err(error),
            Step::After(time, then) => {
                sleep(time).await;
                step = *then;
            }
            Step::Never => std::future::pending().await,
            Step::Panic => panic!("scripted"),
        }
    }
}
