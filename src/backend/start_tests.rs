//! How a limit that is learned starts, and scenarios from a start to an end: who waits, waits here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::core::Core;
use super::latency::Latency;
use super::played::{Answer, Ran, SECOND, Source};
use super::scenario_tests::{lognormal, unit};
use super::tests::{ABANDONED, MS, arrive, finish, wait};
use super::turn::{Arrival, Settled, Turn};
use crate::clock::Tick;

/// A learned limit and a room.
fn learned() -> Core {
    Core::new(None, 10_000)
}

const fn open(requests: u32, patience: u64) -> Source {
    Source { requests, patience, sink: false, classes: false }
}

/// Poisson arrivals, so many a second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds")]
fn poisson(seed: u64, rate: impl Fn(u64) -> f64) -> impl FnMut(u64) -> u64 {
    let mut unit = unit(seed);
    move |since| (-unit().ln() / rate(since) * 1e9) as u64
}

/// So many workers with one queue in front of them.
fn pool(workers: usize, service: impl Fn(u64) -> u64) -> impl FnMut(u64, u64, u64) -> Answer {
    let mut free: BinaryHeap<Reverse<u64>> = (0..workers).map(|_| Reverse(0)).collect();
    move |_, _, now| {
        let Reverse(at) = free.pop().expect("a worker");
        let end = at.max(now) + service(now);
        free.push(Reverse(end));
        Answer::After(end - now)
    }
}

/// The seconds in which it is otherwise.
fn between(from: u64, until: u64, now: u64) -> bool {
    (from * SECOND..until * SECOND).contains(&now)
}

/// Where answers take most of the time that there is, and longer the more are in flight, callers cannot wait for the limit to
/// double from four to the sixty that it takes: a fifth to a third was lost, for good, since what was late for having waited
/// looked like an overload.
#[test]
fn a_slow_service_that_is_well_loses_nobody() {
    let slow = |level, _, _| Answer::After(SECOND + 10 * MS * level);
    for seed in 1..=5 {
        for rate in [4.0, 40.0] {
            let requests = if rate > 10.0 { 2800 } else { 280 };
            let source = open(requests, 3 * SECOND);
            let ran = source.play(&mut learned(), 0, poisson(seed, |_| rate), slow);
            assert_eq!((ran.unsent, ran.forgotten), (0, 0), "seed {seed}, {rate} a second");
        }
    }
}

fn burst(took: u64) -> Ran {
    open(50, SECOND).play(&mut learned(), 0, |_| 0, |_, _, _| Answer::After(took))
}

#[test]
fn of_fifty_that_come_at_once_at_the_start_all_are_answered() {
    // Four, eight, sixteen and the rest.
    let quick = burst(20 * MS);
    assert_eq!((quick.unsent, quick.forgotten, quick.seconds), (0, 0, 0.08));
    // An eighth of what they wait is over before the first answer: 32 of them do not wait for it.
    let slow = burst(300 * MS);
    assert_eq!((slow.unsent, slow.forgotten), (0, 0));
    assert!(slow.seconds <= 0.3 + 0.25 + 0.3, "{}", slow.seconds);
}

#[test]
fn a_limit_that_starts_far_below_what_is_needed_is_there_before_anybody_is_lost() {
    // Two hundred at a time, and callers wait for ten answers' time.
    let all = |_, _, _| Answer::After(100 * MS);
    let ran = open(20_000, SECOND).play(&mut learned(), 0, |_| SECOND / 2000, all);
    assert_eq!((ran.unsent, ran.forgotten), (0, 0));
    // In the first second less by the 100 ms of the last, and by what is made good in the second.
    assert!(ran.goodput(0, 1) >= 1000.0 && ran.goodput(1, 3) >= 2000.0, "{:?}", ran.answered);
    assert!(ran.limit_max <= 5 * ran.in_service_max, "{} is what is in use", ran.in_service_max);
}

#[test]
fn without_any_answer_no_more_than_a_few_are_sent_and_then_fewer() {
    let mut core = learned();
    assert!(matches!(arrive(&mut core, 0, 1000), Arrival::Admitted));
    let mut out = vec![0; 1];
    let mut waiting = Vec::new();
    for _ in 0..3 {
        assert!(matches!(arrive(&mut core, 0, 1000), Arrival::Admitted));
        out.push(0);
    }
    waiting.extend((0..100).map(|_| wait(&mut core, 0, 1000)));
    let mut sent = Vec::new();
    for now in 0..=600 {
        waiting.retain(|key| match super::tests::poll(&mut core, *key, now) {
            Turn::Settled(Settled::Granted(_)) => {
                out.push(now);
                false
            }
            Turn::Settled(_) => false,
            Turn::At(_) => true,
        });
        if [124, 125, 187, 188, 249, 250, 600].contains(&now) {
            sent.push(core.in_flight);
        }
    }
    assert_eq!(sent, [4, 8, 8, 16, 16, 32, 32]);
    for started in out {
        finish(&mut core, started, ABANDONED, 600);
    }
    assert_eq!(core.limit(), 16);
}

