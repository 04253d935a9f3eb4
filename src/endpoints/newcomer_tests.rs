//! Endpoints that come to a pool that lives, and endpoints that have a call which never ends.

use std::sync::atomic::Ordering::Relaxed;

use super::config::Config;
use super::core::End;
use super::tests::{FIRST, Pool, all_well, ms};

/// Out from now on, for ever.
fn hangs(pool: &Pool, place: usize) {
    if pool.all[place].in_flight.fetch_add(1, Relaxed) == 0 {
        pool.all[place].progress.store(pool.now.0, Relaxed);
    }
}

/// So many calls are out all the time; how many each endpoint got.
fn at_once(pool: &mut Pool, calls: usize, many: usize) -> Vec<u32> {
    let (mut got, mut out) = (vec![0; pool.all.len()], Vec::new());
    for n in 0..calls {
        if out.len() == many || n + many > calls {
            let (place, started) = out.remove(0);
            pool.end(place, started, End::Success);
        }
        let place = pool.pick(FIRST);
        got[place] += 1;
        out.push((place, pool.now));
        pool.now = pool.now.after(ms(10) / u32::try_from(many).expect("few"));
    }
    for (place, started) in out {
        pool.end(place, started, End::Success);
    }
    got
}

/// Cold caches, cold code, no connections: as one that returns, one that comes must not get its share at once.
#[test]
fn one_that_comes_to_a_pool_that_lives_starts_slowly() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    pool.insert("late");
    let early = pool.run(40, all_well)[2];
    // It is asked at once, so that something is known of it.
    assert!((1..=8).contains(&early), "{early} of 40");
    pool.now = pool.now.after(ms(2000));
    pool.run(200, all_well);
    let late = pool.run(600, all_well)[2];
    assert!((150..=250).contains(&late), "{late} of 600");
    // ... as long as is said, and not at all if none is.
    let mut pool = Pool::new(2, Config { slow_start: ms(0), ..Config::default() });
    pool.run(100, all_well);
    pool.insert("late");
    let early = pool.run(300, all_well)[2];
    assert!(early > 60, "{early} of 300");
}

/// It has nothing to do, and so wins whenever it is one of two that are drawn: that is twice its share.
#[test]
fn one_that_comes_to_a_busy_pool_begins_with_a_tenth_of_its_share() {
    let (mut late, mut all) = (0, 0);
    for seed in 0..50 {
        let mut pool = Pool::seeded(4, Config::default(), seed);
        at_once(&mut pool, 400, 12);
        pool.insert("late");
        let got = at_once(&mut pool, 240, 12);
        late += got[4];
        all += got.iter().sum::<u32>();
    }
    // A fifth would be its share. In these 200 ms it gets from 10 to 19 % of it, and one call at once: 2 %.
    let part = f64::from(late) / f64::from(all) * 5.0;
    assert!((0.08..0.21).contains(&part), "{part}");
}

/// Where calls come one after another all are equal, and it wins no more often than they: held back as one that always
/// wins, it got a fifth of its part.
#[test]
fn one_that_comes_to_an_idle_pool_begins_with_a_tenth_of_its_share() {
    let (mut early, mut whole) = (0, 0);
    for seed in 0..200 {
        let mut pool = Pool::seeded(4, Config::default(), seed);
        pool.run(100, all_well);
        pool.insert("late");
        pool.run(1, all_well);
        early += pool.run(20, all_well)[4];
        whole += pool.run(180, all_well)[4];
    }
    // A fifth would be its share: 4 in 20. In these 200 ms it gets from 10 to 19 % of it, and one call at once, mostly
    // before them.
    let part = f64::from(early) / 200.0 / 4.0;
    assert!((0.1..0.25).contains(&part), "{part}");
    let part = f64::from(whole) / 200.0 / 36.0;
    assert!((0.45..0.65).contains(&part), "{part} over the slow start");
}

/// However little it gets: from the first call on it is known whether it is well.
#[test]
fn one_that_comes_ill_gets_few() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    pool.insert("late");
    let got = pool.run(1000, |n| if n == 2 { (1, End::Failure) } else { (10, End::Success) });
    assert!((1..=8).contains(&got[2]), "{got:?}");
}

