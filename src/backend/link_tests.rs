//! The table of links by which Vector tests its limiter: a source that sends as soon as it may, and backends that are slow,
//! refuse or forget what is too much. A range is that of the table, unless it says why not.

use std::ops::RangeInclusive;

use super::core::Core;
use super::played::{Answer, Ran, SECOND, Source};
use super::scenario_tests::unit;
use super::tests::MS;

/// So many requests; the next one `gap` milliseconds after the last was made, but not while that waits. They wait for a
/// second, and are sent again.
fn run(
    core: &mut Core,
    from: u64,
    requests: u32,
    gap: u64,
    mut answer: impl FnMut(u64, u64) -> Answer,
) -> Ran {
    let source = Source { requests, patience: SECOND, sink: true, classes: false };
    source.play(core, from, |_| gap * MS, |level, rate, _| answer(level, rate))
}

fn within<T: Copy + PartialOrd + std::fmt::Debug>(what: &str, is: T, range: RangeInclusive<T>) {
    assert!(range.contains(&is), "{what} is {is:?}, not in {range:?}");
}

const DELAY: u64 = 100 * MS;

fn learned() -> Core {
    Core::new(None, 1000)
}

/// The table's ranges end where one more in each round trip leads until all is sent. Here it doubles, and all is sent within
/// eleven round trips: each range is what is seen, and a tenth on either side.
#[test]
fn on_a_constant_link_the_limit_rises_as_long_as_there_is_something_to_send() {
    let ran = run(&mut learned(), 0, 500, 0, |_, _| Answer::After(DELAY));
    // 16 to 18 on average in the table, and at most 32.
    within("limit", ran.limit_mean, 34.8..=42.6);
    within("highest limit", ran.limit_max, 132..=160);
    // 15 to 16, and at most 31.
    within("in service", ran.in_service_mean, 40.9..=50.0);
    within("most in service", ran.in_service_max, 101..=120);
    within("what an answer takes", ran.typical, 99..=102);
    // 500 of 100 ms with 15.5 of them at a time are 3.2.
    within("seconds", ran.seconds, 1.0..=1.2);
}

#[test]
fn a_backend_that_refuses_the_sixth_has_five() {
    let refuses = |level, _| if level > 5 { Answer::Refused(DELAY) } else { Answer::After(DELAY) };
    let ran = run(&mut learned(), 0, 500, 0, refuses);
    within("limit", ran.limit_mean, 4.0..=12.0);
    within("highest limit", ran.limit_max, 6..=18);
    within("in service", ran.in_service_mean, 2.4..=5.0);
    within("most in service", ran.in_service_max, 5..=13);
    // At most 44 a second are sent in the table, of which some are refused.
    within("seconds", ran.seconds, 10.0..=500.0 / 44.0);
    within("refused", ran.refused, 1..=50);
}

/// In the table the limit is 7 to 8 on average and at most 15. Here it is not: what is forgotten while all else is answered
/// as soon as ever looks like a share that hangs whatever is in flight, and for that no limit is lowered. What it is for is
/// done all the same.
#[test]
fn a_backend_that_forgets_the_sixth_has_work() {
    let forgets = |level, _| if level > 5 { Answer::Never } else { Answer::After(DELAY) };
    let ran = run(&mut learned(), 0, 500, 0, forgets);
    within("in service", ran.in_service_mean, 3.0..=4.0);
    within("most in service", ran.in_service_max, 4..=5);
    within("what an answer takes", ran.typical, 99..=103);
    // At most 32 a second are sent in the table, of which some are forgotten.
    within("seconds", ran.seconds, 10.0..=500.0 / 32.0);
    // The table does not say. 407, and a tenth.
    within("forgotten, of 500 answered", ran.forgotten, 1..=448);
}

/// Refused ones count against the next, too: whoever goes on beyond the rate gets nothing at all.
#[test]
fn a_backend_that_refuses_the_hundred_and_first_of_a_second_is_not_sent_many_more() {
    let refuses = |_, rate| if rate > 100 { Answer::Refused(DELAY) } else { Answer::After(DELAY) };
    let ran = run(&mut learned(), 0, 1000, 0, refuses);
    // 6 to 9 in the table, whose senders are idle after each refusal for some time; 100 a second of 100 ms are ten.
    within("in service", ran.in_service_mean, 6.0..=10.0);
    within("limit", ran.limit_mean, 8.0..=18.5);
    // 16 to 24 in the table: here it doubles until the first second is over.
    within("highest limit", ran.limit_max, 16..=48);
    // 31 to 75, for the same reason: here 93.8 of the hundred that are allowed.
    within("rate", ran.rate_mean, 84.0..=100.0);
    // So 1000 are answered after 32 s at most; here it takes 20.6, and a tenth.
    within("seconds", ran.seconds, 10.0..=22.7);
    // The table does not say. 940, and a twentieth: nearly one for each that is answered.
    within("refused, of 1000 answered", ran.refused, 1..=987);
}

