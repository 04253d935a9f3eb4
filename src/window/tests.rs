use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::{CountWindow, Ledger, Mark, TimeWindow, Totals};
use crate::clock::Tick;

fn mark(bits: u8) -> Mark {
    Mark { failed: bits & 1 != 0, slow: bits & 2 != 0 }
}

fn fold<'a>(marks: impl Iterator<Item = &'a Mark>) -> Totals {
    marks.fold(Totals::default(), |t, m| Totals {
        calls: t.calls + 1,
        failures: t.failures + u64::from(m.failed),
        slow: t.slow + u64::from(m.slow),
    })
}

proptest! {
    /// The rule a window that keeps cumulative counts breaks at once.
    #[test]
    fn count_window_is_the_fold_of_the_last_n(
        n in 1_u32..40,
        ops in prop::collection::vec(prop_oneof![40 => (0_u8..4).prop_map(Some), 1 => Just(None)], 0..300),
    ) {
        let window = CountWindow::new(n);
        let mut model: VecDeque<Mark> = VecDeque::new();
        let mut successes = 0;
        for op in ops {
            match op {
                Some(bits) => {
                    window.record(mark(bits));
                    successes += u64::from(!mark(bits).failed);
                    model.push_back(mark(bits));
                    if model.len() > n as usize {
                        model.pop_front();
                    }
                }
                None => {
                    window.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(window.totals(), fold(model.iter()));
            prop_assert_eq!(window.successes_ever(), successes);
        }
    }

    /// Between the calls certainly inside (one bucket less) and those possibly inside (one more).
    #[test]
    fn time_window_covers_its_window_within_one_bucket(
        steps in prop::collection::vec((0_u64..400, 0_u8..4), 1..200),
    ) {
        let window = TimeWindow::new(Duration::from_micros(1), 4);
        let mut model: Vec<(u64, Mark)> = Vec::new();
        let mut now = 5_000;
        let mut successes = 0;
        for (gap, bits) in steps {
            now += gap;
            window.record(Tick(now), mark(bits));
            model.push((now, mark(bits)));
            successes += u64::from(!mark(bits).failed);
            let within = |width: u64| {
                fold(model.iter().filter(|(at, _)| now - at < width).map(|(_, m)| m))
            };
            let (low, high) = (within(900), within(1_101));
            let got = window.totals(Tick(now));
            for (low, got, high) in [
                (low.calls, got.calls, high.calls),
                (low.failures, got.failures, high.failures),
                (low.slow, got.slow, high.slow),
            ] {
                prop_assert!(low <= got && got <= high, "{low} <= {got} <= {high} at {now}");
            }
            prop_assert_eq!(window.successes_ever(), successes);
        }
    }
}

#[test]
fn time_window_forgets_after_any_gap() {
    let window = TimeWindow::new(Duration::from_secs(10), 1);
    window.record(Tick(1_000_000_000), Mark { failed: true, slow: true });
    for gap in [11_u64, 60, 3600, 60 * 24 * 3600] {
        assert_eq!(window.totals(Tick(1_000_000_000 + gap * 1_000_000_000)), Totals::default());
    }
}

/// A ring of whole buckets would drop all hundred at once.
#[test]
fn time_window_slides_instead_of_dropping_a_bucket_at_once() {
    let window = TimeWindow::new(Duration::from_secs(10), 1);
    let second = 1_000_000_000_u64;
    for _ in 0..100 {
        window.record(Tick(100 * second), Mark::SUCCESS);
    }
    assert_eq!(window.totals(Tick(109 * second)).calls, 100);
    assert_eq!(window.totals(Tick(110 * second)).calls, 100);
    assert_eq!(window.totals(Tick(110 * second + second / 2)).calls, 50);
    assert_eq!(window.totals(Tick(111 * second)).calls, 0);
}

#[test]
fn windows_lose_no_call_between_threads() {
    let count = CountWindow::new(1_000);
    let time = TimeWindow::new(Duration::from_secs(3600), 4);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (count, time) = (&count, &time);
            scope.spawn(move || {
                for i in 0..10_000_u64 {
                    let failed = (i + thread) % 4 == 0;
                    count.record(Mark { failed, slow: false });
                    time.record(Tick(1 << 50), Mark { failed, slow: false });
                }
            });
        }
    });
    assert_eq!(time.totals(Tick(1 << 50)), Totals { calls: 40_000, failures: 10_000, slow: 0 });
    assert_eq!(time.successes_ever(), 30_000);
    assert_eq!(count.successes_ever(), 30_000);
    let ring = count.totals();
    assert_eq!(ring.calls, 1_000);
    count.clear();
    assert_eq!(count.totals(), Totals::default(), "the totals follow the ring to the last call");
}

