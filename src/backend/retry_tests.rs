//! Which retries are paid.

use super::core::Core;
use super::tests::{arrive, at, calls, finish, wait};
use super::turn::{Arrival, End, Wakers};

/// The retries of a few calls that never succeed would fill the room, as the most urgent there, and all others wait behind
/// them. Where many fail, what has failed often may yet succeed.
#[test]
fn while_others_wait_a_retry_is_paid_if_chance_may_have_failed_the_attempts_before() {
    // Of a limit that is fixed only a success earns one.
    for (fixed, end) in [(None, End::Failure), (Some(4), End::Success)] {
        // So many first attempts of ten fail, and after so many failures of one call the next is paid, or not.
        for (errors, paid, refused) in [(0, 1, 2), (3, 4, 9), (7, 10, 40)] {
            let mut core = Core::new(fixed, 100);
            let mut now = calls(&mut core, 0, 50, 10, End::Success);
            for n in 0..500 {
                if n * 3 % 10 < errors {
                    now = calls(&mut core, now, 1, 10, End::Failure);
                    let _ = core.take_retry(Some(1));
                }
                now = calls(&mut core, now, 1, 10, End::Success);
            }
            assert!(core.take_retry(Some(90)), "a place is free");
            let out = core.limit();
            for _ in 0..out {
                assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
            }
            let keys = [(); 3].map(|()| wait(&mut core, now, 1000));
            for _ in 0..2 {
                finish(&mut core, now, end, now + 10);
            }
            assert_eq!(core.waiting(), 1);
            let seen = format!("{errors} of ten fail, {fixed:?}");
            for failed in [Some(refused), None] {
                assert!(!core.take_retry(failed), "{failed:?}, {seen}");
            }
            assert!(core.take_retry(Some(1)), "{seen}");
            assert!(core.take_retry(Some(paid)), "{seen}");
            for key in keys {
                core.leave(key, at(now + 10), &mut Wakers::default());
            }
        }
    }
}
