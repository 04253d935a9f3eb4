use std::sync::Arc;

use super::{Seat, Slot};

#[test]
fn a_seat_sees_each_change_and_keeps_what_it_has_handed_out() {
    let slot = Slot::new();
    let mut seat = Seat::new(slot.clone());
    assert_eq!(seat.current(), None);
    slot.install(1);
    let mut other = seat.clone();
    assert_eq!(seat.current(), Some(&mut 1));
    slot.install(2);
    assert_eq!(seat.current(), Some(&mut 2));
    slot.uninstall();
    assert_eq!((seat.current(), other.current()), (None, None));
}

#[test]
fn what_has_been_taken_out_is_not_kept_for_those_who_look() {
    let slot = Slot::new();
    let mut seat = Seat::new(slot.clone());
    let first = Arc::new(1);
    slot.install(Arc::clone(&first));
    // Each of many that have not looked yet finds it, and so does the next.
    for _ in 0..9 {
        assert_eq!(seat.clone().current(), Some(&mut Arc::clone(&first)));
    }
    assert!(Arc::strong_count(&first) > 2, "somebody keeps one for them");
    let second = Arc::new(2);
    assert!(slot.install(Arc::clone(&second)).is_some());
    assert_eq!(Arc::strong_count(&first), 1);
    assert_eq!(seat.current(), Some(&mut Arc::clone(&second)));
    assert!(slot.uninstall().is_some());
    assert_eq!((Arc::strong_count(&second), seat.seen().cloned()), (2, Some(Arc::clone(&second))));
    assert_eq!(seat.current(), None);
    assert_eq!(Arc::strong_count(&second), 1);
}

#[test]
fn a_seat_of_which_only_clones_look_keeps_nothing() {
    let first = Arc::new(1);
    let slot = Slot::with(Arc::clone(&first));
    let seat = Seat::new(slot.clone());
    for _ in 0..3 {
        assert_eq!(seat.clone().current(), Some(&mut Arc::clone(&first)));
    }
    slot.install(Arc::new(2));
    assert_eq!(Arc::strong_count(&first), 1);
    assert_eq!(seat.clone().current(), Some(&mut Arc::new(2)));
}

#[cfg(feature = "config")]
#[test]
fn the_last_follower_follows_and_those_before_stay_as_they_were() {
    let slot = Slot::with(1);
    let (before, first) = slot.hand_over(|there| there.map(|n| n + 1), |follower| follower);
    assert_eq!((before, slot.get(), first.get()), (Some(1), Some(2), Some(2)));
    slot.install(3);
    assert_eq!(first.get(), Some(3));
    let (_, second) = slot.hand_over(|_| None, |follower| follower);
    assert_eq!((slot.get(), first.get(), second.get()), (None, Some(3), None));
    assert_eq!(second.version(), super::UNTOUCHED);
    slot.install(4);
    assert_eq!((slot.get(), first.get(), second.get()), (Some(4), Some(3), Some(4)));
    slot.uninstall();
    assert_eq!((slot.get(), first.get(), second.get()), (None, Some(3), None));
    drop(first);
    assert!(slot.claim().is_none());
    drop(second);
    let third = slot.claim().unwrap();
    assert!(slot.claim().is_none());
    drop(third);
    assert_eq!((slot.install(5), slot.get()), (None, Some(5)));
}

#[cfg(feature = "config")]
#[test]
fn what_is_told_is_there_before_the_change_is_seen_elsewhere_and_ends_with_the_other() {
    let (slot, sum) = (Slot::with(1), Slot::with((0, 7)));
    slot.tell(&sum, |sum: &mut (i32, i32), there| sum.0 = there.copied().unwrap_or(-1));
    assert_eq!(sum.get(), Some((0, 7)), "not what is there already");
    slot.install(2);
    assert_eq!(sum.get(), Some((2, 7)));
    let (before, seen) = slot.settle(|there| there.map(|n| n + 1), |it| (it.copied(), sum.get()));
    assert_eq!((before, seen, slot.get()), (Some(2), (Some(3), Some((2, 7))), Some(3)));
    slot.uninstall();
    assert_eq!(sum.get(), Some((-1, 7)));
    sum.uninstall();
    slot.install(4);
    assert_eq!(sum.get(), None, "nothing is put there");
    drop(sum);
    assert_eq!((slot.install(5), slot.get()), (Some(4), Some(5)));
}

#[test]
fn threads_that_install_and_look_never_see_a_mixture() {
    let slot = Slot::with((0_u64, !0_u64));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut seat = Seat::new(slot.clone());
            scope.spawn(move || {
                for _ in 0..20_000 {
                    if let Some((a, b)) = seat.current() {
                        assert_eq!(*a, !*b);
                    }
                }
            });
        }
        for n in 0..5_000 {
            slot.install((n, !n));
            if n % 7 == 0 {
                slot.uninstall();
            }
        }
    });
    let mut seat = Seat::new(slot);
    assert_eq!(seat.current(), Some(&mut (4_999, !4_999)));
}
