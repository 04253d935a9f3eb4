//! One shared object, one caller against two: operating-system threads with a runtime each, and
//! workers of one multi-thread runtime with 64 tasks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use crate::case::{Callers, Case};
use crate::median;

#[derive(Clone, Debug, Default)]
pub struct Scaled {
    pub one_thread_ns: f64,
    /// Calls per second with two over calls per second with one.
    pub threads: f64,
    pub workers: f64,
}

const CHUNK: u64 = 64;
const TASKS: usize = 64;

/// A peer can lose a wake-up and wait for ever; then this much later we go on without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls per second of so many threads, each on its own core; NaN if one is stuck.
fn threads(callers: &Callers, count: usize, time: Duration) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Arc::new(Barrier::new(count + 1));
    let (done, rates) = mpsc::channel();
    for core in 0..count {
        let mut runner = callers();
        let (stop, start, done) = (Arc::clone(&stop), Arc::clone(&start), done.clone());
        std::thread::spawn(move || {
            crate::pin(core);
            let runtime = crate::runtime();
            runtime.block_on(runner.run(1));
            start.wait();
            let rate = runtime.block_on(async {
                let begin = Instant::now();
                let mut calls = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    runner.run(CHUNK).await;
                    calls += CHUNK;
                }
                calls as f64 / begin.elapsed().as_secs_f64()
            });
            let _ = done.send(rate);
        });
    }
    start.wait();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    (0..count).map(|_| rates.recv_timeout(PATIENCE).unwrap_or(f64::NAN)).sum()
}

/// Calls per second of 64 tasks on so many workers; NaN if one is stuck.
fn workers(callers: &Callers, count: usize, time: Duration) -> f64 {
    let core = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count)
        .on_thread_start(move || {
            crate::pin(core.fetch_add(1, Ordering::Relaxed) % count);
        })
        .enable_all()
        .build()
        .expect("a runtime");
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let mut runner = callers();
            let stop = Arc::clone(&stop);
            runtime.spawn(async move {
                let mut calls = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    runner.run(CHUNK).await;
                    calls += CHUNK;
                    tokio::task::yield_now().await;
                }
                calls
            })
        })
        .collect();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let all = async {
        let mut calls = 0;
        for task in tasks {
            calls += task.await.unwrap_or_default();
        }
        calls
    };
    let calls = runtime.block_on(async { tokio::time::timeout(PATIENCE, all).await });
    let took = begin.elapsed().as_secs_f64();
    runtime.shutdown_background();
    calls.map_or(f64::NAN, |calls| calls as f64 / took)
}

/// Needs two cores; nothing with a note otherwise.
pub fn run(cases: &[Case], rounds: usize, time: Duration) -> BTreeMap<String, Scaled> {
    if crate::cores() < 2 {
        eprintln!("scaling: needs two cores; the table stays empty");
        return BTreeMap::new();
    }
    let measure = |case: &Case| {
        let callers = (case.make)();
        let (mut one, mut by_threads, mut by_workers) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            if by_threads.iter().chain(&by_workers).any(|ratio: &f64| ratio.is_nan()) {
                break;
            }
            let single = threads(&callers, 1, time);
            by_threads.push(threads(&callers, 2, time) / single);
            one.push(1e9 / single);
            let single = workers(&callers, 1, time);
            by_workers.push(workers(&callers, 2, time) / single);
        }
        let scaled = Scaled {
            one_thread_ns: median(&mut one),
            threads: median(&mut by_threads),
            workers: median(&mut by_workers),
        };
        (case.name.clone(), scaled)
    };
    cases.iter().filter(|case| case.scales).map(measure).collect()
}
