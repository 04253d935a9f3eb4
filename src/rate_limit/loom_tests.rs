//! All interleavings of a few threads over the atomic words.

use std::sync::Arc as StdArc;

use loom::sync::Arc;
use loom::thread;

use super::core::{Bucket, Receipt, Rule, RuleCell};
use super::print::Seeds;
use super::table::{Miss, Print, Table};

const NOW: u64 = 1 << 54;

fn rule(burst: u64) -> Rule {
    Rule { interval: 100, tolerance: 100 * burst, burst, shadow: false }
}

/// Two calls, one token.
#[test]
fn loom_one_token_goes_to_one_of_two() {
    loom::model(|| {
        let bucket = Arc::new(Bucket::full());
        let other = Arc::clone(&bucket);
        let handle = thread::spawn(move || other.charge(rule(1), NOW, 100).is_ok());
        let mine = bucket.charge(rule(1), NOW, 100).is_ok();
        assert!(mine != handle.join().unwrap());
        assert_eq!(bucket.load(), NOW + 100);
    });
}

/// A charge and its refund beside another charge: the word ends as if the refunded call had never been.
#[test]
fn loom_a_refund_beside_a_charge_is_exact() {
    loom::model(|| {
        let bucket = Arc::new(Bucket::full());
        let other = Arc::clone(&bucket);
        let handle = thread::spawn(move || {
            let after = other.charge(rule(3), NOW, 100).unwrap();
            let receipt = Receipt { after, cost: 100, version: 0, refunded: 0 };
            assert_eq!(other.refund(receipt, 0, || NOW), 100);
        });
        assert!(bucket.charge(rule(3), NOW, 100).is_ok());
        handle.join().unwrap();
        assert_eq!(bucket.load(), NOW + 100);
    });
}

/// Check all, then charge all, over two buckets with one token each, in opposite orders: never two
/// winners, and whoever loses leaves no trace. (Both may lose: then each gave back what it had.)
#[test]
fn loom_a_combination_is_all_or_nothing() {
    fn both(first: &Bucket, second: &Bucket) -> bool {
        let rule = rule(1);
        let fits = |bucket: &Bucket| rule.admit(bucket.load(), NOW, 100).is_ok();
        if !fits(first) || !fits(second) {
            return false;
        }
        let Ok(after) = first.charge(rule, NOW, 100) else { return false };
        if second.charge(rule, NOW, 100).is_ok() {
            return true;
        }
        let receipt = Receipt { after, cost: 100, version: 0, refunded: 0 };
        assert_eq!(first.refund(receipt, 0, || NOW), 100);
        false
    }
    loom::model(|| {
        let buckets = Arc::new((Bucket::full(), Bucket::full()));
        let other = Arc::clone(&buckets);
        let handle = thread::spawn(move || both(&other.1, &other.0));
        let mine = both(&buckets.0, &buckets.1);
        let theirs = handle.join().unwrap();
        assert!(!(mine && theirs));
        let winners = u64::from(mine || theirs);
        for bucket in [&buckets.0, &buckets.1] {
            let charged = bucket.load().saturating_sub(NOW);
            assert_eq!(charged, winners * 100, "mine {mine}, theirs {theirs}");
        }
    });
}

/// A reader never sees half of one rule and half of another.
#[test]
fn loom_a_rule_is_read_whole() {
    loom::model(|| {
        let cell = Arc::new(RuleCell::new(rule(1)));
        let other = Arc::clone(&cell);
        let handle = thread::spawn(move || {
            other.begin();
            other.end(Rule { interval: 7, tolerance: 77, burst: 11, shadow: true });
        });
        if let Some((rule, version)) = cell.read() {
            match version {
                0 => assert_eq!(
                    (rule.interval, rule.tolerance, rule.burst, rule.shadow),
                    (100, 100, 1, false)
                ),
                2 => assert_eq!(
                    (rule.interval, rule.tolerance, rule.burst, rule.shadow),
                    (7, 77, 11, true)
                ),
                other => panic!("version {other}"),
            }
        }
        handle.join().unwrap();
    });
}

/// Prints of three keys whose insertions do not exclude each other.
fn apart(seeds: &Seeds, table: &Table) -> (Print, Print, Print) {
    let a = seeds.print(&0);
    let other = |not: &[Print]| {
        let free = |print: &Print| not.iter().all(|n| table.shard(*n) != table.shard(*print));
        (1_u32..).map(|key| seeds.print(&key)).find(free)
    };
    let b = other(&[a]).unwrap();
    (a, b, other(&[a, b]).unwrap())
}

fn admitted(result: Result<u64, Miss>) -> bool {
    result.is_ok()
}

/// The same new key from two threads, one token: one slot, one winner.
#[test]
fn loom_a_key_inserted_twice_has_one_bucket() {
    let seeds = Seeds::random();
    loom::model(move || {
        let table = Arc::new(Table::new(1));
        let other = Arc::clone(&table);
        let print = seeds.print(&1);
        let handle = thread::spawn(move || admitted(other.charge(print, rule(1), NOW, 100)));
        let mine = admitted(table.charge(print, rule(1), NOW, 100));
        assert!(mine != handle.join().unwrap());
        assert_eq!(table.live(NOW), 1);
    });
}

