use proptest::prelude::*;

use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn jitters() -> impl Strategy<Value = Jitter> {
    prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated),
        (0.0..4.0f64).prop_map(Jitter::Proportional),
        (0u64..u64::MAX).prop_map(|n| Jitter::Additive(Duration::from_nanos(n))),
    ]
}

proptest! {
    #[test]
    fn no_delay_exceeds_the_cap_or_leaves_its_range(
        base in 0u64..=u64::MAX,
        cap in 0u64..=u64::MAX,
        factor in 1.0..1e6f64,
        jitter in jitters(),
        n in prop_oneof![0u32..70, any::<u32>()],
        seed: u64,
    ) {
        let b = Backoff { base, cap, factor, jitter };
        prop_assert!(b.delay(n) <= Duration::from_nanos(cap));
        let (low, high) = b.range(n.max(1));
        prop_assert!(low <= high && high <= Duration::from_nanos(cap));
        for (i, delay) in (1u32..).zip(b.delays_seeded(seed).take(8)) {
            let (low, high) = b.range(i);
            prop_assert!(low <= delay && delay <= high, "{i}: {low:?} {delay:?} {high:?}");
        }
    }

    #[test]
    fn delays_before_jitter_never_shrink(base: u64, cap: u64, factor in 1.0..100.0f64, n in 1u32..) {
        let b = Backoff { base, cap, factor, jitter: Jitter::None };
        prop_assert!(b.delay(n) <= b.delay(n.saturating_add(1)));
    }
}

#[test]
fn attempt_numbers_without_end_do_not_overflow() {
    for factor in [1.0, 1.5, 2.0, 3.0, 1e300] {
        let b = Backoff::exponential(ms(100), ms(5000)).factor(factor).jitter(Jitter::None);
        let expected = if factor > 1.0 { ms(5000) } else { ms(100) };
        assert_eq!(b.delay(u32::MAX), expected, "factor {factor}");
    }
    assert_eq!(Backoff::exponential(Duration::ZERO, ms(1)).factor(1e300).delay(u32::MAX), ms(0));
}

#[test]
fn full_jitter_uses_its_whole_range_evenly() {
    let b = Backoff::constant(ms(1000)).jitter(Jitter::Full);
    let n = 4000;
    let mut quarters = [0u32; 4];
    for delay in b.delays_seeded(1).take(n) {
        quarters[usize::try_from(delay.as_nanos() / 250_000_001).unwrap()] += 1;
    }
    for count in quarters {
        assert!((900..1100).contains(&count), "{quarters:?}");
    }
}

#[test]
fn decorrelated_jitter_starts_at_the_base_and_at_most_triples() {
    let b = Backoff::exponential(ms(10), ms(500)).jitter(Jitter::Decorrelated);
    for seed in 0..50 {
        let mut before = ms(10);
        for (i, delay) in b.delays_seeded(seed).take(20).enumerate() {
            assert!(i > 0 || delay == ms(10));
            assert!(delay >= ms(10) && delay <= (before * 3).min(ms(500)));
            before = delay;
        }
    }
}

#[test]
fn threads_and_fresh_series_draw_differently_and_seeded_ones_alike() {
    let b = Backoff::constant(Duration::from_secs(1000)).jitter(Jitter::Full);
    let here = b.delay(1);
    let there = std::thread::spawn(move || b.delay(1)).join().unwrap();
    assert_ne!(here, there);
    assert_ne!(b.delays().next(), b.delays().next());
    assert_eq!(b.delays_seeded(3).next(), b.delays_seeded(3).next());
    assert_ne!(b.delays_seeded(3).next(), b.delays_seeded(4).next());
}

#[test]
fn bad_values_are_named() {
    let ok = Backoff::exponential(ms(100), ms(5000));
    ok.validate().unwrap();
    let table = [
        (ok.factor(0.99), "factor"),
        (ok.factor(0.0), "factor"),
        (ok.factor(-2.0), "factor"),
        (ok.factor(f64::NAN), "factor"),
        (ok.factor(f64::INFINITY), "factor"),
        (ok.cap(ms(99)), "base"),
        (ok.cap(Duration::MAX), "cap"),
        (Backoff::constant(Duration::MAX), "base"),
        (ok.jitter(Jitter::Proportional(-0.1)), "jitter"),
        (ok.jitter(Jitter::Proportional(f64::NAN)), "jitter"),
        (ok.jitter(Jitter::Proportional(f64::INFINITY)), "jitter"),
        (ok.jitter(Jitter::Additive(Duration::MAX)), "jitter"),
    ];
    for (backoff, field) in table {
        assert_eq!(backoff.validate().unwrap_err().field(), field, "{backoff:?}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn configuration_is_read_in_seconds_and_checked() {
    let b: Backoff =
        serde_json::from_str(r#"{"base": 0.2, "cap": 5, "jitter": {"proportional": 0.25}}"#)
            .unwrap();
    let expected = Backoff::exponential(ms(200), ms(5000)).jitter(Jitter::Proportional(0.25));
    assert_eq!(b, expected);
    assert_eq!(
        serde_json::from_str::<Backoff>(r#"{"base": 1}"#).unwrap(),
        Backoff::constant(ms(1000))
    );
    let again: Backoff = serde_json::from_value(serde_json::to_value(b).unwrap()).unwrap();
    assert_eq!(again, b);
    for bad in [
        r#"{"base": -1}"#,
        r#"{"base": 1, "cap": 0.5}"#,
        r#"{"base": 1, "factor": 0.5}"#,
        r#"{"base": 1, "jitter": {"proportional": -1}}"#,
        r#"{"base": 1, "jiter": "full"}"#,
        r#"{}"#,
    ] {
        assert!(serde_json::from_str::<Backoff>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_wish_never_makes_a_retry_come_sooner_than_its_backoff_would() {
    let mut random = Random::seeded(5);
    for jitter in [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::Decorrelated,
        Jitter::Proportional(0.25),
        Jitter::Additive(ms(50)),
    ] {
        let b = Backoff::exponential(ms(100), ms(1000)).jitter(jitter);
        for wish in [ms(0), ms(30), ms(5000)] {
            for n in 1..6 {
                let (low, high) = b.range(n);
                let delay = b.draw_after(wish, n, 0, &mut random);
                assert!(delay >= wish.max(low), "{jitter:?} {wish:?} {n}: {delay:?}");
                assert!(delay <= wish + high.max(ms(1000)), "{jitter:?} {wish:?} {n}: {delay:?}");
            }
        }
    }
}