/// Capacity falls from 240 to 80 a second for 40 s, and a hundred come.
#[test]
fn while_a_backend_is_slow_it_does_what_it_can_and_is_well_at_once_after_it() {
    for seed in 1..=3 {
        let slow = |now| if between(20, 60, now) { 150 * MS } else { 50 * MS };
        let source = open(10_000, 5 * SECOND);
        let ran = source.play(&mut learned(), 0, poisson(seed, |_| 100.0), pool(12, slow));
        assert!(ran.goodput(20, 60) >= 0.95 * 80.0, "{}", ran.goodput(20, 60));
        // Of those who have waited since, as many as there is time for.
        assert!(ran.answered[61] >= 200, "{:?}", &ran.answered[58..66]);
        let (sent, late) = (10_000 - ran.unsent, ran.forgotten);
        assert!(late * 100 <= sent, "{late} of {sent} were sent for nothing");
    }
}

/// Half again as much as it can do, a quarter of each class.
#[test]
fn under_overload_the_most_important_are_answered_and_nothing_is_wasted() {
    for seed in 1..=3 {
        let source = Source { classes: true, ..open(9_000, SECOND) };
        let all = pool(20, |_| 50 * MS);
        let ran = source.play(&mut learned(), 0, poisson(seed, |_| 600.0), all);
        let each = f64::from(9_000 / 4);
        assert!(f64::from(ran.by_class[3]) >= 0.999 * each, "{:?}", ran.by_class);
        assert!(ran.by_class.is_sorted(), "{:?}", ran.by_class);
        assert!(ran.goodput(1, 14) >= 0.95 * 400.0, "{}", ran.goodput(1, 14));
    }
}

/// As a heap that fills: beyond 25 in flight each more costs all others more than it brings. Twice as many come for five
/// seconds. Without a limit nothing is answered from then on.
#[test]
fn more_in_flight_than_a_heap_can_hold_is_no_spiral() {
    let run = |mut core| {
        let heap = |n, _, _| Answer::After(50 * MS + 50 * MS * n * n / 625);
        let rate = |now| if between(10, 15, now) { 440.0 } else { 220.0 };
        open(40 * 220, SECOND).play(&mut core, 0, poisson(1, rate), heap)
    };
    let (without, ran) = (run(Core::new(Some(10_000), 10_000)), run(learned()));
    assert!(without.goodput(16, 30) < 1.0, "{:?}", without.answered);
    // 242 a second at most: of what comes before, what waits is done, too.
    assert!(ran.goodput(1, 10) >= 210.0, "{:?}", ran.answered);
    assert!(ran.goodput(10, 15) >= 0.95 * 242.0, "{:?}", ran.answered);
    assert!(ran.goodput(16, 30) >= 210.0, "{:?}", ran.answered);
}

/// The first sixteen answers are those of the quickest calls. The baseline stayed at what they took, and all that came after
/// them was taken for a queue: of these 160,000 calls ten thousand were not sent, nearly all of two of the forty runs.
#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds")]
fn of_a_heavy_tail_the_quickest_are_not_taken_for_what_is_usual() {
    let mut unsent = 0;
    for seed in 1..=40 {
        let mut factor = lognormal(seed, 1.0);
        let tail = |_, _, _| Answer::After((112.0 * factor() * MS as f64) as u64);
        let source = open(4000, 4 * SECOND / 10);
        let ran = source.play(&mut learned(), 0, poisson(seed, |_| 200.0), tail);
        assert!(ran.unsent <= 40, "{} of 4000 with seed {seed}", ran.unsent);
        unsent += ran.unsent;
    }
    assert!(unsent <= 80, "{unsent} of 160,000");
}

/// A queue adds the same to the quickest. Only while it has just come, and the quickest are those of before, it looks like what
/// answers differ by: then the baseline goes a part of the way.
#[test]
fn a_queue_at_the_start_counts_for_little() {
    let baseline_after = |queue: &dyn Fn(u64) -> u64| {
        let mut latency = Latency::default();
        for n in 0..200 {
            latency.at(Tick(n), u64::MAX);
            latency.record((10 + n % 3 + queue(n)) * MS, false);
        }
        latency.baseline() as f64 / (11 * MS) as f64
    };
    // So many milliseconds more for each answer, without an end.
    for (more, most) in [(1, 1.05), (3, 1.3), (10, 2.0)] {
        let grows = baseline_after(&|n| more * n.saturating_sub(20));
        assert!((0.95..=most).contains(&grows), "{grows} with {more}");
    }
    // Ten and a hundred times as long, all at once.
    for (queue, most) in [(100, 1.7), (1000, 2.8)] {
        let jumps = baseline_after(&|n| if n < 20 { 0 } else { queue });
        assert!((0.95..=most).contains(&jumps), "{jumps} with {queue}");
    }
}
