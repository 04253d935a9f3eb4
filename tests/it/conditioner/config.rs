//! What is refused, and by which name.

use std::time::Duration;

use buttress::ConfigError;
use buttress::conditioner::{
    ArmError, Conditioner, ConditionerBuilder, Fault, Latency, Matcher, Plan, Rule, Schedule,
};

use super::ms;

fn build(
    f: impl FnOnce(ConditionerBuilder) -> ConditionerBuilder,
) -> Result<Conditioner, ConfigError> {
    f(Conditioner::builder("test")).build()
}

fn refused_rule(rule: Rule) -> String {
    let good = Rule::new(Fault::loss());
    build(|b| b.rule(good).rule(rule)).unwrap_err().field().to_owned()
}

#[test]
fn a_bad_rule_is_named_by_its_number_and_field() {
    let rule = |fault| Rule::new(fault);
    let loss = || Rule::new(Fault::loss());
    let day = Duration::from_secs(24 * 3600);
    for (bad, field) in [
        (loss().share(-0.1), "rules[1].share"),
        (loss().share(1.01), "rules[1].share"),
        (loss().share(f64::NAN), "rules[1].share"),
        (loss().max_active(0), "rules[1].max_active"),
        (rule(Fault::status(42)), "rules[1].status"),
        (rule(Fault::status(101)), "rules[1].status"),
        (rule(Fault::grpc(0, "")), "rules[1].grpc"),
        (rule(Fault::grpc(17, "")), "rules[1].grpc"),
        (rule(Fault::hang_for(Duration::ZERO)), "rules[1].hang_for"),
        (rule(Fault::hang_for(day * 2)), "rules[1].hang_for"),
        (rule(Fault::slow_body(Duration::ZERO)), "rules[1].slow_body"),
        (rule(Fault::bandwidth(0)), "rules[1].bandwidth"),
        (rule(Fault::corrupt_body(0)), "rules[1].corrupt_body"),
        (loss().matching(Matcher::method("")), "rules[1].method"),
        (loss().matching(Matcher::method("G T")), "rules[1].method"),
        (loss().matching(Matcher::path("a")), "rules[1].path"),
        (loss().matching(Matcher::path("/a?b")), "rules[1].path"),
        (loss().matching(Matcher::has_header("a b")), "rules[1].header"),
        (loss().matching(!Matcher::header("", "x")), "rules[1].header"),
        (loss().matching(Matcher::token("x-token", "short")), "rules[1].token"),
        (loss().matching(Matcher::all([])), "rules[1].matcher"),
        (loss().matching(Matcher::any_of([Matcher::path("a")])), "rules[1].path"),
        (loss().during(Schedule::always().period(Duration::ZERO)), "rules[1].schedule.period"),
        (loss().during(Schedule::always().start(ms(2)).end(ms(1))), "rules[1].schedule.end"),
    ] {
        let shown = format!("{bad:?}");
        assert_eq!(refused_rule(bad), field, "{shown}");
    }
    assert!(build(|b| b.rule(loss().share(0.0)).rule(loss().share(1.0))).is_ok());
}

#[test]
fn a_bad_setting_is_named() {
    let loss = || Rule::new(Fault::loss());
    let field = |f: fn(ConditionerBuilder) -> ConditionerBuilder| {
        build(|b| f(b.rule(Rule::new(Fault::loss())))).unwrap_err().field().to_owned()
    };
    assert_eq!(build(|b| b).unwrap_err().field(), "rules");
    assert_eq!(build(|b| b.rules((0..257).map(|_| loss()))).unwrap_err().field(), "rules");
    assert_eq!(field(|b| b.max_share(0.0)), "max_share");
    assert_eq!(field(|b| b.max_share(f64::NAN)), "max_share");
    assert_eq!(field(|b| b.max_share(1.5)), "max_share");
    assert_eq!(field(|b| b.allow_in(Vec::<String>::new())), "allow_in");
    assert_eq!(field(|b| b.record(0)), "record");
    assert_eq!(field(|b| b.opt_in("x-token", "short")), "opt_in.token");
    assert_eq!(field(|b| b.opt_in("x token", "long enough")), "opt_in.header");
    assert!(build(|b| b.replay(Plan::default())).is_ok(), "a plan needs no rules");
    let network = |latency, jitter, loss| {
        Conditioner::network(latency, jitter, loss, None)
            .map(drop)
            .map_err(|e| e.field().to_owned())
    };
    let two_days = Duration::from_secs(2 * 24 * 3600);
    for loss in [-0.5, 2.0, f64::NAN, f64::INFINITY] {
        assert_eq!(network(ms(0), ms(0), loss), Err("loss".to_owned()));
    }
    assert_eq!(network(two_days, ms(0), 0.0), Err("latency".to_owned()));
    assert_eq!(network(ms(0), Duration::MAX, 0.0), Err("jitter".to_owned()));
    assert_eq!(network(ms(0), ms(0), 0.0), Ok(()));
}

