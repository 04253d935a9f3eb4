//! What commands have taken out of slots: how it is shown, and to whom a name belongs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::registry::{Places, Registry};
use crate::circuit_breaker::CircuitBreaker;
use crate::clock::{self, Tick};
use crate::conditioner::Conditioner;
use crate::failure_budget::FailureBudget;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::rate_limit::RateLimiter;
use crate::slot::Slot;
use crate::sync::lock;

/// For so long after a look has found that calls met it, an object that was taken out is in use.
const IN_USE: Duration = Duration::from_secs(300);

/// An object that is not where it was.
pub(super) struct TakenOut {
    object: Weak<dyn Managed>,
    slot: String,
    /// It is still there: a command is about to put another one in its place.
    leaving: bool,
    /// How many calls had met it at the last look, and when that was seen to rise.
    met: u64,
    met_at: Option<Tick>,
}

impl TakenOut {
    fn unmet(object: &Weak<dyn Managed>, slot: &str) -> Self {
        let (object, slot) = (Weak::clone(object), slot.to_owned());
        Self { object, slot, leaving: false, met: 0, met_at: None }
    }

    fn is(&self, object: &Weak<dyn Managed>) -> bool {
        self.object.ptr_eq(object)
    }

    /// Whether calls meet it though it is in no slot: the program may have it in a layer, or use it directly.
    fn is_met(&mut self, row: &ObjectStatus, now: Tick) -> bool {
        let met = met(row);
        if met != self.met {
            (self.met, self.met_at) = (met, Some(now));
        }
        holds_up(row) || self.met_at.is_some_and(|at| now.since(at) < IN_USE)
    }
}

/// The calls that it has refused, and a limiter those that it has let through. What became of calls that began long ago
/// is none of them.
fn met(row: &ObjectStatus) -> u64 {
    let refused = row.rejects.iter().map(|(_, count)| count).sum::<u64>();
    let acquired = row.counters.iter().filter(|(id, _)| *id == "acquired");
    acquired.fold(refused, |sum, (_, count)| sum.saturating_add(*count))
}

/// Calls that a limiter holds up now.
fn holds_up(row: &ObjectStatus) -> bool {
    row.gauges.iter().any(|gauge| gauge.id == "waiting" && gauge.value > 0.0)
}

impl Registry {
    /// What this registry shows: all that lives, but for what commands have made and is in no slot any more.
    pub(super) fn shown(&self) -> Vec<Arc<dyn Managed>> {
        let mut all = self.roster.living();
        let places = lock(&self.places);
        let hidden = places.taken_out.iter().map(|out| &out.object);
        let hidden: Vec<_> =
            hidden.filter(|out| places.made.iter().any(|made| made.ptr_eq(out))).cloned().collect();
        drop(places);
        let is_hidden =
            |object: &Arc<dyn Managed>| hidden.iter().any(|it| it.ptr_eq(&Arc::downgrade(object)));
        let gone: Vec<_> = all.extract_if(.., |object| is_hidden(object)).collect();
        drop(gone);
        all
    }

    /// A command has made it: nobody else has it, once it is in no slot.
    pub(super) fn note_made(&self, object: Weak<dyn Managed>) {
        lock(&self.places).made.push(object);
    }

    /// If a command has made what is in this slot, and no other slot has it, it is shown no more from now on, so that no
    /// order to what takes its place meets it. Says what it was, for [`left`](Self::left).
    pub(super) fn leaves(
        &self,
        slot: &str,
        object: Option<Weak<dyn Managed>>,
    ) -> Option<Weak<dyn Managed>> {
        let object = object?;
        let mut places = lock(&self.places);
        let (there, kept) = places.in_slots();
        let only = there.iter().filter(|there| there.ptr_eq(&object)).count() == 1;
        if only && places.made.iter().any(|made| made.ptr_eq(&object)) {
            places.taken_out.retain(|out| !out.is(&object));
            places.taken_out.push(TakenOut { leaving: true, ..TakenOut::unmet(&object, slot) });
        }
        drop(places);
        drop(kept);
        Some(object)
    }

