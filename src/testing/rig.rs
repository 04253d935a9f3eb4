//! One layer around one probe, and the moves every property is made of.

use std::any::Any;
use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use super::handle::{Counts, ProbeHandle};
use super::probe::Probe;
use super::subject::{Subject, TestableLayer};
use super::violation::{ContractViolation, Property};
use super::wake::{ByHand, CountWaker};
use crate::caught::{caught, discard};

/// How often the executor gets its turn before the kit says that nothing happens any more.
const TURNS: usize = 64;
/// The same for layers that need the runtime, a millisecond each.
const RUNTIME_TURNS: usize = 10_000;

pub(super) type Checked<T = ()> = Result<T, ContractViolation>;
pub(super) type ServiceOf<L, Req, Res, Err> = <L as Layer<Probe<Req, Res, Err>>>::Service;
pub(super) type FutureOf<L, Req, Res, Err> = <ServiceOf<L, Req, Res, Err> as Service<Req>>::Future;

pub(super) struct Rig<'a, Req, Res, Err, L: TestableLayer<Req, Res, Err>> {
    pub(super) subject: &'a Subject<Req, Res, Err, L>,
    pub(super) property: Property,
    pub(super) service: L::Service,
    pub(super) probe: ProbeHandle<Res, Err>,
}

impl<'a, Req, Res, Err, L: TestableLayer<Req, Res, Err>> Rig<'a, Req, Res, Err, L> {
    /// A fresh layer around a fresh probe with `slots` slots.
    pub(super) fn new(
        subject: &'a Subject<Req, Res, Err, L>,
        property: Property,
        slots: usize,
    ) -> Self {
        let (probe, handle) = Probe::from_arc(subject.answer.clone());
        handle.set_slots(slots);
        let service = (subject.layer)().layer(probe);
        Self { subject, property, service, probe: handle }
    }

    pub(super) fn fail<T>(
        &self,
        expected: impl Into<Cow<'static, str>>,
        seen: impl Into<Cow<'static, str>>,
    ) -> Checked<T> {
        Err(ContractViolation::new(self.property, expected, seen))
    }

    pub(super) fn request(&self) -> Req {
        (self.subject.request)()
    }

    pub(super) fn counts(&self) -> Counts {
        self.probe.counts()
    }

    /// A clone of the service that is ready.
    pub(super) async fn ready_clone(&self, when: &str) -> Checked<L::Service> {
        let mut service = self.service.clone();
        self.make_ready(&mut service, when).await?;
        Ok(service)
    }

    pub(super) async fn make_ready(&self, service: &mut L::Service, when: &str) -> Checked {
        let ready = self.drive(poll_fn(|cx| service.poll_ready(cx))).await;
        match ready {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => self.fail(format!("a ready service {when}"), "an error of poll_ready"),
            None => self.fail(
                format!("a ready service {when}"),
                format!("poll_ready pending for ever ({})", self.ledger()),
            ),
        }
    }

    /// A ready clone, called, its future polled until it waits for the inner service's answer. The
    /// caller has told the probe to hold it.
    pub(super) async fn in_flight(
        &self,
        when: &str,
    ) -> Checked<ByHand<FutureOf<L, Req, Res, Err>>> {
        let mut service = self.ready_clone(when).await?;
        let before = self.counts().in_flight;
        let mut call = ByHand::new(service.call(self.request()));
        drop(service);
        for _ in 0..self.turns() {
            let answered = matches!(call.poll_if_woken(), Some(Poll::Ready(_)));
            if answered {
                return self.fail(
                    format!("a call in flight {when}"),
                    "an answer, though the inner service has not given one",
                );
            }
            if self.counts().in_flight > before {
                return Ok(call);
            }
            self.turn().await;
        }
        self.fail(
            format!("a call in flight {when}"),
            format!("the inner service was not called ({})", self.ledger()),
        )
    }

    /// One whole call on a fresh clone, which must reach the inner service and come back.
    pub(super) async fn call_goes_through(&self, when: &str) -> Checked {
        let mut service = self.ready_clone(when).await?;
        self.finish_call(&mut service, when).await
    }

    /// Calls a ready service and waits for the answer.
    pub(super) async fn finish_call(&self, service: &mut L::Service, when: &str) -> Checked {
        let before = self.counts().completed;
        let answer = self.drive(service.call(self.request())).await;
        self.must_be_answered(answer.is_some(), before, when)
    }

