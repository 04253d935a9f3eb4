use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn the_interval_is_never_short_and_at_most_one_unit_long(
        amount in 1_u64..1_000_000_000, seconds in 1_u64..100_000
    ) {
        let per = Duration::from_secs(seconds);
        let Ok(quota) = Quota::new(amount, per) else { return Ok(()) };
        let exact = per.as_nanos() * 16;
        let held = u128::from(quota.interval_units()) * u128::from(amount);
        prop_assert!(held >= exact);
        prop_assert!(held - exact < u128::from(amount));
    }

    #[test]
    fn a_fractional_rate_is_never_exceeded(rate in 1e-6_f64..1e8, millis in 1_u64..100_000) {
        let Ok(quota) = Quota::from_rate(rate, Duration::from_millis(millis)) else { return Ok(()) };
        #[expect(clippy::cast_precision_loss, reason = "compared with one rounding only")]
        let (interval, units) = (quota.interval_units() as f64, (millis * 16_000_000) as f64);
        prop_assert!(interval.mul_add(rate, -units) >= 0.0);
        prop_assert!((interval - 2.0).mul_add(rate, -units) < 0.0);
    }

    #[test]
    fn text_round_trips(
        amount in prop_oneof![
            (1_u64..1_000_000).prop_map(|n| n.to_string()),
            (1e-3_f64..1e3).prop_map(|n| n.to_string()),
        ],
        nanos in prop_oneof![Just(1_000_000_000_u64), 1_000_000_u64..100_000_000_000_000],
        burst in prop::option::of(1_u64..1000),
    ) {
        let mut text = format!("{amount}/{nanos}ns");
        if let Some(burst) = burst {
            text += &format!(" burst {burst}");
        }
        let Ok(quota) = text.parse::<Quota>() else { return Ok(()) };
        prop_assert_eq!(quota.to_string().parse::<Quota>().unwrap(), quota);
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", number in any::<f64>(), burst in any::<u64>()) {
        let _ = text.parse::<Quota>();
        let _ = format!("{number}/s burst {burst}").parse::<Quota>();
        let _ = format!("{burst}/{burst}d").parse::<Quota>();
        let _ = Quota::from_rate(number, Duration::from_nanos(burst));
        let _ = Quota::new(burst, Duration::MAX);
    }
}
