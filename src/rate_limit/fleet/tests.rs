use std::time::Duration;

use proptest::prelude::*;

use super::health::{ERRORS, Health, REST};
use super::purse::{Advance, Purse, Spent};
use super::table::Table;
use crate::clock::Tick;
use crate::quota::UNITS_PER_NANO;
use crate::rate_limit::core::Rule;
use crate::store::{RecordId, Taken};

const MS: u64 = 1_000_000 * UNITS_PER_NANO;

fn rule(interval: u64, burst: u64) -> Rule {
    Rule { interval, tolerance: interval * burst, burst, shadow: false }
}

const NONE: Advance = Advance { tokens: 0, hold: 0 };
const TEN: Advance = Advance { tokens: 10, hold: 50 * MS };

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_purse_asks_for_what_it_lacks() {
    let rule = rule(10 * MS, 20);
    let mut purse = Purse::default();
    let now = 1 << 50;
    assert_eq!(purse.spend(rule, NONE, 3, now), Spent::Ask { at_least: 3, at_most: 3 });
    assert_eq!(purse.spend(rule, TEN, 3, now), Spent::Ask { at_least: 3, at_most: 10 });
    purse.heard(rule, TEN, Taken::new(10, millis(100)), now, now + MS);
    assert!(purse.settle(3));
    assert_eq!(purse.spend(rule, TEN, 5, now + 2 * MS), Spent::Paid);
    // 2 are left.
    assert_eq!(purse.spend(rule, TEN, 6, now + 3 * MS), Spent::Ask { at_least: 4, at_most: 10 });
    assert_eq!(purse.spend(rule, TEN, 12, now + 3 * MS), Spent::Ask { at_least: 10, at_most: 10 });
    // Good until 50 ms after the question.
    assert_eq!(purse.spend(rule, TEN, 1, now + 50 * MS - 1), Spent::Paid);
    assert_eq!(purse.spend(rule, TEN, 1, now + 50 * MS), Spent::Ask { at_least: 1, at_most: 10 });
}

#[test]
fn old_and_new_tokens_together_are_good_as_long_as_the_old_ones() {
    let rule = rule(MS, 1_000);
    let (mut purse, now) = (Purse::default(), 1 << 50);
    purse.heard(rule, TEN, Taken::new(10, millis(10)), now, now);
    purse.heard(rule, TEN, Taken::new(10, millis(20)), now + 30 * MS, now + 31 * MS);
    assert_eq!(purse.spend(rule, TEN, 12, now + 49 * MS), Spent::Paid);
    assert!(matches!(purse.spend(rule, TEN, 1, now + 51 * MS), Spent::Ask { .. }));
    // Those that came too late are gone, and do not make the new ones so.
    purse.heard(rule, TEN, Taken::new(10, millis(10)), now + 60 * MS, now + 61 * MS);
    assert_eq!(purse.spend(rule, TEN, 10, now + 109 * MS), Spent::Paid);
}

#[test]
fn what_the_store_would_refuse_is_known_until_it_would_not() {
    let rule = rule(10 * MS, 2);
    let (mut purse, now) = (Purse::default(), 1 << 50);
    // Empty as of `now`, told 4 ms later.
    purse.heard(rule, NONE, Taken::new(0, millis(20)), now, now + 4 * MS);
    let Spent::Denied(denied) = purse.spend(rule, NONE, 1, now + 4 * MS) else { panic!() };
    // It may have been decided as late as when it was told.
    assert_eq!(denied.wait(), 10 * MS);
    assert!(matches!(purse.spend(rule, NONE, 1, now + 10 * MS - 1), Spent::Denied(_)));
    assert!(matches!(purse.spend(rule, NONE, 1, now + 10 * MS), Spent::Ask { .. }));
    assert!(matches!(purse.spend(rule, NONE, 2, now + 10 * MS), Spent::Denied(_)));
    let Spent::Denied(never) = purse.spend(rule, NONE, 3, now) else { panic!() };
    assert!(never.never());
    // An answer that overtook another does not make it forget.
    purse.heard(rule, NONE, Taken::new(0, millis(5)), now, now);
    assert!(matches!(purse.spend(rule, NONE, 2, now + 10 * MS), Spent::Denied(_)));
}

proptest! {
    /// What is spent never is more than what was granted, and never later than it is good for.
    #[test]
    fn a_purse_spends_what_it_was_given(
        steps in prop::collection::vec((0_u64..30, 1_u64..12, 0_u64..20), 1..80),
    ) {
        let rule = rule(MS, 1_000_000);
        let mut purse = Purse::default();
        let mut now = 1_u64 << 50;
        // Of each grant, when it was asked for and what is left.
        let mut grants: Vec<(u64, u64)> = vec![];
        for (wait, n, granted) in steps {
            now += wait * MS;
            match purse.spend(rule, TEN, n, now) {
                Spent::Paid => {
                    let mut left = n;
                    for (sent, there) in &mut grants {
                        if now < *sent + TEN.hold {
                            let spent = left.min(*there);
                            *there -= spent;
                            left -= spent;
                        }
                    }
                    prop_assert_eq!(left, 0);
                }
                Spent::Ask { at_least, .. } if granted >= at_least => {
                    purse.heard(rule, TEN, Taken::new(granted, Duration::ZERO), now, now + MS);
                    grants.push((now, granted));
                }
                Spent::Ask { .. } => {}
                Spent::Denied(denied) => prop_assert!(false, "{denied:?}"),
            }
        }
    }
}

#[test]
fn a_store_rests_after_some_errors_and_one_caller_a_second_looks() {
    let (health, start) = (Health::default(), Tick(1 << 50));
    for n in 1..=ERRORS {
        assert!(health.may_ask(start) && !health.is_resting());
        assert_eq!(health.failed(start), n == ERRORS);
    }
    assert!(health.is_resting() && !health.may_ask(start));
    let later = start.after(REST);
    assert!(health.may_ask(later));
    assert!(!health.may_ask(later), "one");
    assert!(!health.failed(later), "told before");
    let again = later.after(REST);
    assert!(health.may_ask(again));
    assert!(health.answered());
    assert!(!health.answered() && health.may_ask(again) && !health.is_resting());
    // From the beginning.
    assert!(!health.failed(again));
}

#[test]
fn a_table_makes_room_of_what_is_blank_and_not_held() {
    let (table, now) = (Table::new(2), Tick(1 << 50));
    let id = |n: u8| RecordId::of(b"", &[n]);
    let held = table.seat(&id(1), now).unwrap();
    drop(table.seat(&id(2), now));
    assert!(table.seat(&id(3), now).is_some(), "the second was blank");
    assert_eq!(table.len(), 2);
    let rule = rule(MS, 10);
    let filled = table.seat(&id(3), now).unwrap();
    crate::sync::lock(&filled.purse).charge_share(rule, 5, now.0 * UNITS_PER_NANO).unwrap();
    drop(filled);
    assert!(table.seat(&id(4), now).is_none());
    // Nobody searches again at once.
    let soon = now.after(millis(50));
    assert!(table.seat(&id(4), soon).is_none());
    assert!(table.seat(&id(4), now.after(millis(100))).is_some(), "its share is full again");
    assert!(table.seat(&id(1), now).is_some_and(|seat| std::sync::Arc::ptr_eq(&seat, &held)));
}
