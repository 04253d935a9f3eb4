//! Every interleaving of fallbacks that begin and end: never more at once than may be, and each is counted as what it was.

use loom::thread;

use super::Fallback;
use crate::managed::Home;
use crate::sync::atomic::{AtomicU32, Ordering};

#[test]
fn loom_no_more_are_under_way_than_may_be_and_each_is_counted() {
    loom::model(|| {
        let mut builder = Fallback::builder("loom").max_in_flight(1);
        builder.observers.move_to(Home::Nowhere);
        let fallback = builder.build().unwrap();
        let inside = std::sync::Arc::new(AtomicU32::new(0));
        let threads = [true, false].map(|settles| {
            let (fallback, inside) = (fallback.clone(), std::sync::Arc::clone(&inside));
            thread::spawn(move || {
                let entered = fallback.shared.enter();
                if let Some(mut entered) = entered {
                    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two at once");
                    inside.fetch_sub(1, Ordering::Relaxed);
                    if settles {
                        entered.settle("loom", true);
                    }
                    return true;
                }
                false
            })
        });
        let stats = fallback.stats();
        assert!(stats.in_flight <= 1);
        let [settled, dropped] = threads.map(|thread| thread.join().unwrap());
        assert!(settled || dropped, "the room is lost");
        let stats = fallback.stats();
        assert_eq!((stats.in_flight, stats.failed), (0, 0));
        assert_eq!((stats.answered, stats.dropped), (u64::from(settled), u64::from(dropped)));
        assert_eq!(stats.full, 2 - stats.answered - stats.dropped);
    });
}
