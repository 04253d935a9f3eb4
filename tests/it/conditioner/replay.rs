//! The same seed, the same faults: however calls are spread over threads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use buttress::conditioner::{
    Call, CallKey, Conditioner, ConditionerBuilder, Decision, Fault, Latency, Matcher, Plan, Rule,
};

use super::ms;

fn rules() -> [Rule; 4] {
    let slow = Latency::lognormal(ms(20), 0.7).unwrap();
    [
        Rule::new(Fault::loss()).share(0.05),
        Rule::new(Fault::status(503)).share(0.1).matching(Matcher::method("POST")),
        Rule::new(Fault::latency(slow)).share(0.3),
        Rule::new(Fault::reply_lost()).share(0.2).matching(Matcher::path("/a/*")),
    ]
}

const CALLS: u64 = 20_000;

fn call(n: u64) -> Call<'static> {
    let call = Call::new().method(if n.is_multiple_of(3) { "POST" } else { "GET" });
    call.path(if n.is_multiple_of(2) { "/a/b" } else { "/c" })
}

/// Runs the calls on so many threads, and returns what was decided.
fn decided(
    threads: u64,
    by_id: bool,
    f: impl Fn(ConditionerBuilder) -> ConditionerBuilder,
) -> Vec<Decision> {
    let conditioner = f(Conditioner::builder("test").seed(11).record(1_000_000)).build().unwrap();
    conditioner.arm().unwrap();
    let next = Mutex::new(0..CALLS);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // Whoever is free takes a few: the threads race, and nothing is left to one of them.
                    let some: Vec<_> = next.lock().unwrap().by_ref().take(16).collect();
                    if some.is_empty() {
                        return;
                    }
                    for n in some {
                        let call = if by_id { call(n).id(n) } else { call(n) };
                        drop(conditioner.apply_blocking_with(|_| {}, &call));
                    }
                }
            });
        }
    });
    let plan = conditioner.plan();
    assert_eq!(plan.missing(), 0);
    let stats = conditioner.stats();
    assert_eq!(stats.seen, CALLS);
    assert_eq!(
        stats.rules.iter().map(|rule| rule.injected).sum::<u64>(),
        plan.decisions().len() as u64
    );
    assert!(stats.rules.iter().all(|rule| rule.active == 0));
    let mut all: Vec<_> = plan.decisions().collect();
    all.sort_by_key(|decision| (decision.call, decision.rule));
    all
}

#[test]
fn decisions_by_id_are_the_same_on_one_and_on_eight_threads() {
    for all in [false, true] {
        let settings = |b: ConditionerBuilder| {
            let b = b.rules(rules());
            if all { b.match_all() } else { b }
        };
        let one = decided(1, true, settings);
        let eight = decided(8, true, settings);
        assert!(one.len() > 5_000, "{}", one.len());
        assert_eq!(one, eight);
        let other = decided(1, true, |b| settings(b).seed(12));
        assert_ne!(one, other, "another seed, other faults");
    }
}

/// Without ids the threads race for the numbers, so who is hit may differ, but not how many by what.
#[test]
fn decisions_by_count_are_the_same_set_on_one_and_on_eight_threads() {
    // Which calls come to have which numbers depends on the race; so each rule's matcher sees every call.
    let slow = Latency::lognormal(ms(20), 0.7).unwrap();
    let settings = |b: ConditionerBuilder| {
        b.rule(Rule::new(Fault::loss()).share(0.05))
            .rule(Rule::new(Fault::latency(slow)).share(0.3))
            .match_all()
    };
    let one = decided(1, false, settings);
    let eight = decided(8, false, settings);
    let nth = |decision: &Decision| matches!(decision.call, CallKey::Nth(_));
    assert!(one.iter().all(nth));
    // The number of a loss is that of its rule, and so is that of a latency.
    let by_rule = |decisions: &[Decision], rule: usize| -> Vec<Decision> {
        decisions.iter().filter(|decision| decision.rule == rule).copied().collect()
    };
    assert_eq!(by_rule(&one, 0), by_rule(&eight, 0));
    // What is lost is not also late, and who that is is up to the race: the draws are the same.
    let latencies = |decisions: &[Decision]| -> BTreeMap<CallKey, std::time::Duration> {
        decisions.iter().filter_map(|d| Some((d.call, d.latency?))).collect()
    };
    let (ones, eights) = (latencies(&one), latencies(&eight));
    let both = ones.iter().filter(|(call, time)| eights.get(call) == Some(time)).count();
    assert!(ones.iter().all(|(call, time)| eights.get(call).is_none_or(|known| known == time)));
    assert!(both * 10 > ones.len() * 8, "{both} of {}", ones.len());
}