/// The window of a list of all calls.
fn in_window(model: &VecDeque<(u64, bool)>, now: u64, window: u64) -> Totals {
    let live = model.iter().filter(|(t, _)| t + window >= now);
    live.fold(Totals::default(), |sum, (_, failed)| Totals {
        calls: sum.calls + 1,
        failures: sum.failures + u64::from(*failed),
        slow: 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Few calls: each leaves when it must, as from a list.
    #[test]
    fn ledger_of_few_calls_is_the_list_of_them(
        steps in prop::collection::vec((0_u64..40, any::<bool>(), 0_u8..20), 0..400),
    ) {
        const WINDOW: u64 = 1000;
        let ledger = Ledger::new(Duration::from_nanos(WINDOW), 1);
        let mut model = VecDeque::new();
        let (mut now, mut ever) = (1 << 50, 0);
        for (wait, failed, what) in steps {
            // At 128 pages it would begin to take several ticks onto one.
            now += wait.max(9);
            match what {
                0 => {
                    ledger.clear(Tick(now));
                    model.clear();
                }
                1 => now += WINDOW,
                2..6 => {}
                _ => {
                    ledger.record(Tick(now), failed);
                    model.push_back((now, failed));
                    ever += 1;
                }
            }
            prop_assert_eq!(ledger.totals(Tick(now)), in_window(&model, now, WINDOW));
            prop_assert_eq!(ledger.ever().calls, ever);
        }
    }

    /// Many calls: what has to leave has left, and nothing leaves more than a 128th of the window early.
    #[test]
    fn ledger_of_many_calls_is_between_a_window_and_a_slightly_shorter_one(
        steps in prop::collection::vec((0_u64..6, any::<bool>()), 800..1500),
    ) {
        const WINDOW: u64 = 1280;
        let ledger = Ledger::new(Duration::from_nanos(WINDOW), 1);
        let mut model = VecDeque::new();
        let mut now = 1 << 50;
        for (wait, failed) in steps {
            now += wait;
            ledger.record(Tick(now), failed);
            model.push_back((now, failed));
            while model.front().is_some_and(|(t, _)| t + WINDOW < now) {
                model.pop_front();
            }
            let seen = ledger.totals(Tick(now));
            let (most, least) =
                (in_window(&model, now, WINDOW), in_window(&model, now, WINDOW - WINDOW / 128));
            prop_assert!(least.calls <= seen.calls && seen.calls <= most.calls);
            prop_assert!(least.failures <= seen.failures && seen.failures <= most.failures);
            prop_assert!(ledger.stripe_pages() <= 258);
        }
    }

    /// What is saved and put into another is the same, up to a 128th of the window.
    #[test]
    fn ledger_saved_and_put_back_goes_on(
        steps in prop::collection::vec((0_u64..20, any::<bool>()), 0..300),
        older in 0_u64..1500,
    ) {
        const WINDOW: u64 = 1280;
        let ledger = Ledger::new(Duration::from_nanos(WINDOW), 1);
        let (mut model, mut now) = (VecDeque::new(), 1 << 50);
        for (wait, failed) in steps {
            now += wait;
            ledger.record(Tick(now), failed);
            model.push_back((now, failed));
        }
        let later = Ledger::new(Duration::from_nanos(WINDOW), 4);
        later.put(Tick(now + older), Duration::from_nanos(older), &ledger.pages(Tick(now)));
        // Twice a page: one when it was recorded, one when it was put.
        for after in [0, 500, 1000, 3000] {
            let now = now + older + after;
            let seen = later.totals(Tick(now));
            let most = in_window(&model, now, WINDOW);
            let least = in_window(&model, now, WINDOW - WINDOW / 64);
            prop_assert!(least.calls <= seen.calls && seen.calls <= most.calls);
            prop_assert!(least.failures <= seen.failures && seen.failures <= most.failures);
        }
        later.record(Tick(now + older), true);
        prop_assert!(later.totals(Tick(now + older)).failures >= 1);
    }
}

#[test]
fn ledger_counts_every_call_of_every_thread_once() {
    const EACH: u64 = 200_000;
    let ledger = Ledger::new(Duration::from_millis(2), 4);
    let clock = std::sync::atomic::AtomicU64::new(1 << 50);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..EACH {
                    // Ticks out of order by as much as a thread may be late.
                    let now = clock.fetch_add(97, std::sync::atomic::Ordering::Relaxed);
                    ledger.record(Tick(now), n % 4 == 0);
                    if n % 64 == 0 {
                        let seen = ledger.totals(Tick(now));
                        assert!(seen.failures <= seen.calls && seen.calls <= 8 * EACH);
                    }
                }
            });
        }
    });
    assert_eq!(ledger.ever(), Totals { calls: 8 * EACH, failures: 2 * EACH, slow: 0 });
    let end = clock.into_inner();
    assert_eq!(ledger.totals(Tick(end + 2_000_001)), Totals::default());
}

#[test]
fn ledger_takes_stragglers_with_the_calls_that_came_before_them() {
    let ledger = Ledger::new(Duration::from_nanos(10), 1);
    ledger.record(Tick(100), false);
    ledger.record(Tick(50), true);
    assert_eq!(ledger.totals(Tick(110)).calls, 2);
    assert_eq!(ledger.totals(Tick(111)).calls, 0);
}

#[test]
fn ledger_carries_counts_before_they_overflow() {
    let ledger = Ledger::new(Duration::from_secs(3600), 1);
    ledger.record(Tick(1), true);
    // As after some more than 2^32 calls on one page, looked at as often as they would be.
    for _ in 0..9 {
        ledger.grow(1 << 29, 1 << 28);
    }
    let seen = ledger.totals(Tick(1));
    assert_eq!((seen.calls, seen.failures), (9 * (1 << 29) + 1, 9 * (1 << 28) + 1));
    assert_eq!(ledger.ever().calls, seen.calls);
}
