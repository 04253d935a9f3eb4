//! SIGKILL at every step of an execution, of a process that serves HTTP from a store on a server: never two
//! executions, and what was recorded is replayed by the others.
//!
//! As with the store in a file, except that nobody knows that a process is gone before its lease ends.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::child::{Orders, Server};
use super::client::{Answer, Connection, post};
use super::{Place, Scratch};

const KILLS: usize = 20;
const LEASE: Duration = Duration::from_millis(1_500);

/// What another process answers, at once and when the lease is over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// Nobody had begun: it was run now.
    Nothing,
    InFlight,
    Interrupted,
    Done,
}

use Found::{Done, InFlight, Interrupted, Nothing};

fn found(answer: &Answer) -> Found {
    if answer.is_executed() {
        Nothing
    } else if answer.is_in_flight() {
        InFlight
    } else if answer.is_unknown() {
        Interrupted
    } else {
        assert!(answer.is_replayed(), "{answer:?}");
        assert_eq!(answer.status, 201);
        Done
    }
}

/// When a process is killed.
#[derive(Clone, Copy)]
enum When {
    /// While it stands there.
    At,
    /// From at once to so much later.
    Within(Duration),
    /// When it has answered.
    Answered,
}

struct Matrix {
    lease: Duration,
    orders: Orders,
    scratch: Scratch,
    other: Server,
}

impl Matrix {
    async fn new(place: &Place, lease: Duration) -> Self {
        let scratch = Scratch::new();
        let orders = Orders::new(place, &scratch).lease(lease);
        let other = orders.serve().await;
        Self { lease, orders, scratch, other }
    }

    /// Kills a process that has begun to serve `key`. What it had answered.
    async fn kill(&self, step: &str, when: When, key: &str, number: usize) -> Option<Answer> {
        let mut server = self.orders.stop_at(step).serve().await;
        let (port, asked) = (server.port, key.to_owned());
        let caller =
            tokio::spawn(async move { Connection::one(port).await.try_post(&asked).await });
        match when {
            When::At => server.wait_for(step).await,
            When::Within(most) => {
                server.wait_for(step).await;
                // To the microsecond, which a timer is not.
                let (since, moment) = (Instant::now(), most.mul_f64(number as f64 / KILLS as f64));
                while since.elapsed() < moment {
                    tokio::task::yield_now().await;
                }
            }
            When::Answered => {
                let answer = caller.await.unwrap().unwrap();
                server.kill().await;
                return Some(answer);
            }
        }
        server.kill().await;
        caller.await.unwrap().ok()
    }

    /// Kills processes at a step, and asks others, at once and when the leases are over. `interrupted` is how
    /// many effects one has that is interrupted then, if that is known.
    async fn check(
        &self,
        step: &str,
        when: When,
        at_once: &[Found],
        later: &[Found],
        interrupted: Option<usize>,
    ) {
        let key = |number: usize| format!("{}-{number}", step.replace(' ', "-"));
        let mut first = vec![];
        for number in 0..KILLS {
            let since = Instant::now();
            let answered = self.kill(step, when, &key(number), number).await;
            let answer = post(self.other.port, &key(number)).await;
            let what = found(&answer);
            // A machine may be that busy.
            let is_late = since.elapsed() > self.lease && later.contains(&what);
            assert!(at_once.contains(&what) || is_late, "{step}, kill {number}: {what:?}");
            match (when, answered) {
                (When::At, Some(answered)) => panic!("{step} was to come first: {answered:?}"),
                (When::Answered, None) => panic!("{step}, kill {number}: no answer"),
                (_, Some(answered)) => assert_eq!(answered.kept(), answer.kept(), "{number}"),
                (_, None) => {}
            }
            first.push(answer);
        }
        sleep(self.lease + Duration::from_millis(100)).await;
        // Whoever is asked, and as often as one likes.
        let third = self.orders.serve().await;
        let mut seen = [0; 2];
        for (number, first) in first.iter().enumerate() {
            let answer = post(third.port, &key(number)).await;
            let again = post(self.other.port, &key(number)).await;
            let what = found(&answer);
            assert!(later.contains(&what), "{step}, kill {number}: {what:?}");
            assert_eq!((found(&again), again.kept()), (what, answer.kept()));
            if matches!(found(first), Nothing | Done) {
                assert_eq!((what, answer.kept()), (Done, first.kept()), "{step}, kill {number}");
            }
            let effects = self.scratch.effects().of(&key(number));
            match (what, interrupted) {
                (Done, _) => assert_eq!(effects, 1, "{step}, kill {number}"),
                (_, Some(expected)) => assert_eq!(effects, expected, "{step}, kill {number}"),
                (_, None) => assert!(effects <= 1, "{step}, kill {number}: {effects}"),
            }
            seen[usize::from(what == Done)] += 1;
        }
        let [interrupted, done] = seen;
        println!("{step}: {interrupted} interrupted, {done} done");
    }
}

async fn before_it_begins(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    matrix.check("before begin", When::At, &[Nothing], &[Done], None).await;
}

async fn while_it_begins(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    let when = When::Within(Duration::from_millis(10));
    let at_once = [Nothing, InFlight, Done];
    matrix.check("beginning", when, &at_once, &[Interrupted, Done], None).await;
}

async fn when_it_has_begun(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    matrix.check("begun", When::At, &[InFlight], &[Interrupted], Some(0)).await;
}

async fn in_the_handler(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    matrix.check("handler", When::At, &[InFlight], &[Interrupted], Some(0)).await;
}

async fn after_the_effect(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    matrix.check("effect", When::At, &[InFlight], &[Interrupted], Some(1)).await;
}

async fn while_it_renews(place: Place) {
    // It begins when a third of the lease is over.
    let matrix = Matrix::new(&place, Duration::from_millis(600)).await;
    // It renews all the time.
    let when = When::Within(Duration::from_millis(8));
    matrix.check("renewing", when, &[InFlight], &[Interrupted], Some(1)).await;
}

async fn while_it_completes(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    let when = When::Within(Duration::from_millis(10));
    matrix.check("completing", when, &[InFlight, Done], &[Interrupted, Done], Some(1)).await;
}

async fn before_it_answers(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    matrix.check("completed", When::At, &[Done], &[Done], None).await;
}

async fn when_it_has_answered(place: Place) {
    let matrix = Matrix::new(&place, LEASE).await;
    matrix.check("none", When::Answered, &[Done], &[Done], None).await;
}

macro_rules! matrix {
    ($place:ident: $($test:ident from $check:ident,)*) => {
        mod $place {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    $check(Place::$place().await).await;
                }
            )*
        }
    };
}

macro_rules! both {
    ($($test:ident from $check:ident,)*) => {
        matrix! { postgres: $($test from $check,)* }
        matrix! { redis: $($test from $check,)* }
    };
}

both! {
    killed_before_it_begins_it_can_run from before_it_begins,
    killed_while_it_begins_it_has_begun_or_not from while_it_begins,
    killed_after_it_has_begun_it_is_interrupted from when_it_has_begun,
    killed_in_the_handler_it_is_interrupted from in_the_handler,
    killed_after_the_effect_it_is_interrupted from after_the_effect,
    killed_while_it_renews_it_is_interrupted from while_it_renews,
    killed_while_it_completes_it_is_interrupted_or_done from while_it_completes,
    killed_before_it_answers_it_is_done from before_it_answers,
    killed_after_it_has_answered_it_is_done from when_it_has_answered,
}