#[test]
fn a_recorded_run_is_run_again_without_its_rules() {
    let ran = |conditioner: &Conditioner| -> Vec<String> {
        conditioner.arm().unwrap();
        (0..CALLS)
            .map(|n| {
                let mut slept = Vec::new();
                let call = call(n).id(n);
                let result = conditioner.apply_blocking_with(|time| slept.push(time), &call);
                format!("{slept:?} {:?}", result.and_then(|applied| applied.after(())).is_ok())
            })
            .collect()
    };
    let first =
        Conditioner::builder("test").rules(rules()).match_all().record(1_000_000).build().unwrap();
    let seen = ran(&first);
    let again = Conditioner::builder("test").replay(first.plan()).seed(99).build().unwrap();
    assert_eq!(ran(&again), seen);
    let per_rule = |c: &Conditioner| -> Vec<(u64, buttress::conditioner::FaultKind)> {
        c.stats().rules.iter().map(|rule| (rule.injected, rule.fault)).collect()
    };
    assert_eq!(per_rule(&again), per_rule(&first));
}

/// Numbered calls replay if they come in the same order, and with the rules that numbered them.
#[test]
fn a_recorded_run_of_numbered_calls_is_run_again_with_its_rules() {
    let ran = |conditioner: &Conditioner| -> Vec<bool> {
        conditioner.arm().unwrap();
        (0..2_000).map(|n| conditioner.apply_blocking_with(|_| {}, &call(n)).is_ok()).collect()
    };
    let first = Conditioner::builder("test").rules(rules()).record(10_000).build().unwrap();
    let seen = ran(&first);
    let again =
        Conditioner::builder("test").rules(rules()).replay(first.plan()).seed(99).build().unwrap();
    assert_eq!(ran(&again), seen);
    assert!(seen.contains(&false) && seen.contains(&true));
    let fewer = Conditioner::builder("test").rule(rules()[0].clone()).replay(first.plan()).build();
    assert_eq!(fewer.unwrap_err().field(), "replay");
}

#[test]
fn a_full_recording_says_what_it_misses() {
    let lossy =
        Conditioner::builder("test").rule(Rule::new(Fault::loss())).record(10).build().unwrap();
    lossy.arm().unwrap();
    for _ in 0..25 {
        assert!(lossy.apply_blocking(&Call::new()).is_err());
    }
    assert_eq!((lossy.plan().decisions().len(), lossy.plan().missing()), (10, 15));
    assert_eq!(Plan::default().missing(), 0);
}

/// All attempts of a request meet the same faults unless the attempt is said.
#[test]
fn the_attempt_is_part_of_the_decision_if_it_is_said() {
    let lossy =
        Conditioner::builder("test").rule(Rule::new(Fault::loss()).share(0.5)).build().unwrap();
    lossy.arm().unwrap();
    let lost = |call: Call<'_>| lossy.apply_blocking(&call).is_err();
    for id in 0..100 {
        assert_eq!(lost(Call::new().id(id)), lost(Call::new().id(id)));
    }
    let lost_twice = (0..1000_u64)
        .filter(|id| (1..=2).all(|attempt| lost(Call::new().id(*id).attempt(attempt))))
        .count();
    // A quarter, within six standard deviations.
    assert!((170..330).contains(&lost_twice), "{lost_twice}");
}
