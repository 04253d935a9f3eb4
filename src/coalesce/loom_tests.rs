//! Every interleaving of callers that come, go and poll while a call is made, ends or panics: whoever stays has an
//! answer or is told to look, and nothing is left.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use super::*;
use crate::managed::Home;

/// All interleavings with up to so many switches where none is forced.
fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(f);
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// What ends the calls, from outside. Not loom's: between its steps there are no switches.
#[derive(Default)]
struct Callee {
    calls: AtomicU32,
    over: AtomicBool,
    waker: std::sync::Mutex<Option<Waker>>,
}

impl Callee {
    fn call(self: &Arc<Self>) -> Call<u32, ()> {
        self.calls.fetch_add(1, SeqCst);
        let this = Arc::clone(self);
        Box::pin(poll_fn(move |cx| {
            *this.waker.lock().unwrap() = Some(cx.waker().clone());
            if this.over.load(SeqCst) { Poll::Ready(Ok(7)) } else { Poll::Pending }
        }))
    }

    fn end(&self) {
        self.over.store(true, SeqCst);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

type Reads = Arc<Table<u8, u32, ()>>;

fn reads() -> Reads {
    let mut observers = Observers::default();
    observers.move_to(Home::Nowhere);
    let limits = Limits { keys: 10, followers: 10 };
    Arc::new(Table::new(Name::from("loom"), limits, observers))
}

/// One who waits.
struct Caller {
    seat: Seat<u8, u32, ()>,
    flag: Arc<Flag>,
    answer: Option<Landing<u32, ()>>,
}

impl Caller {
    fn new(reads: &Reads, callee: &Arc<Callee>) -> Self {
        let seat = match reads.enter(1, None, Tick(0), Made::Polled) {
            Entered::Lead(seat) => {
                seat.begin(callee.call());
                seat
            }
            Entered::Follow(seat) => seat,
            Entered::Full | Entered::Crowded => panic!("there is room"),
        };
        Self::at(seat)
    }

    /// A thread, which makes the call if there is none.
    fn on_a_thread(reads: &Reads) -> Self {
        match reads.enter(1, None, Tick(0), Made::Blocking) {
            Entered::Lead(seat) => {
                let answer = Some(Landing::Shared(seat.make(|| 7)));
                Self { answer, ..Self::at(seat) }
            }
            Entered::Follow(seat) => Self::at(seat).poll(),
            Entered::Full | Entered::Crowded => panic!("there is room"),
        }
    }

    fn at(seat: Seat<u8, u32, ()>) -> Self {
        Self { seat, flag: Arc::default(), answer: None }
    }

    fn poll(mut self) -> Self {
        self.flag.0.store(false, SeqCst);
        let waker = Waker::from(Arc::clone(&self.flag));
        if let Poll::Ready(answer) = self.seat.poll(&Context::from_waker(&waker)) {
            self.answer = Some(answer);
        }
        self
    }

    /// All others have done what they do: as an executor would, it is polled as long as it is told.
    fn ends(mut self) -> Landing<u32, ()> {
        loop {
            if let Some(answer) = self.answer {
                return answer;
            }
            assert!(self.flag.0.load(SeqCst), "it waits, and nobody will tell it");
            self = self.poll();
        }
    }
}

fn is_empty(reads: &Reads) {
    assert_eq!(reads.counts.flights.load(SeqCst), 0);
    assert!(reads.shards.iter().all(|shard| lock(&shard.0).is_empty()));
}

fn got_it(answer: &Landing<u32, ()>) -> bool {
    matches!(answer, Landing::Shared(7))
}

#[test]
fn loom_a_leader_that_leaves_while_another_joins_and_the_call_ends() {
    model(|| {
        let (reads, callee) = (reads(), Arc::<Callee>::default());
        let leader = Caller::new(&reads, &callee).poll();
        assert!(leader.answer.is_none());
        let goes = thread::spawn(move || drop(leader));
        let joins = {
            let (reads, callee) = (Arc::clone(&reads), Arc::clone(&callee));
            thread::spawn(move || Caller::new(&reads, &callee).poll())
        };
        callee.end();
        goes.join().unwrap();
        let follower = joins.join().unwrap();
        assert!(got_it(&follower.ends()));
        // The leader's, if it was still there, else its own.
        assert!(callee.calls.load(SeqCst) <= 2);
        is_empty(&reads);
    });
}

#[test]
fn loom_the_last_one_leaves_while_the_call_is_woken() {
    model(|| {
        let (reads, callee) = (reads(), Arc::<Callee>::default());
        let (one, two) = (Caller::new(&reads, &callee), Caller::new(&reads, &callee));
        let one = one.poll();
        let ends = {
            let callee = Arc::clone(&callee);
            thread::spawn(move || callee.end())
        };
        let polls = thread::spawn(move || drop(two.poll()));
        drop(one);
        ends.join().unwrap();
        polls.join().unwrap();
        is_empty(&reads);
        // Whoever comes now is not kept by what has been.
        assert!(got_it(&Caller::new(&reads, &callee).poll().ends()));
        is_empty(&reads);
    });
}

#[test]
fn loom_a_call_that_is_woken_while_it_is_polled_is_polled_again() {
    model(|| {
        let (reads, callee) = (reads(), Arc::<Callee>::default());
        let (one, two) = (Caller::new(&reads, &callee), Caller::new(&reads, &callee));
        let ends = {
            let callee = Arc::clone(&callee);
            thread::spawn(move || callee.end())
        };
        // It has the call, and goes.
        let two = two.poll();
        let goes = thread::spawn(move || drop(one));
        ends.join().unwrap();
        goes.join().unwrap();
        assert!(got_it(&two.ends()));
        is_empty(&reads);
    });
}

#[test]
fn loom_all_who_wait_get_what_one_of_them_fetched() {
    model(|| {
        let (reads, callee) = (reads(), Arc::<Callee>::default());
        let (one, two) = (Caller::new(&reads, &callee).poll(), Caller::new(&reads, &callee));
        let polls = thread::spawn(move || two.poll());
        callee.end();
        let one = one.poll();
        let two = polls.join().unwrap();
        // In this order one could poll for the other.
        assert!(got_it(&one.ends()) && got_it(&two.ends()));
        assert_eq!(callee.calls.load(SeqCst), 1);
        is_empty(&reads);
    });
}

#[test]
fn loom_a_call_that_panics_while_another_joins() {
    model(|| {
        let (reads, callee) = (reads(), Arc::<Callee>::default());
        let leader = Caller::new(&reads, &callee);
        let panics = thread::spawn(move || {
            // As it unwinds; an unwinding itself is too much for the model.
            let waker = Waker::from(Arc::clone(&leader.flag));
            let (turn, _) = lock(&leader.seat.flight.core).turn(leader.seat.index, waker);
            match turn {
                Turn::Drive(call) => {
                    let driving = Driving { seat: &leader.seat, over: false };
                    drop(call);
                    drop(driving);
                }
                // The other one has it.
                other => assert!(matches!(other, Turn::Wait)),
            }
            drop(leader);
        });
        let follower = Caller::new(&reads, &callee).poll();
        panics.join().unwrap();
        let lost = reads.counts.lost.load(SeqCst) > 0;
        match follower.answer {
            Some(Landing::Lost) => assert!(lost),
            Some(_) => panic!("the call has not ended"),
            // It had the call, or its own; or it is told.
            None => {
                callee.end();
                let answer = follower.ends();
                assert!(got_it(&answer) || (lost && matches!(answer, Landing::Lost)));
            }
        }
        is_empty(&reads);
    });
}

/// Whoever comes while a thread makes a call has its answer, or makes another; who makes one that is polled is not touched.
#[test]
fn loom_a_call_that_a_thread_makes_beside_those_who_join_and_leave() {
    model(|| {
        let (reads, callee) = (reads(), Arc::<Callee>::default());
        let polls = Caller::new(&reads, &callee).poll();
        let Entered::Lead(seat) = reads.enter(1, None, Tick(0), Made::Blocking) else {
            panic!("no thread makes one")
        };
        let leaves = Caller::on_a_thread(&reads);
        let leaves = thread::spawn(move || drop(leaves.poll()));
        let joins = {
            let reads = Arc::clone(&reads);
            thread::spawn(move || Caller::on_a_thread(&reads))
        };
        assert_eq!(seat.make(|| 7), 7);
        drop(seat);
        leaves.join().unwrap();
        assert!(got_it(&joins.join().unwrap().ends()));
        assert!(polls.answer.is_none());
        callee.end();
        assert!(got_it(&polls.ends()));
        is_empty(&reads);
    });
}

/// Those who wait for a thread that panics are told.
#[test]
fn loom_a_thread_that_panics_while_another_joins() {
    model(|| {
        let reads = reads();
        let Entered::Lead(seat) = reads.enter(1, None, Tick(0), Made::Blocking) else {
            panic!("nobody else is there")
        };
        let joins = {
            let reads = Arc::clone(&reads);
            thread::spawn(move || Caller::on_a_thread(&reads))
        };
        let panics = || seat.make(|| std::panic::resume_unwind(Box::new("in the call")));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        drop(seat);
        let answer = joins.join().unwrap().ends();
        assert!(got_it(&answer) || matches!(answer, Landing::Lost));
        is_empty(&reads);
    });
}