#[test]
fn a_fixed_limit_stays() {
    let ran = run(&mut Core::new(Some(10), 1000), 0, 500, 0, |_, _| Answer::After(DELAY));
    assert_eq!((ran.limit_mean, ran.limit_max, ran.in_service_max), (10.0, 10, 10));
    within("in service", ran.in_service_mean, 8.0..=10.0);
    // 90 at most and 80 to 85 on average in the table, where each round trip takes a little longer than 100 ms.
    within("highest rate", ran.rate_max, 90..=100);
    within("rate", ran.rate_mean, 80.0..=92.0);
}

/// A tenth, or a half, of the delay on average, exponential.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds")]
fn jitter(share: f64, seed: u64) -> impl FnMut(u64, u64) -> Answer {
    let mut unit = unit(seed);
    move |_, _| Answer::After((DELAY as f64 * (1.0 - share * unit().ln())) as u64)
}

#[test]
fn a_fixed_limit_stays_where_answers_differ() {
    for seed in 1..=10 {
        let ran = run(&mut Core::new(Some(10), 1000), 0, 500, 0, jitter(0.5, seed));
        assert_eq!((ran.limit_mean, ran.limit_max, ran.in_service_max), (10.0, 10, 10));
        within("in service", ran.in_service_mean, 8.0..=10.0);
        within("highest rate", ran.rate_max, 65..=84);
        within("rate", ran.rate_mean, 55.0..=66.0);
    }
}

/// As on a constant link: chance alone is no queue, and it doubles. The table's ranges are of one more in each round trip, with a
/// step back whenever some answers come late. These are of 200 seeds, and a little more on either side.
#[test]
fn on_a_link_with_jitter_the_limit_rises_as_well() {
    for seed in 1..=10 {
        let ran = run(&mut learned(), 0, 1000, 0, jitter(0.1, seed));
        // 9 to 20 on average in the table, and 20 to 40 at most: here 158 to 185, and 670 with all seeds.
        within("limit", ran.limit_mean, 153.0..=190.0);
        within("highest limit", ran.limit_max, 640..=700);
        // Everything that is left is in flight after nine round trips: 107 to 119.
        within("in service", ran.in_service_mean, 104.0..=122.0);
        // The mean of what an answer takes is 110 ms.
        within("what an answer takes usually", ran.baseline, 109..=121);
        // At most 150 a second in the table, so 6.7 s at least: here 0.92 to 1.04.
        within("seconds", ran.seconds, 0.9..=1.06);
    }
}

/// In the table the limit begins with one, and is 1 to 2 or 2 to 2.5. Here it begins with four, of which one is used: a limit
/// that is not used does not grow.
#[test]
fn with_one_at_a_time_the_limit_stays_what_it_is() {
    let ran = run(&mut learned(), 0, 100, 100, |_, _| Answer::After(DELAY / 2));
    assert_eq!((ran.limit_max, ran.in_service_max), (4, 1));
    within("in service", ran.in_service_mean, 0.5..=0.55);
    let ran = run(&mut learned(), 0, 100, 50, |_, _| Answer::After(DELAY / 2));
    assert_eq!(ran.limit_max, 4);
    within("in service", ran.in_service_mean, 1.0..=1.2);
    within("most in service", ran.in_service_max, 1..=2);
}

#[test]
fn with_four_at_a_time_the_limit_is_hardly_more_than_twice_that() {
    let ran = run(&mut learned(), 0, 500, 25, |_, _| Answer::After(DELAY));
    within("highest limit", ran.limit_max, 4..=9);
    within("most in service", ran.in_service_max, 4..=8);
    // 4 to 4.5 in the table; with the beginning and the end, where there are fewer, 500 of 100 ms in 12.6 s.
    within("in service", ran.in_service_mean, 3.97..=4.5);
}

/// Each more makes all slower, and none brings another answer. In the table that is so from the start, with one more in
/// each round trip. Here it doubles until it knows, and the table's ranges are of the time after that.
#[test]
fn on_a_slow_link_few_are_in_flight() {
    let slow = |level, _| Answer::After(DELAY * level);
    let mut core = learned();
    let first = run(&mut core, 0, 200, 0, slow);
    // Twenty are answered in the time that it takes to know.
    within("highest limit", first.limit_max, 4..=25);
    within("limit", first.limit_mean, 1.7..=6.0);
    let ran = run(&mut core, first.end, 200, 0, slow);
    within("limit", ran.limit_mean, 1.7..=5.0);
    within("in service", ran.in_service_mean, 1.5..=5.0);
    within("most in service", ran.in_service_max, 2..=7);
    within("what an answer takes", ran.typical, 99..=450);
}

/// Beyond ten each more brings fewer answers. After the start, as on a slow link.
#[test]
fn beyond_a_shallow_knee_not_much_is_sent() {
    let knee = |level, _| Answer::After((10..level).fold(DELAY, |delay, _| delay + delay / 10));
    let mut core = learned();
    let first = run(&mut core, 0, 1000, 0, knee);
    within("highest limit", first.limit_max, 12..=41);
    let ran = run(&mut core, first.end, 1000, 0, knee);
    within("limit", ran.limit_mean, 10.0..=12.0);
    within("in service", ran.in_service_mean, 9.0..=12.0);
    within("what an answer takes", ran.typical, 99..=123);
    // 87 to 89 in the table, with the second in which there were fewer.
    within("rate", ran.rate_mean, 87.0..=108.0);
}
