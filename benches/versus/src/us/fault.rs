//! Our failure budget, and our conditioner while it injects nothing.

use buttress::AsTyped;
use buttress::Slot;
use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule};
use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
use tower::Layer;

use crate::case::{Callers, Case, Expect, Hold, direct, fill, numbers};
use crate::floor::Answer;

/// One failure in a hundred: within the budget, so that every call goes the way of every day.
fn recorded(history: u64) -> Callers {
    let budget = FailureBudget::new("api");
    for n in 0..history {
        budget.record(n % 100 == 99);
    }
    direct(budget, |budget| {
        let budget = budget.clone();
        move || {
            budget.record(false);
            true
        }
    })
}

fn layered(slot: Slot<FailureBudget>, hold: Hold) -> Callers {
    let service = FailureBudgetLayer::from_slot(slot).layer(Answer);
    fill(&service, 100);
    numbers(service, hold)
}

/// The layer as it is by default.
fn conditioned(slot: Slot<Conditioner>, hold: Hold) -> Callers {
    numbers(ConditionerLayer::from_slot(slot).layer(Answer), hold)
}

/// With the error type of the call kept.
fn conditioned_typed(slot: Slot<Conditioner>) -> Callers {
    numbers(ConditionerLayer::from_slot(slot).on_reject(AsTyped).layer(Answer), Hold::Reuse)
}

fn disarmed() -> Conditioner {
    let rule = Rule::new(Fault::loss()).share(0.01);
    Conditioner::builder("api").rule(rule).build().expect("a valid configuration")
}

pub(super) fn cases() -> Vec<Case> {
    use Hold::{CloneEach, Reuse};
    let case = |name: &str, make: fn() -> Callers| {
        Case::new(name, Expect::Allowed, make).no_alloc().scales()
    };
    vec![
        case("budget/record@100/us", || recorded(100)),
        case("budget/record@10M/us", || recorded(10_000_000)).not_emulated(),
        case("budget/layer/us", || layered(Slot::with(FailureBudget::new("api")), Reuse)),
        case("budget/layer/us, cloned each call", || {
            layered(Slot::with(FailureBudget::new("api")), CloneEach)
        }),
        case("budget/layer/us, empty slot", || layered(Slot::new(), Reuse))
            .against("fault/off/empty layer"),
        case("fault/off/us", || conditioned(Slot::with(disarmed()), Reuse))
            .against("fault/off/empty layer"),
        case("fault/off/us typed", || conditioned_typed(Slot::with(disarmed())))
            .against("fault/off/empty layer"),
        case("fault/off/us, empty slot", || conditioned(Slot::new(), Reuse))
            .against("fault/off/empty layer"),
        case("fault/off/us, cloned each call", || conditioned(Slot::with(disarmed()), CloneEach))
            .against("fault/off/empty layer"),
    ]
}
