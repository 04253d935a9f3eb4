//! How limits that are learned go wrong elsewhere, one by one: a queue in front of workers is played, with time of
//! its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::core::Core;
use super::tests::{MS, at};
use super::turn::{Arrival, End, State, Wakers};
use crate::context::Criticality;

/// What one played minute has come to.
#[derive(Debug, Default)]
struct Seen {
    sent: u32,
    limit_sum: u64,
    limit_max: u32,
    in_flight_max: u32,
    /// Its limit in each second in which a call was sent.
    limits: Vec<u32>,
}

impl Seen {
    fn mean(&self) -> u64 {
        self.limit_sum / u64::from(self.sent.max(1))
    }
}

/// Calls come every `gap` microseconds; whoever is not admitted at once goes away. Each takes what `took` says, in
/// microseconds, of the number in flight, the number of the call and the microseconds since the start.
fn play(
    core: &mut Core,
    from: u64,
    millis: u64,
    gap: u64,
    mut took: impl FnMut(u32, u32, u64) -> u64,
) -> Seen {
    const US: u64 = MS / 1000;
    let mut out: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut seen = Seen::default();
    let start = at(from).0;
    let tick = crate::clock::Tick;
    let mut now = start;
    while now < start + millis * MS {
        while let Some(&Reverse((end, started))) =
            out.peek().filter(|Reverse((end, _))| *end <= now)
        {
            out.pop();
            core.finish(tick(started), End::Success, tick(end), &mut Wakers::default());
        }
        let deadline = tick(now + 1000 * MS);
        let class = Criticality::Critical;
        match core.arrive(deadline, class, tick(now), &mut Wakers::default()) {
            Arrival::Admitted => {
                let takes = took(core.in_flight, seen.sent, (now - start) / US);
                out.push(Reverse((now + takes * US, now)));
                seen.sent += 1;
                seen.limit_sum += u64::from(core.limit());
                seen.limit_max = seen.limit_max.max(core.limit());
                let second = usize::try_from((now - start) / MS / 1000).expect("not so many");
                seen.limits.resize(second + 1, core.limit());
                seen.in_flight_max = seen.in_flight_max.max(core.in_flight);
            }
            Arrival::Wait(key) => core.leave(key, tick(now), &mut Wakers::default()),
            Arrival::Expired | Arrival::Full | Arrival::Throttled(_) => {}
        }
        now += gap * US;
    }
    while let Some(Reverse((end, started))) = out.pop() {
        core.finish(tick(started), End::Success, tick(end), &mut Wakers::default());
    }
    seen
}

/// Ten workers of 20 ms, and a queue in front of them.
fn workers(in_flight: u32, _: u32, _: u64) -> u64 {
    20_000 * u64::from(in_flight.div_ceil(10))
}

#[test]
fn a_fifth_too_much_for_five_minutes_is_no_runaway() {
    let mut core = Core::new(None, 10);
    // 600 a second come, 500 can be served.
    play(&mut core, 0, 30_000, 1667, workers);
    let late = play(&mut core, 40_000, 270_000, 1667, workers);
    println!("{late:?} {}", core.limit());
    // Four times what the workers can do at once: answers take the target, which is at most four baselines. After
    // the first half minute the limit was at 26 when it was seen last.
    assert!(late.limit_max <= 40 && core.limit() <= 40 && late.mean() >= 10, "{late:?}");
}

#[test]
fn calls_one_after_the_other_raise_no_limit() {
    let mut core = Core::new(None, 10);
    let seen = play(&mut core, 0, 60_000, 20_000, |_, _, _| 10_000);
    assert_eq!((seen.limit_max, seen.in_flight_max), (4, 1));
}

#[test]
fn latency_that_grows_slowly_does_not_take_the_baseline_along() {
    let mut core = Core::new(None, 10);
    play(&mut core, 0, 20_000, 1700, workers);
    let baseline = core.latency.baseline();
    // The workers become slower by a half each minute, while more come than they can serve.
    let slower = |n: u32, _: u32, us: u64| {
        20_000 * u64::from(n.div_ceil(10)) * (120_000 + us / 1000) / 120_000
    };
    let seen = play(&mut core, 30_000, 120_000, 1700, slower);
    println!("{seen:?}, {baseline} to {}", core.latency.baseline());
    assert!(seen.limit_max <= 60, "{seen:?}");
    // Never beyond what an answer takes without a queue.
    assert!(core.latency.baseline() <= 2 * baseline + baseline / 4, "{}", core.latency.baseline());
}

#[test]
fn two_kinds_of_calls_keep_nobody_out() {
    let mut core = Core::new(None, 10);
    // Four of five take 5 ms, the fifth 50 ms, however many there are; at most 60 are in flight.
    let seen = play(&mut core, 0, 60_000, 250, |_, n, _| if n % 5 == 4 { 50_000 } else { 5_000 });
    println!("{seen:?}");
    assert_eq!(core.counts.downs, 0);
    // 4,000 a second come, and 14 ms on average each: 56 in flight.
    assert!(seen.sent >= 60 * 4000 * 95 / 100, "{seen:?}");
}

