//! One scenario second by second, with the decisions of our stack.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::args::Args;
use crate::candidates::Candidate;
use crate::collapse::Collapse;
use crate::events::Heard;
use crate::run;
use crate::scenario::Scenario;

/// Where what is told of a second begins.
const INDENT: &str = "      ";

pub(crate) fn timeline(
    args: &Args,
    name: &str,
    candidate: &dyn Candidate,
) -> Result<String, String> {
    let collapse = Collapse::ALL.into_iter().find(|one| one.word().eq_ignore_ascii_case(name));
    let (name, what, plan) = match collapse {
        Some(collapse) => (collapse.name(), collapse.what(), collapse.plan()),
        None => {
            let scenario = Scenario::named(name)?;
            (scenario.name(), scenario.what(), scenario.plan(&args.shape))
        }
    };
    let mut out = format!("{name}, {}\n{what}\n", candidate.name());
    let _ = writeln!(
        out,
        "{:>4}{:>9}{:>9}{:>9}{:>8}{:>11}{:>7}{:>6}  client 0 says",
        "s", "offered", "attempts", "refused", "good", "in flight", "queue", "busy"
    );
    let (run, heard) = run::heard(&plan, candidate, 1);
    let mut heard = heard.iter().peekable();
    for (at, second) in run.tally.seconds[..plan.seconds].iter().enumerate() {
        let says = run.said.get(at).map_or("", String::as_str);
        let line = format!(
            "{at:>4}{:>9}{:>9}{:>9}{:>8}{:>11}{:>7}{:>6}  {says}",
            second.offered,
            second.attempts,
            second.refused,
            second.good,
            second.in_flight,
            second.queue,
            second.busy,
        );
        let _ = writeln!(out, "{}", line.trim_end());
        let end = (at as u64 + 1) * 1_000_000;
        tell(&mut out, args.events, std::iter::from_fn(|| heard.next_if(|one| one.at < end)));
    }
    // Of requests that do not count, and of answers that come late.
    if heard.peek().is_some() {
        out.push_str("later\n");
        tell(&mut out, args.events, heard);
    }
    Ok(out)
}

/// Changes of state one by one, everything else as numbers; with `all` everything one by one.
fn tell<'a>(out: &mut String, all: bool, events: impl Iterator<Item = &'a Heard>) {
    let mut numbers = BTreeMap::<String, u64>::new();
    for one in events {
        if all || one.is_change() {
            let _ = writeln!(out, "{INDENT}{one}");
        } else {
            *numbers.entry(one.group()).or_default() += 1;
        }
    }
    if !numbers.is_empty() {
        let numbers: Vec<String> =
            numbers.into_iter().map(|(group, count)| format!("{count} x {group}")).collect();
        let _ = writeln!(out, "{INDENT}{}", numbers.join(", "));
    }
}
