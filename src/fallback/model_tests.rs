//! A fallback beside a list of the calls that are under way and what each of them waits for: who gets what, and what is counted.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tower::{Layer, Service, service_fn};

use super::*;
use crate::AnyError;
use crate::error::Error;
use crate::name::LayerKind;
use crate::rejection::{Rejection, RejectionKind};
use crate::seed::seed;

type Answered = Result<u32, Error<io::Error>>;

/// How a call ends without the fallback.
#[derive(Clone, Copy, Debug)]
enum End {
    Fine,
    /// Refused in a way that is answered for.
    NotNow,
    /// Refused in a way that is not.
    Draining,
    Broken,
    /// The request is at fault.
    Denied,
}

impl End {
    const ALL: [Self; 5] = [Self::Fine, Self::NotNow, Self::Draining, Self::Broken, Self::Denied];

    fn result(self) -> Answered {
        let refused = |kind| Err(Rejection::new(kind, LayerKind::Admission, "db").into());
        match self {
            Self::Fine => Ok(1),
            Self::NotNow => refused(RejectionKind::Overloaded),
            Self::Draining => refused(RejectionKind::Draining),
            Self::Broken => Err(Error::Inner(io::ErrorKind::ConnectionReset.into())),
            Self::Denied => Err(Error::Inner(io::ErrorKind::PermissionDenied.into())),
        }
    }

    fn is_covered(self, failures: bool) -> bool {
        match self {
            Self::NotNow => true,
            Self::Broken => failures,
            Self::Fine | Self::Draining | Self::Denied => false,
        }
    }

    /// What the fallback is told of it.
    fn cause(self) -> &'static str {
        if matches!(self, Self::NotNow) { "overloaded" } else { "failure" }
    }
}

/// Ends when it is told to.
struct Request {
    end: oneshot::Receiver<End>,
    /// What can be kept of it.
    answer: Kept,
}

type Kept = std::sync::Mutex<Option<oneshot::Receiver<Option<u32>>>>;

struct Call {
    future: Pin<Box<dyn Future<Output = Answered>>>,
    end: Option<oneshot::Sender<End>>,
    answer: Option<oneshot::Sender<Option<u32>>>,
    kept: bool,
    /// How it ended, once the fallback is at work.
    ended: Option<End>,
}

fn look(call: &mut Call) -> Poll<Answered> {
    call.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn same(one: &Answered, other: &Answered) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

#[test]
fn a_fallback_does_what_the_slow_model_says() {
    let seed = seed();
    let mut all = [0; 6];
    for n in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(n));
        let most = random.random_range(1..5);
        let failures = random.random_bool(0.5);
        let fallback = Fallback::builder("f").max_in_flight(most).build().unwrap();
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&told);
        let answer = move |answer: oneshot::Receiver<Option<u32>>, cause: Cause| {
            sink.lock().unwrap().push(cause.as_str());
            async move { answer.await.ok().flatten().ok_or(()) }
        };
        let keep = |request: &Request| request.answer.lock().unwrap().take();
        let inner = service_fn(async |request: Request| request.end.await.unwrap().result());
        let layer = fallback.layer::<crate::Typed>();
        let mut of_failures = layer.failures(AnyError).call(answer.clone()).keep(keep).layer(inner);
        let mut of_refusals = fallback.layer().call(answer).keep(keep).layer(inner);

        let mut calls: Vec<Call> = Vec::new();
        let mut causes = Vec::new();
        let (mut answered, mut failed, mut dropped, mut full, mut not_kept) = (0, 0, 0, 0, 0);
        let mut left_alone = 0;
        for _ in 0..300 {
            let at_work = calls.iter().filter(|call| call.ended.is_some()).count();
            let which = random.random_range(0..calls.len().max(1));
            match random.random_range(0..10) {
                0..3 => {
                    let (end, ends) = oneshot::channel();
                    let (answer, answers) = oneshot::channel();
                    let kept = random.random_bool(0.9);
                    let answers = std::sync::Mutex::new(kept.then_some(answers));
                    let request = Request { end: ends, answer: answers };
                    let future: Pin<Box<dyn Future<Output = _>>> = if failures {
                        Box::pin(of_failures.call(request))
                    } else {
                        Box::pin(of_refusals.call(request))
                    };
                    let (end, answer) = (Some(end), Some(answer));
                    let mut call = Call { future, end, answer, kept, ended: None };
                    assert!(look(&mut call).is_pending());
                    calls.push(call);
                }
                _ if calls.is_empty() => {}
                3 => {
                    let call = calls.swap_remove(which);
                    dropped += u64::from(call.ended.is_some());
                }
                // It looks for nothing.
                4 => assert!(look(&mut calls[which]).is_pending()),
                _ if calls[which].ended.is_none() => {
                    let end = End::ALL[random.random_range(0..5)];
                    let call = &mut calls[which];
                    call.end.take().unwrap().send(end).unwrap();
                    let seen = look(call);
                    let covered = end.is_covered(failures);
                    if covered && call.kept && at_work < most as usize {
                        assert!(seen.is_pending(), "the fallback is at work");
                        causes.push(end.cause());
                        call.ended = Some(end);
                        continue;
                    }
                    let Poll::Ready(seen) = seen else { panic!("{end:?} is answered for") };
                    assert!(same(&seen, &end.result()), "{seen:?} for {end:?}");
                    left_alone += u64::from(!covered);
                    not_kept += u64::from(covered && !call.kept);
                    full += u64::from(covered && call.kept);
                    calls.swap_remove(which);
                }
                _ => {
                    let mut call = calls.swap_remove(which);
                    let (end, answer) = (call.ended.unwrap(), call.answer.take().unwrap());
                    let given = random.random_bool(0.7).then(|| random.random());
                    answer.send(given).unwrap();
                    let Poll::Ready(seen) = look(&mut call) else { panic!("it was answered") };
                    let expected = given.map_or(end.result(), Ok);
                    assert!(same(&seen, &expected), "{seen:?} for {given:?} after {end:?}");
                    answered += u64::from(given.is_some());
                    failed += u64::from(given.is_none());
                }
            }
            let at_work = calls.iter().filter(|call| call.ended.is_some()).count();
            let stats = fallback.stats();
            assert_eq!(stats.in_flight as usize, at_work);
            let seen = (stats.answered, stats.failed, stats.dropped, stats.full, stats.not_kept);
            assert_eq!(seen, (answered, failed, dropped, full, not_kept));
            assert_eq!(*told.lock().unwrap(), causes);
        }
        let seen = [answered, failed, dropped, full, not_kept, left_alone];
        all.iter_mut().zip(seen).for_each(|(sum, more)| *sum += more);
        drop(calls);
        assert_eq!(fallback.stats().in_flight, 0);
    }
    println!("{all:?}");
    // It has been tried.
    assert!(all.iter().all(|many| *many > 100), "{all:?}");
}