#[test]
fn a_bad_law_is_named() {
    let field = |law: Result<Latency, ConfigError>| law.unwrap_err().field().to_owned();
    assert_eq!(field(Latency::fixed(Duration::MAX)), "latency");
    assert_eq!(field(Latency::normal(Duration::MAX, ms(0))), "mean");
    assert_eq!(field(Latency::normal(ms(0), Duration::MAX)), "deviation");
    assert_eq!(field(Latency::lognormal(ms(0), 1.0)), "median");
    assert_eq!(field(Latency::lognormal(ms(1), f64::NAN)), "sigma");
    assert_eq!(field(Latency::pareto(ms(0), 1.0)), "least");
    assert_eq!(field(Latency::pareto(ms(1), 0.0)), "shape");
    assert_eq!(field(Latency::fixed(ms(1)).unwrap().at_most(ms(0))), "at_most");
}

#[test]
fn it_arms_only_where_it_is_allowed() {
    let allowed = |f: fn(ConditionerBuilder) -> ConditionerBuilder| {
        let rule = Rule::new(Fault::loss());
        let here = build(|b| f(b.rule(rule).allow_in(["test", "buttress"]))).unwrap();
        let armed = here.arm();
        assert_eq!(here.is_injecting(), armed.is_ok());
        armed
    };
    let refused = |found: Option<&str>| {
        let allowed = vec!["test".to_owned(), "buttress".to_owned()];
        Err(ArmError::Environment { found: found.map(str::to_owned), allowed })
    };
    assert_eq!(allowed(|b| b.environment("test")), Ok(()));
    assert_eq!(allowed(|b| b.environment("production")), refused(Some("production")));
    assert_eq!(allowed(|b| b.environment("Test")), refused(Some("Test")));
    assert_eq!(allowed(|b| b), refused(None));
    assert_eq!(allowed(|b| b.environment_from("BUTTRESS_NOT_SET")), refused(None));
    // Tests cannot set a variable, but some are set.
    let (name, value) = std::env::vars().find(|(_, value)| !value.is_empty()).unwrap();
    let from = |value: String| {
        let rule = Rule::new(Fault::loss());
        build(|b| b.rule(rule).allow_in([value]).environment_from(name.clone())).unwrap().arm()
    };
    assert_eq!(from(value.clone()), Ok(()));
    let Err(ArmError::Environment { found, .. }) = from(format!("{value}, not")) else {
        panic!("armed in another environment");
    };
    assert_eq!(found, Some(value));
    let message = refused(None).unwrap_err().to_string();
    assert_eq!(message, "faults are allowed in `test`, `buttress`, and nothing says what this is");
}

#[cfg(feature = "serde")]
mod files {
    use super::*;
    use buttress::conditioner::{Call, FaultKind};

