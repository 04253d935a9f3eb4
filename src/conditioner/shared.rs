use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
// The gate and the counters guard no memory, so they are not part of the loom model.
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Tick};
use crate::injected::{FaultKind, Injected};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::rejection::{Rejection, RejectionKind};
use crate::slot::{Made, Slot};
use crate::sync::{Mutex, Padded, lock};

use super::arm::Permission;
use super::call::Call;
use super::core::Core;
use super::fault::{Act, Cause};
use super::injection::{Held, Injection};
use super::plan::{CallKey, Entry, Plan, Replay};
use super::schedule::Schedule;
use super::stats::{ConditionerStats, RuleStats};

/// What a conditioner goes by until it is given other settings, and what is counted by it.
pub(super) struct Rules {
    pub(super) core: Core,
    pub(super) replay: Option<Replay>,
    pub(super) permission: Permission,
    /// They came where they are not allowed. Nobody can be kept from looking at the gate just before it was closed.
    pub(super) barred: AtomicBool,
    pub(super) cap: Option<Padded<Cap>>,
    pub(super) tallies: Box<[Padded<Tally>]>,
    pub(super) recorder: Option<Recorder>,
}

impl Rules {
    pub(super) fn new(
        core: Core,
        replay: Option<Replay>,
        permission: Permission,
        cap: Option<Cap>,
        recorder: Option<Recorder>,
    ) -> Self {
        let tallies = core.rules.iter().map(|_| Padded(Tally::default())).collect();
        let (cap, barred) = (cap.map(Padded), AtomicBool::new(false));
        Self { core, replay, permission, barred, cap, tallies, recorder }
    }
}

impl Rules {
    fn record(&self, call: CallKey, rule: u32, act: &Act) {
        let Some(recorder) = &self.recorder else { return };
        let mut plan = lock(&recorder.plan);
        if plan.entries.len() < recorder.limit {
            plan.entries.push(Entry { call, rule, act: act.clone() });
        } else {
            plan.missing += 1;
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.rules.fmt(f)
    }
}

/// The rules in force.
pub(super) struct Current {
    slot: Slot<Arc<Rules>>,
    /// The same, so that threads do not meet.
    known: Made<Option<Arc<Rules>>>,
    /// Those of the beginning.
    first: Arc<Rules>,
}

impl Current {
    pub(super) fn new(rules: Rules) -> Self {
        let first = Arc::new(rules);
        Self { slot: Slot::new(), known: Made::new(), first }
    }

    pub(super) fn get(&self) -> Arc<Rules> {
        let (_, rules) = self.known.of(&self.slot, |rules| rules);
        rules.unwrap_or_else(|| Arc::clone(&self.first))
    }

