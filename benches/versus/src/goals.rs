//! What we set out to reach, beside what this run measured. Informs; never fails a run.

use crate::floor::{CAS, NOW};
use crate::report::{Results, number, table};

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

struct Goal {
    what: &'static str,
    unit: &'static str,
    bound: Bound,
    measured: Option<f64>,
}

/// One call in a few hundred may do something once: make a thread's number, read a clock at the start.
const SLACK: f64 = 0.005;

pub fn print(results: &Results) {
    let fast = cfg!(feature = "fast-clock");
    let goals = goals(results, fast);
    if goals.iter().all(|goal| goal.measured.is_none()) {
        return;
    }
    let unmeasured = goals.iter().filter(|goal| goal.measured.is_none()).count();
    let rows: Vec<Vec<String>> = goals
        .iter()
        .filter(|goal| goal.measured.is_some())
        .map(|goal| {
            let (bound, met) = match goal.bound {
                Bound::AtMost(bound) => {
                    (format!("<= {bound}"), goal.measured.map(|m| m <= bound + SLACK))
                }
                Bound::AtLeast(bound) => {
                    (format!(">= {bound}"), goal.measured.map(|m| m >= bound - SLACK))
                }
            };
            vec![
                goal.what.to_owned(),
                goal.unit.to_owned(),
                bound,
                number(goal.measured, 2),
                match met {
                    Some(true) => "met",
                    Some(false) => "NOT MET",
                    None => "not measured",
                }
                .to_owned(),
            ]
        })
        .collect();
    let clock = if fast { "with `fast-clock`" } else { "with tokio's clock" };
    println!("Goals, {clock}:\n");
    if unmeasured > 0 {
        println!("({unmeasured} more were not measured in this run)\n");
    }
    println!("{}", table(&["goal", "unit", "bound", "measured", "met"], &rows));
}

fn largest(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().flatten().reduce(f64::max)
}

fn smallest(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().flatten().reduce(f64::min)
}

const CONSECUTIVE: &str = "breaker/closed consecutive/us";
const COUNTS: [&str; 4] = [
    "breaker/closed count@10/us",
    "breaker/closed count@100/us",
    "breaker/closed count@1k/us",
    "breaker/closed count@100k/us",
];
const TIMES: [&str; 2] = ["breaker/closed time@100/us", "breaker/closed time@100k/us"];
const SLOW: [&str; 2] = ["breaker/closed count@100 slow/us", "breaker/closed time@100 slow/us"];
const CLONED: [&str; 3] = [
    "breaker/closed, cloned each call/us consecutive",
    "breaker/closed, cloned each call/us count@100",
    "breaker/closed, cloned each call/us time",
];
const OPEN: [&str; 2] = ["breaker/open/us typed", "breaker/open/us"];
const RECORD: [&str; 2] = ["budget/record@100/us", "budget/record@10M/us"];
const DIRECT: [&str; 2] = ["limit/direct allow/us", "limit/direct refuse/us"];