    #[test]
    fn rules_can_be_read_from_a_file() {
        let rules: Vec<Rule> = serde_json::from_str(
            r#"[
                {"fault": {"latency": {"pareto": {"least": 0.005, "shape": 1.5, "at_most": 2}}},
                 "share": 0.1, "matching": {"all": [{"method": "GET"}, {"not": {"path": "/health"}}]},
                 "during": {"start": 10, "end": 70, "ramp": 5, "period": 120}, "max_active": 20},
                {"fault": "loss", "matching": {"token": {"header": "x-t", "secret": "long enough"}}},
                {"fault": {"error": {"kind": "timed_out", "message": "late"}}},
                {"fault": {"grpc": {"code": 14, "message": "later"}}},
                {"fault": {"hang_for": 1.5}}, {"fault": {"truncate_body": 10}}
            ]"#,
        )
        .unwrap();
        let conditioner = Conditioner::builder("file").rules(rules).build().unwrap();
        let kinds: Vec<_> = conditioner.stats().rules.iter().map(|rule| rule.fault).collect();
        use FaultKind as K;
        assert_eq!(kinds, [K::Latency, K::Loss, K::Error, K::Grpc, K::Hang, K::TruncatedBody]);
    }

    #[test]
    fn a_bad_file_says_what_was_expected() {
        let error = |text: &str| serde_json::from_str::<Rule>(text).unwrap_err().to_string();
        for (text, parts) in [
            (r#"{"fault": "loss", "share": 2}"#, &["share", "2", "from 0 to 1"][..]),
            (r#"{"fault": {"status": 42}}"#, &["status", "42", "200"]),
            (r#"{"fault": {"explode": 1}}"#, &["explode", "latency"]),
            (r#"{"fault": "loss", "shares": 1}"#, &["shares", "share"]),
            (r#"{"fault": {"error": {"kind": "odd", "message": ""}}}"#, &["odd", "timed_out"]),
            (r#"{"fault": {"latency": {"fixed": -1}}}"#, &["fixed", "-1", "at least 0"]),
            (r#"{"fault": "loss", "during": {"start": 5, "end": 1}}"#, &["schedule.end", "after"]),
            (r#"{"fault": "loss", "matching": {"path": "x"}}"#, &["path", "`/`"]),
        ] {
            let said = error(text);
            for part in parts {
                assert!(said.contains(part), "{said:?} does not say {part:?}");
            }
        }
        let secret =
            error(r#"{"fault": "loss", "matching": {"token": {"header": "x", "secret": "hush"}}}"#);
        assert!(!secret.contains("hush"), "{secret}");
    }

    #[test]
    fn a_written_plan_keeps_the_kinds_of_errors() {
        use std::io::ErrorKind as K;
        for kind in [
            K::WouldBlock,
            K::NotADirectory,
            K::IsADirectory,
            K::DirectoryNotEmpty,
            K::ReadOnlyFilesystem,
            K::StaleNetworkFileHandle,
            K::WriteZero,
            K::NotSeekable,
            K::QuotaExceeded,
            K::FileTooLarge,
            K::ResourceBusy,
            K::ExecutableFileBusy,
            K::Deadlock,
            K::CrossesDevices,
            K::TooManyLinks,
            K::InvalidFilename,
            K::ArgumentListTooLong,
            K::Interrupted,
            K::ConnectionRefused,
        ] {
            let run = |conditioner: &Conditioner| {
                conditioner.arm().unwrap();
                let why = conditioner.apply_blocking(&Call::new().id(1)).unwrap_err();
                let source = std::error::Error::source(&why).unwrap();
                source.downcast_ref::<std::io::Error>().unwrap().kind()
            };
            let rule = Rule::new(Fault::error(kind, "no"));
            let first = Conditioner::builder("a").rule(rule).record(1).build().unwrap();
            assert_eq!(run(&first), kind);
            let text = serde_json::to_string(&first.plan()).unwrap();
            let plan = serde_json::from_str(&text).unwrap();
            let again = Conditioner::builder("a").replay(plan).build().unwrap();
            assert_eq!(run(&again), kind, "{text}");
        }
    }

    #[test]
    fn a_plan_survives_being_written_down() {
        let faults = [
            Fault::latency(Latency::lognormal(ms(3), 1.0).unwrap()),
            Fault::loss(),
            Fault::error(std::io::ErrorKind::BrokenPipe, "gone"),
            Fault::status(503),
            Fault::grpc(4, "late"),
            Fault::hang_for(ms(5)),
            Fault::reply_lost(),
        ];
        let rules = faults.map(|fault| Rule::new(fault).share(0.2));
        let first = Conditioner::builder("a").rules(rules).record(1000).seed(9).build().unwrap();
        first.arm().unwrap();
        let run = |conditioner: &Conditioner| -> Vec<String> {
            (0..200)
                .map(|id| {
                    let mut slept = Vec::new();
                    let call = Call::new().id(id);
                    let result = conditioner.apply_blocking_with(|time| slept.push(time), &call);
                    let result = result.and_then(|applied| applied.after(()));
                    let source = result.map_err(|e| format!("{:?}", std::error::Error::source(&e)));
                    format!("{slept:?} {source:?}")
                })
                .collect()
        };
        let seen = run(&first);
        let text = serde_json::to_string(&first.plan()).unwrap();
        let plan: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&plan).unwrap(), text);
        let again = Conditioner::builder("a").replay(plan).build().unwrap();
        again.arm().unwrap();
        assert_eq!(run(&again), seen);
        assert!(seen.iter().collect::<std::collections::HashSet<_>>().len() > 20, "dull: {seen:?}");
        assert!(
            serde_json::from_str::<Plan>(
                r#"{"decisions": [{"call": {"id": 1}, "rule": 300, "fault": "loss"}]}"#
            )
            .is_err()
        );
    }
}
