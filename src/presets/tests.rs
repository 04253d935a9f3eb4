use std::time::Duration;

use super::*;
use crate::backoff::{Backoff, Jitter};
use crate::retry::RetryPolicy;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn rules(plan: &dyn Plan) -> Vec<&'static str> {
    lint(plan).iter().map(|lint| lint.rule).collect()
}

fn client(change: impl FnOnce(&mut ClientPlan)) -> ClientPlan {
    let mut plan = ClientPlan::default();
    change(&mut plan);
    plan
}

#[test]
fn each_rule_finds_its_plan_and_not_the_one_beside_it() {
    let constant = |time| {
        let backoff = Backoff::constant(time).jitter(Jitter::None);
        Some(RetryPolicy::builder().max_attempts(2).backoff(backoff).build().unwrap())
    };
    let limited =
        |text: &str, max_wait| Some(RateLimitPlan { quota: text.parse().unwrap(), max_wait });
    type Change = Box<dyn Fn(&mut ClientPlan, bool)>;
    let cases: Vec<(&str, Change)> = vec![
        (
            "attempt_not_below_total",
            Box::new(|p, bad| {
                p.retry = None;
                p.attempt_timeout = Some(if bad { ms(5000) } else { ms(4999) });
                p.total_timeout = Some(ms(5000));
            }),
        ),
        (
            "attempts_do_not_fit",
            Box::new(move |p, bad| {
                p.retry = constant(ms(100));
                p.total_timeout = Some(if bad { ms(6099) } else { ms(6100) });
            }),
        ),
        (
            "window_below_min_calls",
            Box::new(|p, bad| {
                let breaker = p.breaker.as_mut().unwrap();
                breaker.window_calls = Some(if bad { 19 } else { 20 });
            }),
        ),
        (
            "breaker_never_judges",
            Box::new(move |p, bad| {
                p.rate_limit = limited(if bad { "1/s burst 9" } else { "1/s burst 10" }, ms(0));
            }),
        ),
        (
            "breaker_window_short",
            Box::new(|p, bad| {
                p.breaker.as_mut().unwrap().window = if bad { ms(5999) } else { ms(6000) };
            }),
        ),
        (
            "open_below_attempt",
            Box::new(|p, bad| {
                p.breaker.as_mut().unwrap().open_for = if bad { ms(2999) } else { ms(3000) };
            }),
        ),
        (
            "hedge_above_attempt",
            Box::new(|p, bad| {
                p.hedge_after = Some(if bad { ms(3000) } else { ms(2999) });
            }),
        ),
        (
            "wait_cannot_fit",
            Box::new(move |p, bad| {
                p.retry = None;
                p.attempt_timeout = None;
                p.rate_limit = limited("100/s", if bad { ms(10_000) } else { ms(9_999) });
            }),
        ),
        (
            "retry_without_budget",
            Box::new(|p, bad| if bad { p.retry_budget = None } else { p.retry = None }),
        ),
        (
            "timeout_twice",
            Box::new(|p, bad| {
                let own = if bad { ms(3000) } else { ms(2999) };
                p.retry = Some(RetryPolicy::builder().attempt_timeout(own).build().unwrap());
            }),
        ),
        (
            "timeout_twice",
            Box::new(|p, bad| {
                let own = if bad { ms(10_000) } else { ms(9_999) };
                p.retry = Some(RetryPolicy::builder().deadline(own).build().unwrap());
            }),
        ),
    ];
    for (rule, change) in cases {
        assert_eq!(rules(&client(|p| change(p, true))), [rule]);
        assert_eq!(rules(&client(|p| change(p, false))), Vec::<&str>::new(), "{rule}");
    }
    // A pause that cannot fit also makes the attempts too long.
    let pause = |time| client(|p| p.retry = constant(time));
    assert!(rules(&pause(ms(10_000))).contains(&"backoff_cannot_fit"));
    assert!(!rules(&pause(ms(9_999))).contains(&"backoff_cannot_fit"));
}

#[test]
fn a_servers_rules() {
    let plan = |text: &str, wait| {
        let rate_limit = Some(RateLimitPlan { quota: text.parse().unwrap(), max_wait: wait });
        ServerPlan { rate_limit, ..ServerPlan::default() }
    };
    assert_eq!(rules(&plan("1/s burst 19", ms(0))), ["budget_never_judges"]);
    assert_eq!(rules(&plan("1/s burst 20", ms(0))), Vec::<&str>::new());
    assert_eq!(rules(&plan("100/s", ms(30_000))), ["wait_cannot_fit"]);
    assert_eq!(rules(&plan("100/s", ms(29_999))), Vec::<&str>::new());
}

#[test]
fn without_retries_an_attempt_as_long_as_the_call_is_a_warning() {
    let plan = |retry| client(|p| (p.retry, p.attempt_timeout) = (retry, p.total_timeout));
    let severity = |plan: &ClientPlan| {
        lint(plan).iter().find(|l| l.rule == "attempt_not_below_total").unwrap().severity
    };
    assert_eq!(severity(&plan(None)), LintSeverity::Warning);
    assert_eq!(severity(&plan(Some(RetryPolicy::DEFAULT))), LintSeverity::Error);
}

#[test]
fn the_worst_case_is_computed_and_printed() {
    let report = ClientPlan::default().report();
    assert_eq!(report.worst_attempts, Some(3));
    // 3 times 3 s, 50 ms, 100 ms.
    assert_eq!(report.worst_latency, Some(ms(9_150)));
    assert_eq!(
        report.to_string(),
        "worst case: 3 attempts a call, 1.10 times the load while all fails, an answer within 9.15s"
    );
    let unbounded = client(|p| {
        p.retry_budget = None;
        p.retry =
            Some(RetryPolicy::builder().unlimited_attempts().deadline(ms(900)).build().unwrap());
        p.total_timeout = None;
    });
    let report = unbounded.report();
    assert_eq!((report.worst_attempts, report.amplification), (None, None));
}

#[cfg(feature = "serde")]
#[test]
fn plans_are_what_was_written() {
    let text = r#"{"name":"pay","total_timeout":5,"attempt_timeout":null,"rate_limit":{"quota":"10/s","max_wait":0.5}}"#;
    let plan: ClientPlan = serde_json::from_str(text).unwrap();
    assert_eq!((plan.total_timeout, plan.attempt_timeout), (Some(ms(5000)), None));
    assert_eq!(plan.rate_limit.unwrap().max_wait, ms(500));
    assert_eq!(plan.breaker, Some(BreakerPlan::default()));
    let again: ClientPlan = serde_json::from_value(serde_json::to_value(&plan).unwrap()).unwrap();
    assert_eq!(again, plan);
    let server = ServerPlan::default();
    assert_eq!(
        serde_json::from_value::<ServerPlan>(serde_json::to_value(&server).unwrap()).unwrap(),
        server
    );
    assert!(serde_json::from_str::<ClientPlan>(r#"{"retries":3}"#).is_err());
    assert!(serde_json::from_str::<ClientPlan>(r#"{"total_timeout":-1}"#).is_err());
}