    pub(super) fn install(&self, rules: Rules) {
        self.slot.install(Arc::new(rules));
    }
}

/// Everything clones of one conditioner share.
pub(super) struct Shared {
    /// Zero: injects. Otherwise why not: see the constants.
    pub(super) gate: Padded<AtomicU32>,
    pub(super) name: Name,
    pub(super) rules: Current,
    pub(super) observers: Observers,
    pub(super) armed_at: AtomicU64,
    /// Told when the gate closes.
    pub(super) closed: Notify,
    pub(super) seen: Padded<AtomicU64>,
    pub(super) injected: AtomicU64,
}

pub(super) const DISARMED: u32 = 1 << 31;
pub(super) const KILLED: u32 = 1 << 30;
/// Disarmed because nobody has it, and by nobody: see [`Conditioner::wake`](super::Conditioner).
pub(super) const RESTING: u32 = 1 << 29;
/// The bits of the count.
pub(super) const HELD: u32 = RESTING - 1;

#[derive(Default)]
pub(super) struct Tally {
    matched: AtomicU64,
    /// Numbers the calls without an id.
    counter: AtomicU64,
    injected: AtomicU64,
    skipped_active: AtomicU64,
    skipped_cap: AtomicU64,
    unsupported: AtomicU64,
    pub(super) active: AtomicU32,
}

pub(super) struct Recorder {
    pub(super) limit: usize,
    pub(super) plan: Mutex<Plan>,
}

/// Bounds the share of calls that are touched. Each call seen earns `share`, a touched one costs 1; what
/// is earned is kept up to ten, so on every stretch of traffic: touched ≤ share × seen + 10.
pub(super) struct Cap {
    pub(super) share: u64,
    credit: AtomicU64,
}

impl Cap {
    const ONE: u64 = 1 << 32;
    const MOST: u64 = 10 * Self::ONE;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share from 0 to 1"
    )]
    pub(super) fn new(share: f64) -> Self {
        Self { share: (share * Self::ONE as f64) as u64, credit: AtomicU64::new(0) }
    }

    pub(super) fn earn(&self) {
        let earn = |credit: u64| Some((credit + self.share).min(Self::MOST));
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }

    pub(super) fn take(&self) -> bool {
        let take = |credit: u64| credit.checked_sub(Self::ONE);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl Shared {
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.gate.load(Ordering::Relaxed) == 0
    }

    /// What happens to `call`. `bodies`: whether there is a response body that faults could act on.
    #[cold]
    pub(super) fn inject(self: &Arc<Self>, call: &Call<'_>, bodies: bool) -> Option<Injection> {
        let rules = self.rules.get();
        if rules.barred.load(Ordering::Relaxed) {
            return None;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        if let Some(cap) = &rules.cap {
            cap.earn();
        }
        let mut elapsed = None;
        let mut injection: Option<Injection> = None;
        let mut done = false;
        for &number in &rules.core.order {
            let rule = &rules.core.rules[number as usize];
            let tally = &*rules.tallies[number as usize];
            if !rule.matcher.matches(call) {
                continue;
            }
            // A rule counts the calls that match it whether or not another has acted: so its count means
            // the same in a replay.
            tally.matched.fetch_add(1, Ordering::Relaxed);
            let key = match call.key() {
                Some(id) => CallKey::Id(id),
                None => CallKey::Nth(tally.counter.fetch_add(1, Ordering::Relaxed)),
            };
            if done {
                continue;
            }
            let act = match &rules.replay {
                Some(replay) => replay.act(number, key),
                None => {
                    let strength = self.strength(&rule.schedule, &mut elapsed);
                    rules.core.decide(number, key, strength)
                }
            };
            let Some(act) = act else { continue };
            // A call that will not be made can be late and nothing more.
            let decided = injection.as_ref().is_some_and(Injection::is_decided);
            if decided && act.kind() != FaultKind::Latency {
                continue;
            }
            if act.is_of_body() && !bodies {
                tally.unsupported.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // Not the next rule's turn if this one may not act: its share would depend on how busy this is.
            done = !rules.core.all;
            if !tally.reserve(rule.max_active) {
                tally.skipped_active.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if injection.is_none() && rules.cap.as_ref().is_some_and(|cap| !cap.take()) {
                tally.release();
                tally.skipped_cap.fetch_add(1, Ordering::Relaxed);
                done = true;
                continue;
            }
            tally.injected.fetch_add(1, Ordering::Relaxed);
            let injection = injection.get_or_insert_with(|| {
                self.injected.fetch_add(1, Ordering::Relaxed);
                let mark = Injected::new(number as usize, act.kind());
                Injection::new(mark, Held::new(Arc::clone(self), Arc::clone(&rules)))
            });
            // From here on it gives the place back.
            injection.held.add(number);
            rules.record(key, number, &act);
            self.tell(number, act.kind().as_str());
            done |= act.kind() == FaultKind::Loss;
            injection.add(act, call);
        }
        injection
    }

    /// Reads the clock once for all rules, and not at all if none has a schedule.
    fn strength(&self, schedule: &Schedule, elapsed: &mut Option<Duration>) -> f64 {
        if schedule.is_always() {
            return 1.0;
        }
        let since = || clock::now().since(Tick(self.armed_at.load(Ordering::Relaxed)));
        schedule.strength(*elapsed.get_or_insert_with(since))
    }

    fn tell(&self, rule: u32, fault: &'static str) {
        if self.observers.see_refusals() {
            let kind = EventKind::Injected { rule: rule as usize, fault };
            self.observers.emit(LayerKind::Conditioner, self.name, kind);
        }
    }

    /// The refusal that stands for `cause`.
    pub(super) fn rejection(&self, mark: Injected, cause: Cause) -> Rejection {
        Rejection::new(RejectionKind::Injected, LayerKind::Conditioner, self.name)
            .with_source(cause.into_error(mark))
    }

    pub(super) fn stats(&self) -> ConditionerStats {
        let now = self.rules.get();
        let rules = now.core.rules.iter().zip(&now.tallies).map(|(rule, tally)| RuleStats {
            fault: rule.fault.kind(),
            matched: tally.matched.load(Ordering::Relaxed),
            injected: tally.injected.load(Ordering::Relaxed),
            skipped_active: tally.skipped_active.load(Ordering::Relaxed),
            skipped_cap: tally.skipped_cap.load(Ordering::Relaxed),
            unsupported: tally.unsupported.load(Ordering::Relaxed),
            active: tally.active.load(Ordering::Relaxed),
        });
        ConditionerStats {
            seen: self.seen.load(Ordering::Relaxed),
            injected: self.injected.load(Ordering::Relaxed),
            rules: rules.collect(),
        }
    }

    /// Changes the gate, and ends the waits under way if that closes it.
    pub(super) fn set_gate(&self, change: impl FnMut(u32) -> Option<u32>) -> Result<u32, u32> {
        let before = self.gate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        if before == Ok(0) {
            self.closed.notify_waiters();
        }
        before
    }
}

impl Tally {
    fn reserve(&self, most: Option<u32>) -> bool {
        let most = most.unwrap_or(u32::MAX);
        let add = |active: u32| (active < most).then(|| active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    pub(super) fn release(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conditioner")
            .field("name", &self.name)
            .field("injecting", &self.is_on())
            .field("rules", &self.rules.get())
            .finish_non_exhaustive()
    }
}

/// A wait under way. Boxed: only calls that something was done to have one.
pub(super) type Wait = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Waits so long, or for ever; not longer than injection stays on.
pub(super) fn wait(shared: &Arc<Shared>, time: Option<Duration>) -> Wait {
    let shared = Arc::clone(shared);
    Box::pin(async move {
        let mut closed = pin!(shared.closed.notified());
        // Enlisted before the gate is looked at, so that its closing cannot be missed.
        closed.as_mut().enable();
        if !shared.is_on() {
            return;
        }
        match time {
            None => closed.await,
            Some(time) => {
                let mut sleep = pin!(tokio::time::sleep(time));
                poll_fn(|cx| {
                    if sleep.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    closed.as_mut().poll(cx)
                })
                .await;
            }
        }
    })
}
