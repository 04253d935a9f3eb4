use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::{CountWindow, Mark, TimeWindow, Totals};
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