fn goals(results: &Results, fast: bool) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let cas = |name: &str| Some(results.timed.get(name)?.to_cas);
    let now = |name: &str| Some(results.timed.get(name)?.to_now);
    let instructions = |name: &str| results.instructions.get(name).copied();
    let allocations = |name: &str| Some(results.counts.get(name)?.allocations);
    let clock_reads = |name: &str| {
        let counts = results.counts.get(name)?;
        Some(counts.clock_reads + counts.counter_reads)
    };
    let threads = |name: &str| Some(results.scaled.get(name)?.threads);
    let workers = |name: &str| Some(results.scaled.get(name)?.workers);
    let both = |name: &str| smallest([threads(name), workers(name)]);
    let served = |mode: &str| {
        results.served.iter().find(|served| served.mode == mode).map(|served| served.to_plain)
    };
    let closed = || [CONSECUTIVE].into_iter().chain(COUNTS).chain(TIMES);
    let mut goals = Vec::new();
    let mut goal = |what, unit, bound, measured| goals.push(Goal { what, unit, bound, measured });

    if fast {
        goal("breaker closed, worst window", "CAS", AtMost(4.0), largest(closed().map(cas)));
        goal("breaker open, refusing", "CAS", AtMost(1.6), largest(OPEN.map(cas)));
        goal(
            "limiter direct, allow, of governor",
            "ratio",
            AtMost(1.1),
            results.times(DIRECT[0], "limit/direct allow/governor"),
        );
        goal(
            "limiter direct, refuse, of governor",
            "ratio",
            AtMost(1.1),
            results.times(DIRECT[1], "limit/direct refuse/governor"),
        );
    } else {
        goal(
            "breaker closed, worst window",
            "clock reads",
            AtMost(2.2),
            largest(closed().map(now)),
        );
        goal("breaker closed, slow calls on", "clock reads", AtMost(3.2), largest(SLOW.map(now)));
        goal("limiter direct, allow and refuse", "CAS", AtMost(5.5), largest(DIRECT.map(cas)));
    }
    let spread = |names: &[&str]| {
        let all = || names.iter().map(|name| instructions(name));
        Some(largest(all())? / smallest(all())?)
    };
    goal(
        "breaker, instructions over count windows",
        "largest/smallest",
        AtMost(1.2),
        spread(&COUNTS),
    );
    goal("breaker, instructions over time fills", "largest/smallest", AtMost(1.2), spread(&TIMES));
    goal(
        "breaker, tower-resilience's count@10 over ours",
        "ratio",
        AtLeast(9.0),
        results.times("breaker/closed count@10/tower-resilience", COUNTS[0]),
    );
    goal(
        "breaker, count and consecutive, reads",
        "clock reads",
        AtMost(0.0),
        largest([CONSECUTIVE].into_iter().chain(COUNTS).map(clock_reads)),
    );
    goal(
        "breaker consecutive, of recloser's service",
        "ratio",
        AtMost(1.0),
        results.times(CONSECUTIVE, "breaker/closed count@100/recloser"),
    );
    goal(
        "breaker count, of recloser's service",
        "ratio",
        AtMost(1.0),
        results.times(COUNTS[1], "breaker/closed count@100/recloser"),
    );
    goal("breaker, two, one clone each: default", "calls/s ratio", AtLeast(1.8), both(CONSECUTIVE));
    goal("breaker, two, one clone each: time", "calls/s ratio", AtLeast(1.8), both(TIMES[1]));
    goal("breaker, two, one clone each: count", "calls/s ratio", AtLeast(0.7), both(COUNTS[1]));
    goal("breaker, two, cloned each call: default", "calls/s ratio", AtLeast(1.0), both(CLONED[0]));
    goal("breaker, two, cloned each call: time", "calls/s ratio", AtLeast(1.0), both(CLONED[2]));
    goal("breaker cloned each call", "CAS", AtMost(6.0), largest([CLONED[0], CLONED[2]].map(cas)));
    // Into a `BoxError`, the default, a refusal has to allocate the box.
    goal("breaker open, refusing, typed error", "allocations", AtMost(0.0), allocations(OPEN[0]));
    goal("breaker open, refusing", "clock reads", AtMost(1.0), largest(OPEN.map(clock_reads)));

    goal(
        "keyed at 10k keys, of governor",
        "ratio",
        AtMost(0.7),
        results.times("keyed/allow@10k/us", "keyed/allow@10k/governor"),
    );
    goal(
        "keyed at 1M keys, of governor",
        "ratio",
        AtMost(0.5),
        results.times("keyed/allow@1M/us", "keyed/allow@1M/governor"),
    );
    let per_key = results
        .memory
        .iter()
        .filter(|line| line.name.starts_with("us") && line.keys >= 1_000_000)
        .map(|line| Some(line.bytes as f64 / line.keys as f64));
    goal("keyed, a u64 key", "bytes", AtMost(36.0), largest(per_key));
    goal(
        "keyed at 10k keys, two threads",
        "calls/s ratio",
        AtLeast(1.5),
        threads("keyed/allow@10k/us"),
    );

    goal(
        "retry success, of tower's Retry",
        "ratio",
        AtMost(1.5),
        results.times("retry/success/us", "retry/success/tower"),
    );
    goal(
        "retry with budget, of tower + TpsBudget",
        "ratio",
        AtMost(0.4),
        results.times("retry/success, budget/us", "retry/success, budget/tower + TpsBudget"),
    );
    goal(
        "retry with budget, two threads",
        "calls/s ratio",
        AtLeast(0.9),
        threads("retry/success, budget/us"),
    );

    let floor = (|| Some(results.timed.get(NOW)?.ns + results.timed.get(CAS)?.ns))();
    let record = |case: &str| Some(results.timed.get(case)?.ns / floor?);
    goal("failure budget, record", "clock read + CAS", AtMost(1.3), largest(RECORD.map(record)));
    goal(
        "failure budget, record, after 10 M over after 100",
        "ratio",
        AtMost(1.2),
        results.times(RECORD[1], RECORD[0]),
    );
    goal("failure budget, record", "allocations", AtMost(0.0), largest(RECORD.map(allocations)));
    let off = |case: &str| {
        let empty = results.timed.get("fault/off/empty layer")?;
        Some((results.timed.get(case)?.ns - empty.ns) / results.timed.get(CAS)?.ns)
    };
    goal("conditioner off, over an empty layer", "CAS", AtMost(0.5), off("fault/off/us"));
    goal(
        "conditioner, empty slot, over an empty layer",
        "CAS",
        AtMost(0.5),
        off("fault/off/us, empty slot"),
    );
    goal("conditioner off", "allocations", AtMost(0.0), allocations("fault/off/us"));

    let stack = "stack/success/us";
    goal(
        "default client stack, of tower's stack of 5",
        "ratio",
        AtMost(if fast { 0.25 } else { 0.4 }),
        results.times(stack, crate::peers::stack::TOWER),
    );
    goal("default client stack", "clock reads", AtMost(1.0), clock_reads(stack));
    goal("default client stack", "allocations", AtMost(0.0), allocations(stack));
    let later = "stack/success, later/us";
    goal("the same, answered later", "clock reads", AtMost(1.0), clock_reads(later));
    goal("the same, answered later", "allocations", AtMost(0.0), allocations(later));
    let http = "stack/success, http/us";
    goal("the same, of HTTP", "allocations", AtMost(0.0), allocations(http));

    let over_identity = |of: fn(&str, &Results) -> Option<f64>| {
        Some(of("http/answer/us stack of 3", results)? - of("http/answer/identity", results)?)
    };
    goal(
        "stack of 3 in axum, over an identity layer",
        "ns",
        AtMost(80.0),
        over_identity(|name, results| Some(results.timed.get(name)?.ns)),
    );
    goal(
        "stack of 3 in axum, over an identity layer",
        "allocations",
        AtMost(0.0),
        over_identity(|name, results| Some(results.counts.get(name)?.allocations)),
    );
    let refusal = |mode: &str| results.times(&format!("http/refuse/{mode}"), "http/answer/plain");
    goal(
        "refusing over HTTP, problem(), of a plain 200",
        "ratio",
        AtMost(1.0),
        refusal("us refusing"),
    );
    goal(
        "refusing over HTTP, status_only(), of a plain 200",
        "ratio",
        AtMost(1.0),
        refusal("us refusing, status only"),
    );
    let post = "idem/post/identity";
    goal(
        "idempotent replay in axum, of a POST behind identity",
        "ratio",
        AtMost(1.6),
        results.times("idem/replay/us", post),
    );
    goal(
        "idempotent fresh key in axum, of the same",
        "ratio",
        AtMost(2.6),
        results.times("idem/fresh@1k/us", post),
    );
    goal(
        "idempotent fresh key, 1M held over 10 held",
        "ratio",
        AtMost(1.2),
        results.times("idem/fresh@1M/us", "idem/fresh@10/us"),
    );
    const HELD: [&str; 4] =
        ["idem/fresh@10/us", "idem/fresh@1k/us", "idem/fresh@10k/us", "idem/fresh@100k/us"];
    goal(
        "idempotent fresh key, instructions, 10 to 100k held",
        "largest/smallest",
        AtMost(1.2),
        spread(&HELD),
    );
    let without_key =
        |who: &str| Some(results.counts.get(&format!("idem/post without key/{who}"))?.allocations);
    goal(
        "idempotent layer, no key, over an identity layer",
        "allocations",
        AtMost(0.0),
        (|| Some(without_key("us")? - without_key("identity")?))(),
    );
    let posted = |mode: &str| {
        results.posted.iter().find(|served| served.mode == mode).map(|served| served.cpu_to_plain)
    };
    goal(
        "under wrk, replays, of a POST behind identity",
        "cpu ratio",
        AtMost(1.6),
        posted("us replay"),
    );
    goal("under wrk, fresh keys, of the same", "cpu ratio", AtMost(2.6), posted("us fresh"));
    let completed = |of: fn(&crate::stores::Line) -> f64| {
        let mut lines = results.stores.iter();
        let wanted = |line: &&crate::stores::Line| {
            line.store == "file" && line.operation == "complete" && line.callers == 64
        };
        lines.find(wanted).map(of)
    };
    goal(
        "file store, 64 callers, durable completions",
        "1/s",
        AtLeast(20_000.0),
        completed(|line| line.per_second),
    );
    // Where a disk syncs 6,200 times a second, which is the faster one of those that the goal is from.
    goal(
        "file store, 64 callers, completions for one bare fdatasync",
        "ratio",
        AtLeast(3.2),
        completed(|line| line.to_bare),
    );
    goal(
        "under wrk, the stack, of plain",
        "requests/s ratio",
        AtLeast(0.97),
        served("us stack of 3"),
    );
    goal("under wrk, refusing, of plain", "requests/s ratio", AtLeast(1.0), served("us refusing"));
    goals
}