#[test]
fn those_that_begin_together_are_not_held_back_for_each_other() {
    let count = |got: &[u32]| {
        assert!(got.iter().all(|n| (60..140).contains(n)), "{got:?}");
    };
    // As the pool was made.
    let mut pool = Pool::new(4, Config::default());
    count(&pool.run(400, all_well));
    // All are replaced.
    for n in 0..4 {
        pool.insert(&format!("new {n}"));
    }
    for _ in 0..4 {
        let gone = pool.all.remove(0);
        pool.core.remove(&gone);
    }
    count(&pool.run(400, all_well));
    // Two of four: each old one gets what it had and more, the new ones as much as each other.
    for n in 0..2 {
        let gone = pool.all.remove(0);
        pool.core.remove(&gone);
        pool.insert(&format!("newer {n}"));
    }
    let got = pool.run(40, all_well);
    assert!(got[2] + got[3] <= 12 && got[0] + got[1] >= 28, "{got:?}");
}

/// Nobody is left to hold back for.
#[test]
fn one_that_comes_while_the_others_are_down_gets_what_there_is() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    pool.eject(0);
    pool.insert("late");
    pool.eject(1);
    assert!(pool.core.in_panic(), "two of three");
    let got = pool.run(60, |n| if n == 2 { (10, End::Success) } else { (1, End::Failure) });
    // Two of three pairs have it.
    assert!(got[2] >= 25, "{got:?}");
}

/// It may have come because of that: nobody has failed yet, and all that the old one gets hang.
#[test]
fn one_that_comes_is_not_held_back_for_one_that_hangs() {
    let mut pool = Pool::new(1, Config::default());
    pool.run(100, all_well);
    for _ in 0..3 {
        pool.pick(FIRST);
        pool.now = pool.now.after(ms(20));
    }
    pool.insert("rescue");
    let mut got = [0; 2];
    for _ in 0..40 {
        let (place, started) = (pool.pick(FIRST), pool.now);
        got[place] += 1;
        pool.now = pool.now.after(ms(10));
        if place == 1 {
            pool.end(place, started, End::Success);
        }
    }
    assert!(pool.out().is_empty() && got[0] <= 2, "{got:?}");
}

/// Nor for one that is well and has much more to do, but it gets no more of what there is than its part.
#[test]
fn one_that_comes_to_a_busy_pool_has_its_part_of_what_is_out() {
    let mut pool = Pool::new(2, Config::default());
    at_once(&mut pool, 1000, 80);
    pool.insert("late");
    let got = at_once(&mut pool, 800, 80);
    assert!((10..=160).contains(&got[2]), "{got:?}");
}

/// Jobs of half a minute beside quick calls. Where twenty of them are worked on there is no room for more.
#[test]
fn many_calls_that_take_long_are_work() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    (0..20).for_each(|_| hangs(&pool, 0));
    at_once(&mut pool, 3000, 1);
    pool.run(20, |_| (10, End::Success));
    let got = at_once(&mut pool, 1000, 2);
    assert!(got[0] < 50, "{got:?}");
}

/// A long poll, or a call that leaked, and the endpoint answers all others: it was asked once in three times the memory,
/// as long as nothing was out elsewhere.
#[test]
fn one_with_a_call_that_never_ends_is_judged_by_the_others() {
    for many in [1, 3] {
        let mut pool = Pool::new(3, Config::default());
        pool.run(100, all_well);
        hangs(&pool, 0);
        pool.now = pool.now.after(ms(1000));
        // For three times the memory nobody knows whether it is well; then it is asked, and answers.
        at_once(&mut pool, 4000 * many, many);
        let got = at_once(&mut pool, 6000 * many, many);
        let third = u32::try_from(2000 * many).unwrap();
        assert!((third * 9 / 10..third * 11 / 10).contains(&got[0]), "{got:?}, {many} at once");
    }
}

#[test]
fn a_call_that_never_ends_excuses_none_that_hang_after_it() {
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    hangs(&pool, 0);
    at_once(&mut pool, 6000, 1);
    // Now all that it gets hang.
    let mut got = 0;
    for _ in 0..9000 {
        let (place, started) = (pool.pick(FIRST), pool.now);
        pool.now = pool.now.after(ms(10));
        if place == 0 {
            got += 1;
        } else {
            pool.end(place, started, End::Success);
        }
    }
    // In ninety seconds: some until it is seen, and one for each time that it is asked whether it is well.
    assert!(got <= 6, "{got}");
}

#[test]
fn calls_that_take_long_and_end_leave_nothing_behind() {
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    for _ in 0..5 {
        let started = pool.now;
        (0..3).for_each(|_| hangs(&pool, 0));
        at_once(&mut pool, 6000, 1);
        for _ in 0..3 {
            pool.end(0, started, End::Ignored);
        }
    }
    assert_eq!(pool.all[0].in_flight.load(Relaxed), 0);
    let got = at_once(&mut pool, 6000, 2);
    assert!((1800..2200).contains(&got[0]), "{got:?}");
}
