//! `--smoke`: no clock decides here. Every case runs and does what its name says; what promised not to
//! allocate does not.

use std::sync::mpsc;
use std::time::Duration;

use crate::case::{Case, Expect};
use crate::counted;

/// What is wrong, one line each.
pub fn run(cases: &[Case], filter: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let counts = counted::run(filter);
    if counts.is_empty() {
        wrong.push("versus-count gave no counts".to_owned());
    }
    for case in cases {
        let name = &case.name;
        let Some(counts) = counts.get(name) else {
            wrong.push(format!("{name}: not counted"));
            continue;
        };
        let expected = match case.expect {
            Expect::Allowed => 1.0,
            Expect::Refused => 0.0,
        };
        if counts.answered != expected {
            wrong.push(format!(
                "{name}: {} of the calls were answered, expected {expected}",
                counts.answered
            ));
        }
        if case.no_alloc && counts.allocations > 0.0 {
            wrong.push(format!("{name}: {} allocations a call, expected none", counts.allocations));
        }
    }
    let mut asked = Vec::new();
    for who in cases.iter().filter_map(idempotent) {
        if !asked.contains(&who) {
            asked.push(who);
            wrong.extend(crate::idem::wrong(who));
        }
    }
    for case in cases.iter().filter(|case| case.scales) {
        if let Err(line) = shared(case) {
            // A peer may be as it is; it is named, but only we can be wrong here.
            if case.ours() { wrong.push(line) } else { eprintln!("{line}") }
        }
    }
    wrong
}

/// Whose HTTP layer a case of idempotency is about.
fn idempotent(case: &Case) -> Option<&str> {
    let what = case.name.strip_prefix("idem/")?;
    what.split_once('/').filter(|(what, _)| !what.starts_with("gate")).map(|(_, who)| who)
}

/// Two callers of one object at once do what one does.
fn shared(case: &Case) -> Result<(), String> {
    const CALLS: u64 = 50;
    let callers = (case.make)();
    let (done, answers) = mpsc::channel();
    for _ in 0..2 {
        let mut runner = callers();
        let done = done.clone();
        std::thread::spawn(move || done.send(crate::runtime().block_on(runner.run(CALLS))));
    }
    let mut answered = 0;
    for _ in 0..2 {
        answered += answers
            .recv_timeout(Duration::from_secs(10))
            .map_err(|_| format!("{}: a caller of two is stuck or has panicked", case.name))?;
    }
    let expected = if case.expect == Expect::Allowed { 2 * CALLS } else { 0 };
    if answered == expected {
        Ok(())
    } else {
        Err(format!("{}: two callers got {answered} answers, expected {expected}", case.name))
    }
}
