use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::RetryPolicy;
use crate::name::Name;

/// A policy and the name it goes by, as calls hold them.
///
/// Every call takes one along, and most never look at it again. Copied it is a hundred bytes, counted it
/// is two atomic operations, and either costs more than all the rest of a call that works. So each distinct
/// plan is kept for the life of the process, once: they come from code and configuration and are few. For
/// a program that makes them up as it goes there is a limit, beyond which they are counted.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Kept(&'static Named),
    Counted(Arc<Named>),
    /// There is no retry: as if the layer were not there.
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) policy: RetryPolicy,
    pub(super) name: Name,
    /// Whether requests are worth copying.
    pub(super) can_retry: bool,
    /// Whether an attempt may have to be cut off.
    pub(super) has_timeout: bool,
}

const MOST_KEPT: usize = 1024;

/// What a plan that is absent looks like. Nobody retries by it.
static ABSENT: OnceLock<Named> = OnceLock::new();

impl Named {
    pub(super) fn new(policy: RetryPolicy, name: Name) -> Self {
        let (can_retry, has_timeout) = (policy.can_retry(), policy.attempt_timeout().is_some());
        Self { policy, name, can_retry, has_timeout }
    }
}

impl Plan {
    pub(super) fn new(policy: RetryPolicy, name: Name) -> Self {
        // Not `crate::sync::Mutex`: loom's cannot live in a static.
        static KEPT: Mutex<Vec<&'static Named>> = Mutex::new(Vec::new());
        let named = Named::new(policy, name);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.iter().find(|known| ***known == named) {
            return Self::Kept(known);
        }
        if kept.len() >= MOST_KEPT {
            return Self::Counted(Arc::new(named));
        }
        let known: &'static Named = Box::leak(Box::new(named));
        kept.push(known);
        Self::Kept(known)
    }

    /// For one call.
    #[cold]
    pub(super) fn once(policy: RetryPolicy, name: Name) -> Self {
        Self::Counted(Arc::new(Named::new(policy, name)))
    }
}

impl Deref for Plan {
    type Target = Named;

    #[inline]
    fn deref(&self) -> &Named {
        match self {
            Self::Kept(named) => named,
            Self::Counted(named) => named,
            Self::Absent => {
                ABSENT.get_or_init(|| Named::new(RetryPolicy::NO_RETRY, "retry".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plan_is_kept_once_and_only_so_many() {
        let policy = RetryPolicy::DEFAULT;
        let at = |plan: &Plan| match plan {
            Plan::Kept(named) => std::ptr::from_ref::<Named>(named),
            Plan::Counted(_) | Plan::Absent => panic!("there is room"),
        };
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