    pub(super) fn must_be_answered(&self, answered: bool, before: usize, when: &str) -> Checked {
        let expected = || format!("a call answered by the inner service {when}");
        if !answered {
            return self.fail(expected(), format!("no answer ({})", self.ledger()));
        }
        if self.counts().completed == before {
            return self.fail(expected(), "an answer without a call to the inner service");
        }
        Ok(())
    }

    /// No slot of the inner service is taken, once background work had its turn.
    pub(super) async fn nothing_is_held(&self, when: &str) -> Checked {
        for _ in 0..self.turns() {
            let now = self.counts();
            if now.reserved == 0 && now.in_flight == 0 && now.waiting == 0 {
                return Ok(());
            }
            self.turn().await;
        }
        self.fail(format!("nothing held {when}"), self.ledger())
    }

    /// No violation was recorded by the probe.
    pub(super) fn probe_is_content(&self) -> Checked {
        match self.probe.violations().first() {
            None => Ok(()),
            Some(violation) => {
                self.fail("the inner service used by its contract", violation.to_string())
            }
        }
    }

    /// Drives a future to its end as an executor would, polling it only when woken. `None`: it
    /// stalled.
    pub(super) async fn drive<F: Future>(&self, future: F) -> Option<F::Output> {
        self.finish(&mut ByHand::new(future)).await
    }

    /// The same for a future that was polled before.
    pub(super) async fn finish<F: Future>(&self, future: &mut ByHand<F>) -> Option<F::Output> {
        for _ in 0..self.turns() {
            if let Some(Poll::Ready(output)) = future.poll_if_woken() {
                return Some(output);
            }
            self.turn().await;
        }
        None
    }

    /// How many turns the kit waits for something to happen.
    pub(super) fn turns(&self) -> usize {
        if self.subject.needs_runtime { RUNTIME_TURNS } else { TURNS }
    }

    /// Lets everything else run for a moment.
    pub(super) async fn turn(&self) {
        if self.subject.needs_runtime {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            turn().await;
        }
    }

    fn ledger(&self) -> String {
        let now = self.counts();
        format!(
            "inner service: {} ready and uncalled, {} in flight, {} waiting",
            now.reserved, now.in_flight, now.waiting
        )
    }
}

async fn turn() {
    let mut turned = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut turned, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls `service` once. The error is only told apart from readiness.
pub(super) fn poll_ready<Req, S: Service<Req>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    CountWaker::new().poll_ready(service)
}

pub(super) fn readiness<E>(poll: &Poll<Result<(), E>>) -> &'static str {
    match poll {
        Poll::Pending => "pending",
        Poll::Ready(Ok(())) => "ready",
        Poll::Ready(Err(_)) => "an error",
    }
}

/// The same future, with a panic turned into its message.
pub(super) async fn catch_panic<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future: Option<Pin<Box<F>>> = Some(Box::pin(future));
    poll_fn(|cx| {
        let Some(pinned) = future.as_mut() else { return Poll::Pending };
        match catch_unwind(AssertUnwindSafe(|| pinned.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => {
                // What a panicked future holds is dropped here, while its panic cannot be confused
                // with another.
                let dropped = caught(|| drop(future.take()));
                let again = if dropped.is_none() { ", and again when dropped" } else { "" };
                Poll::Ready(Err(format!("{}{again}", message(payload))))
            }
        }
    })
    .await
}

pub(super) fn message(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic".to_owned());
    discard(payload);
    text
}

/// A property: a public function of this name that builds a rig, runs the body, and asks the probe for
/// violations at the end.
macro_rules! property {
    ($(#[$doc:meta])* $name:ident, $variant:ident, slots $slots:expr, |$rig:ident| $body:block) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// If it does not hold.
        ///
        /// ```
        /// use buttress::testing::{contract, Subject};
        /// # #[tokio::main(flavor = "current_thread")] async fn main() {
        /// use tower::layer::util::Identity;
        /// let subject = Subject::new(Identity::new, || 1_u32, |n| Ok::<_, ()>(n))
        ///     .ready_error(|| ())
        ///     .stateless();
        #[doc = concat!("contract::", stringify!($name), "(&subject).await.unwrap();")]
        /// # }
        /// ```
        pub async fn $name<Req, Res, Err, L>(
            subject: &Subject<Req, Res, Err, L>,
        ) -> Result<(), ContractViolation>
        where
            L: TestableLayer<Req, Res, Err>,
        {
            let $rig = Rig::new(subject, Property::$variant, $slots);
            async { $body }.await?;
            $rig.probe_is_content()
        }
    };
}
pub(super) use property;
