use std::ops::Deref;
use std::sync::{Arc, Mutex};

use super::RetryPolicy;
use crate::name::Name;

/// A policy and the name it goes by, as calls hold them.
///
/// Every call takes one along, and most never look at it again. Copied it is a hundred bytes, counted it
/// is two atomic operations, and either costs more than all the rest of a call that works. So each distinct
/// plan is kept for the life of the process, once: they come from code and configuration and are few. A
/// program that makes them up as it goes gets counted ones beyond a limit.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Kept(&'static Named),
    Counted(Arc<Named>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) policy: RetryPolicy,
    pub(super) name: Name,
}

const MOST_KEPT: usize = 1024;

impl Plan {
    pub(super) fn new(policy: RetryPolicy, name: Name) -> Self {
        // Not `crate::sync::Mutex`: loom's cannot live in a static.
        static KEPT: Mutex<Vec<&'static Named>> = Mutex::new(Vec::new());
        let named = Named { policy, name };
        let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = kept.iter().find(|known| ***known == named) {
            return Self::Kept(known);
        }
        if kept.len() >= MOST_KEPT {
            return Self::once(policy, name);
        }
        let known: &'static Named = Box::leak(Box::new(named));
        kept.push(known);
        Self::Kept(known)
    }

    /// For one call.
    pub(super) fn once(policy: RetryPolicy, name: Name) -> Self {
        Self::Counted(Arc::new(Named { policy, name }))
    }
}

impl Deref for Plan {
    type Target = Named;

    #[inline]
    fn deref(&self) -> &Named {
        match self {
            Self::Kept(named) => named,
            Self::Counted(named) => named,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plan_is_kept_once_and_only_so_many() {
        let policy = RetryPolicy::DEFAULT;
        let at = |plan: &Plan| std::ptr::from_ref::<Named>(plan);
        let one = Plan::new(policy, "one".into());
        assert_eq!(at(&one), at(&Plan::new(policy, "one".into())));
        assert_ne!(at(&one), at(&Plan::new(policy, "two".into())));
        for seed in 0..2000 {
            let policy = policy.to_builder().jitter_seed(seed).build().expect("it is valid");
            let plan = Plan::new(policy, "many".into());
            assert_eq!((plan.policy, plan.name), (policy, "many".into()));
        }
        let last = policy.to_builder().jitter_seed(9999).build().expect("it is valid");
        assert!(matches!(Plan::new(last, "many".into()), Plan::Counted(_)));
        assert!(matches!(Plan::new(policy, "one".into()), Plan::Kept(_)));
    }
}