/// Key A is charged just when its dead slot, the only one, is given to B. Whoever gets the slot, neither
/// key gets two tokens and no charge lands in the other's bucket.
#[test]
fn loom_a_dead_slot_changes_hands_or_lives_on() {
    let seeds = StdArc::new(Seeds::random());
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let table = Arc::new(Table::with_slots(1));
        let (a, b, _) = apart(&seeds, &table);
        table.charge(a, rule(1), NOW - 100, 100).unwrap();
        let other = Arc::clone(&table);
        // A is dead at NOW: its token is back.
        let handle = thread::spawn(move || {
            let first = admitted(other.charge(b, rule(1), NOW, 100));
            let second = admitted(other.charge(b, rule(1), NOW, 100));
            assert!(!second, "B was granted twice");
            first
        });
        let first = admitted(table.charge(a, rule(1), NOW, 100));
        let second = admitted(table.charge(a, rule(1), NOW, 100));
        assert!(!second, "A was granted twice");
        let theirs = handle.join().unwrap();
        assert!(first != theirs, "one slot, A {first}, B {theirs}");
        assert_eq!(table.live(NOW), 4);
        assert_eq!(table.tat(a), if first { NOW + 100 } else { 0 });
        assert_eq!(table.tat(b), if theirs { NOW + 100 } else { 0 });
    });
}

/// Two keys want the same dead slot of a third.
#[test]
fn loom_two_keys_fight_for_one_dead_slot() {
    let seeds = StdArc::new(Seeds::random());
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let table = Arc::new(Table::with_slots(1));
        let (a, b, c) = apart(&seeds, &table);
        table.charge(a, rule(1), NOW - 100, 100).unwrap();
        let other = Arc::clone(&table);
        let handle = thread::spawn(move || admitted(other.charge(b, rule(1), NOW, 100)));
        let mine = admitted(table.charge(c, rule(1), NOW, 100));
        let theirs = handle.join().unwrap();
        assert!(mine != theirs, "one slot, two keys: {mine} {theirs}");
        assert_eq!(table.live(NOW), 4);
    });
}

/// A bucket with room for more: a charge of A that lands in the bucket of the slot's new owner would be
/// granted.
#[test]
fn loom_no_charge_lands_in_the_next_owners_bucket() {
    let seeds = StdArc::new(Seeds::random());
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let table = Arc::new(Table::with_slots(1));
        let (a, b, _) = apart(&seeds, &table);
        table.charge(a, rule(2), NOW - 100, 100).unwrap();
        let other = Arc::clone(&table);
        let handle = thread::spawn(move || admitted(other.charge(b, rule(2), NOW, 100)));
        let mine = admitted(table.charge(a, rule(2), NOW, 100));
        let theirs = handle.join().unwrap();
        assert!(mine != theirs, "one slot, A {mine}, B {theirs}");
        let (owner, stranger) = if mine { (a, b) } else { (b, a) };
        assert_eq!((table.tat(owner), table.tat(stranger)), (NOW + 100, 0));
    });
}

/// While B tries to take the dead slot of A, A is called twice: the second call must not find the slot
/// busy, think A unknown and give it another bucket.
#[test]
fn loom_a_busy_slot_may_still_be_the_keys_own() {
    let seeds = StdArc::new(Seeds::random());
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let table = Arc::new(Table::with_slots(2));
        let (a, b, c) = apart(&seeds, &table);
        // Both slots are dead at NOW; A's has been for longer, so B tries that one.
        table.charge(a, rule(1), NOW - 150, 100).unwrap();
        table.charge(c, rule(1), NOW - 100, 100).unwrap();
        let other = Arc::clone(&table);
        let handle = thread::spawn(move || admitted(other.charge(b, rule(1), NOW, 100)));
        assert!(admitted(table.charge(a, rule(1), NOW, 100)));
        assert!(!admitted(table.charge(a, rule(1), NOW, 100)), "A was granted twice");
        assert!(handle.join().unwrap());
        assert_eq!((table.tat(a), table.tat(b)), (NOW + 100, NOW + 100));
    });
}

/// A call that has read the old rule must not charge its price to the bucket of the new one: here a day
/// where a token takes a second. (Times are far apart because the clock here is the real one.)
#[test]
fn loom_a_changed_quota_is_not_paired_with_an_old_price() {
    use super::ledger::Ledger;
    use super::shared::{Shared, now};
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let ledger = Ledger::new("t".into(), crate::observe::Observers::NONE);
        let slow = "1/d burst 10".parse().unwrap();
        let shared = Arc::new(Shared::new(slow, false, Bucket::full(), ledger, 0));
        let other = Arc::clone(&shared);
        let call = thread::spawn(move || assert!(other.charge(1, now()).is_ok()));
        shared.set_quota("1/s burst 10".parse().unwrap());
        call.join().unwrap();
        let level = shared.level(now());
        assert!(level.tat.saturating_sub(level.now) <= level.rule.tolerance, "{level:?}");
    });
}

/// The same in a table, where the key has a live slot, a dead one or none.
#[test]
fn loom_a_changed_quota_is_not_paired_with_an_old_price_of_a_key() {
    use super::keyed_config::WhenFull;
    use super::keyed_shared::Keyed;
    use super::ledger::Ledger;
    use super::shared::now;
    for before in [None, Some(1), Some(0)] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(1);
        model.check(move || {
            let ledger = Ledger::new("t".into(), crate::observe::Observers::NONE);
            let slow = "1/d burst 10".parse().unwrap();
            let keyed = Arc::new(Keyed::new(slow, false, 1, WhenFull::Reject, ledger));
            let print = keyed.print(&7);
            match before {
                // Long ago, so that it is dead.
                Some(0) => drop(keyed.charge(print, 1, 16)),
                Some(n) => drop(keyed.charge(print, n, now())),
                None => {}
            }
            let other = Arc::clone(&keyed);
            let call = thread::spawn(move || assert!(other.charge(print, 1, now()).is_ok()));
            keyed.set_quota("1/s burst 10".parse().unwrap());
            call.join().unwrap();
            let level = keyed.charge(print, 0, now()).unwrap();
            assert!(level.tat.saturating_sub(level.now) <= level.rule.tolerance, "{level:?}");
        });
    }
}
