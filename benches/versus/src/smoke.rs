//! `--smoke`: no clock decides here. Every case runs and does what its name says; what promised not to
//! allocate does not.

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
            wrong.push(format!("{name}: {} of the calls were answered, expected {expected}", counts.answered));
        }
        if case.no_alloc && counts.allocations > 0.0 {
            wrong.push(format!("{name}: {} allocations a call, expected none", counts.allocations));
        }
    }
    for case in cases.iter().filter(|case| case.scales) {
        if let Err(line) = shared(case) {
            wrong.push(line);
        }
    }
    wrong
}

/// Two callers of one object at once do what one does.
fn shared(case: &Case) -> Result<(), String> {
    const CALLS: u64 = 50;
    let callers = (case.make)();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let mut runner = callers();
            std::thread::spawn(move || crate::runtime().block_on(runner.run(CALLS)))
        })
        .collect();
    let answered: u64 = threads.into_iter().map(|thread| thread.join().unwrap_or(u64::MAX / 4)).sum();
    let expected = if case.expect == Expect::Allowed { 2 * CALLS } else { 0 };
    if answered == expected {
        Ok(())
    } else {
        Err(format!("{}: two callers got {answered} answers, expected {expected}", case.name))
    }
}