#[test]
fn after_an_outage_of_ten_seconds_it_is_as_before_within_two() {
    let mut core = Core::new(None, 10);
    let before = play(&mut core, 0, 20_000, 2500, workers);
    // Everything fails at once.
    for n in 0..1000 {
        let now = 30_000 + 10 * n;
        let class = Criticality::Critical;
        match core.arrive(at(now + 1000), class, at(now), &mut Wakers::default()) {
            Arrival::Admitted => {
                core.finish(at(now), End::Failure, at(now + 1), &mut Wakers::default())
            }
            Arrival::Wait(key) => core.leave(key, at(now), &mut Wakers::default()),
            Arrival::Expired | Arrival::Full | Arrival::Throttled(_) => {}
        }
    }
    assert!(matches!(core.state, State::Down { .. }));
    play(&mut core, 40_000, 2_000, 2500, workers);
    let after = play(&mut core, 42_000, 18_000, 2500, workers);
    println!("{before:?}, then {after:?}");
    let expected = 18_000 * 1000 / 2500;
    assert!(after.sent >= expected * 95 / 100, "{after:?}");
}

/// So many workers with one queue in front of them; what each call takes in microseconds.
fn pool(workers: usize, mut service: impl FnMut(u32) -> u64) -> impl FnMut(u32, u32, u64) -> u64 {
    let mut free: BinaryHeap<Reverse<u64>> = (0..workers).map(|_| Reverse(0)).collect();
    move |_, n, us| {
        let Reverse(at) = free.pop().expect("a worker");
        let end = at.max(us) + service(n);
        free.push(Reverse(end));
        end - us
    }
}

/// Between zero and one, the same numbers each time.
pub(super) fn unit(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

/// The same numbers each time, lognormal with this sigma and a mean of one.
pub(super) fn lognormal(seed: u64, sigma: f64) -> impl FnMut() -> f64 {
    let mut unit = unit(seed);
    move || {
        let normal = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        (sigma * normal - sigma * sigma / 2.0).exp()
    }
}

/// The mean of its limit in these seconds.
fn mean(limits: &[u32]) -> f64 {
    limits.iter().copied().map(f64::from).sum::<f64>() / limits.len().max(1) as f64
}

/// Five minutes with a fifth more than the workers can do. The mean limit in the minute after the thirtieth second, and in the
/// last; the highest after that second, and the share of what the workers can do that was done.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds")]
fn overload(workers: usize, service: u64, sigma: f64) -> (f64, f64, u32, f64) {
    let mut core = Core::new(None, 10);
    let gap = service * 5 / 6 / workers as u64;
    let mut factor = lognormal(1, sigma);
    let seen =
        play(&mut core, 0, 300_000, gap, pool(workers, |_| (service as f64 * factor()) as u64));
    let (early, late) = (mean(&seen.limits[30..90]), mean(&seen.limits[240..]));
    let most = seen.limits[30..].iter().copied().max().expect("some");
    let done = f64::from(seen.sent) * service as f64 / (300e6 * workers as f64);
    println!(
        "{workers} x {service} us, sigma {sigma}: {early:.1}, then {late:.1}, at most {most}, {done:.3} done"
    );
    (early, late, most, done)
}

#[test]
fn what_others_call_a_runaway_ends_where_more_in_flight_bring_nothing() {
    // The second is the one by which others show it: 100 a second for 12 workers that take 144 ms each.
    for (workers, service) in [(10, 20_000), (12, 144_000), (2, 10_000)] {
        let (early, late, most, done) = overload(workers, service, 0.0);
        let workers = workers as f64;
        assert!(late <= 1.5 * early && f64::from(most) <= 2.0 * workers, "{early}, {late}, {most}");
        // By latency alone it is twice what the workers need, to four times.
        assert!(late <= 1.5 * workers + 1.0 && done >= 0.98, "{late}, {done}");
    }
}

#[test]
fn a_fifth_too_much_is_no_runaway_where_answers_differ() {
    for (workers, service) in [(10, 20_000), (12, 144_000)] {
        for sigma in [0.3, 0.6] {
            let (early, late, most, done) = overload(workers, service, sigma);
            assert!(late <= 1.5 * early, "{early}, then {late}");
            assert!(f64::from(most) <= 4.5 * workers as f64, "{most}");
            assert!(done >= 0.97, "{done}");
        }
    }
}

#[test]
fn answers_that_take_longer_with_more_in_flight_are_no_reason_as_long_as_there_are_more_of_them() {
    // Each more in flight makes all slower by one in a hundred: with fifty at a time thirty times as many answers. By
    // a clamp at the first sign of a queue it would have stayed at a few.
    let mut core = Core::new(None, 10);
    let slower = |n: u32, _: u32, _: u64| 100_000 + 1_000 * u64::from(n);
    let seen = play(&mut core, 0, 60_000, 2_000, slower);
    println!("{seen:?}");
    assert!(mean(&seen.limits[30..]) >= 40.0, "{:?}", seen.limits);
}