    /// It has been replaced.
    pub(super) fn left(&self, object: Option<Weak<dyn Managed>>) {
        let Some(object) = object else { return };
        let taken_out = &mut lock(&self.places).taken_out;
        taken_out.iter_mut().filter(|out| out.is(&object)).for_each(|out| out.leaving = false);
    }

    /// Swept by [`sort_out`](Self::sort_out).
    pub(super) fn note_taken_out(&self, slot: &str, object: Option<Weak<dyn Managed>>) {
        let Some(object) = object else { return };
        let met = object.upgrade().map_or(0, |object| met(&object.describe()));
        let out = TakenOut { met, ..TakenOut::unmet(&object, slot) };
        let taken_out = &mut lock(&self.places).taken_out;
        // It may have been put back and taken out again.
        taken_out.retain(|out| !out.is(&object));
        taken_out.push(out);
    }

    /// What commands have made and is in no slot any more is taken out, whoever did it: services that are not called again
    /// may hold it for long. What is in a slot again is not. After anything has been put in or taken out, and before anybody
    /// looks: the program does as it likes with its slots.
    pub(crate) fn sort_out(&self) {
        self.follow_given_up();
        let mut places = lock(&self.places);
        let (there, kept) = places.in_slots();
        let Places { made, taken_out, .. } = &mut *places;
        let is_there = |object: &Weak<dyn Managed>| there.iter().any(|there| there.ptr_eq(object));
        taken_out
            .retain(|out| out.object.strong_count() > 0 && (out.leaving || !is_there(&out.object)));
        made.retain(|made| made.strong_count() > 0);
        for made in made.iter().filter(|made| !is_there(made)) {
            if !taken_out.iter().any(|out| out.is(made)) {
                taken_out.push(TakenOut::unmet(made, ""));
            }
        }
        drop(places);
        drop(kept);
    }

    /// The slot that a command has taken it out of, if it is in none.
    pub(super) fn taken_out_of(&self, object: &Arc<dyn Managed>) -> Option<String> {
        let object = Arc::downgrade(object);
        let places = lock(&self.places);
        places.taken_out.iter().find(|out| out.is(&object)).map(|out| out.slot.clone())
    }

    /// An object that no slot has is well, whatever it says, unless calls meet it by another way.
    pub(super) fn mark_taken_out(
        &self,
        object: &Arc<dyn Managed>,
        row: ObjectStatus,
    ) -> ObjectStatus {
        let object = Arc::downgrade(object);
        let mut places = lock(&self.places);
        let Some(out) = places.taken_out.iter_mut().find(|out| out.is(&object)) else { return row };
        let row = row.fact("taken_out_of", out.slot.clone());
        if out.is_met(&row, clock::now()) {
            row.fact("in_use", "by another way than its slot")
        } else {
            row.level(Level::Ok)
        }
    }
}

impl Places {
    /// What is in slots, and what keeps it alive: to be dropped when no lock is held.
    fn in_slots(&self) -> (Vec<Weak<dyn Managed>>, impl Sized + use<>) {
        let breakers: Vec<_> = self.circuit_breakers.values().filter_map(Slot::get).collect();
        let limiters: Vec<_> = self.rate_limiters.values().filter_map(Slot::get).collect();
        let budgets: Vec<_> = self.failure_budgets.values().filter_map(Slot::get).collect();
        let faults: Vec<_> = self.conditioners.values().filter_map(Slot::get).collect();
        let there = (breakers.iter().map(CircuitBreaker::managed))
            .chain(limiters.iter().map(RateLimiter::managed))
            .chain(budgets.iter().map(FailureBudget::managed))
            .chain(faults.iter().map(Conditioner::managed))
            .collect();
        (there, (breakers, limiters, budgets, faults))
    }
}
