//! Every interleaving of two threads that make a breach, and of a breach with what undoes it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use crate::clock::Tick;

use super::FailureBudget;
use super::config::Parts;
use super::core::Core;
use super::settings::Words;
use super::shared::Levers;
use super::state::BudgetState;

const NOW: Tick = Tick(1 << 50);
const LATER: Tick = Tick((1 << 50) + 31_000_000_000);

fn core(samples: u32) -> Arc<Core> {
    let builder = FailureBudget::builder("t").min_samples(samples);
    let Parts { config, .. } = builder.into_parts().unwrap();
    Arc::new(Core::new(config, 1, NOW))
}

#[test]
fn loom_a_breach_of_two_threads_is_made_once_and_not_missed() {
    // All interleavings take minutes; two interruptions find what there is to find.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let core = core(2);
        let other = Arc::clone(&core);
        let thread = thread::spawn(move || other.record(NOW, true, true).is_some());
        let here = core.record(NOW, true, true).is_some();
        let there = thread.join().unwrap();
        assert!(here != there, "one of them");
        assert_eq!(core.state(), BudgetState::Breached);
        assert_eq!(core.totals(NOW).calls, 2);
    });
}

#[test]
fn loom_a_reset_is_not_undone_by_a_judgement_of_before() {
    loom::model(|| {
        let core = core(1);
        core.record(NOW, true, true);
        let other = Arc::clone(&core);
        // Judges what the reset throws away.
        let thread = thread::spawn(move || other.judge(LATER));
        core.reset(LATER);
        thread.join().unwrap();
        assert_eq!(core.state(), BudgetState::Healthy);
        assert_eq!(core.totals(LATER).calls, 0);
    });
}

#[test]
fn loom_no_call_is_lost_while_a_page_is_turned() {
    loom::model(|| {
        let core = core(100);
        core.record(NOW, false, true);
        let other = Arc::clone(&core);
        let thread = thread::spawn(move || {
            other.record(NOW, false, true);
        });
        core.record(LATER, false, true);
        thread.join().unwrap();
        assert_eq!(core.stats().samples, 3);
    });
}

#[test]
fn loom_levers_end_as_the_last_change_wants() {
    loom::model(|| {
        let held = Arc::new(AtomicU32::new(0));
        // A panic in the lever would be caught.
        let twice = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (lever, seen) = (Arc::clone(&held), std::sync::Arc::clone(&twice));
        let levers = Arc::new(Levers::new(vec![std::sync::Arc::new(move |on: bool| {
            // Engaged when it was, or released when it was not.
            if lever.swap(u32::from(on), Ordering::SeqCst) == u32::from(on) {
                seen.store(true, Ordering::SeqCst);
            }
        })]));
        let wanted = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let (other, want) = (Arc::clone(&levers), Arc::clone(&wanted));
        let thread = thread::spawn(move || {
            want.store(true, Ordering::SeqCst);
            other.settle(|| want.load(Ordering::SeqCst));
        });
        wanted.store(false, Ordering::SeqCst);
        levers.settle(|| wanted.load(Ordering::SeqCst));
        thread.join().unwrap();
        let end = u32::from(wanted.load(Ordering::SeqCst));
        assert_eq!(held.load(Ordering::SeqCst), end);
        assert!(!twice.load(Ordering::SeqCst));
    });
}

/// What is read while it is written is one thing or the other.
#[test]
fn loom_settings_are_read_as_a_whole() {
    loom::model(|| {
        let words = Arc::new(Words::new([1, 1]));
        let other = Arc::clone(&words);
        let reader = thread::spawn(move || match other.read() {
            None | Some([1, 1] | [2, 2]) => {}
            torn => panic!("{torn:?}"),
        });
        words.write([2, 2]);
        reader.join().unwrap();
        assert_eq!(words.read(), Some([2, 2]));
    });
}

/// A failure that is judged beside a change goes by the old settings or by the new; if either of them makes
/// a breach of what there is in the end, there is one.
#[test]
fn loom_a_failure_beside_a_change_is_judged_by_one_or_the_other() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let core = core(2);
        let other = Arc::clone(&core);
        let thread = thread::spawn(move || other.record(NOW, true, true));
        let builder = FailureBudget::builder("t").min_samples(1).threshold(0.5);
        let config = builder.into_config().unwrap();
        let here = core.reconfigure(config, NOW).unwrap();
        let there = thread.join().unwrap();
        let breaches: Vec<_> = [here, there].into_iter().flatten().collect();
        if breaches.is_empty() {
            // Both were too early for the other: the next call looks.
            assert!(core.record(NOW, false, true).is_some());
        } else {
            assert_eq!(breaches.len(), 1);
            assert_eq!(breaches[0].breach.unwrap().threshold, 0.5, "one of two says nothing");
        }
        assert_eq!(core.state(), BudgetState::Breached);
    });
}
