//! Requests through stacks whose parts come and go: none is lost, and none meets parts of two files.

#![expect(clippy::disallowed_methods, reason = "callers are tasks")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]

use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use buttress::{BoxError, Context, ReadContext};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service as _, ServiceExt, service_fn};

use super::rig::Rig;

const FIRST: u64 = 50;
const RELOADS: u64 = 50;

const fn attempts(n: u64) -> u64 {
    2 + n % 3
}

/// Of file `n` a call sees how long it may take, and how often it is tried.
fn numbered(n: u64) -> String {
    let mut text = format!(
        "servers:
  api:
    timeout: {0}s
clients:
  pay:
    total_timeout: {0}s
    retry: {{max_attempts: {1}, base_delay: 100us, transient: unlimited, flaky: unlimited}}
    retry_budget: {{ratio: 10, burst: 1000000, floor: 1000000, tokens: 1000000, initial_tokens: 1000000, cost: 1}}
",
        100 * n,
        attempts(n),
    );
    // It is the least of both that a call sees: still nearer to this file's number than to another's.
    let attempt = format!("attempt_timeout: {}s", 100 * n - 1);
    // Parts that come and go; with none of them a call comes to another end.
    for (every, part) in [
        (2, attempt.as_str()),
        (3, "backend: {limit: 1000}\n    hedge: never"),
        (4, "rate_limit: 100000000/s"),
        (5, "breaker: {consecutive_failures: 1000000}"),
        (7, "faults: {rules: [{fault: {latency: {fixed: 1ms}}, share: 5%}]}"),
    ] {
        if n % every == 0 {
            let _ = writeln!(text, "    {part}");
        }
    }
    text
}

/// A call: with what it carries, and what has been seen of it.
#[derive(Clone, Default)]
struct Job {
    context: Context,
    works: bool,
    seen: Arc<Mutex<Vec<u64>>>,
}

#[derive(Clone, Copy)]
struct Carries;

impl ReadContext<Job> for Carries {
    fn context(&self, job: &Job) -> Context {
        job.context
    }

    fn set_context(&self, job: &mut Job, context: Context) {
        job.context = context;
    }
}

type Service<E> = BoxCloneSyncService<Job, (), E>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_requests_across_fifty_reloads_of_whole_stacks() {
    let rig = Rig::new(&numbered(FIRST));
    let inner = Service::<io::Error>::new(service_fn(|job: Job| async move {
        let left = job.context.deadline().unwrap().remaining();
        job.seen.lock().unwrap().push((left.as_secs_f64() / 100.0).round() as u64);
        tokio::task::yield_now().await;
        if job.works { Ok(()) } else { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) }
    }));
    let client = rig.stacks.client("pay").unwrap().context(Carries);
    let client = Service::<BoxError>::new(client.layer(inner));
    let server = rig.stacks.server("api").unwrap();
    let service = Service::<BoxError>::new(server.layer(client));

    let stop = Arc::new(AtomicBool::new(false));
    let later = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..8u64)
        .map(|task| {
            let (mut kept, stop, later) = (service.clone(), stop.clone(), later.clone());
            tokio::spawn(async move {
                let (mut made, mut failed) = (0, 0);
                while made < 1_250 || !stop.load(Ordering::Relaxed) {
                    let job = Job { works: made % 4 != 0, ..Job::default() };
                    // As a client keeps its service, and as a server clones one that is never called.
                    let answer = match task % 2 {
                        0 => kept.ready().await.unwrap().call(job.clone()).await,
                        _ => kept.clone().oneshot(job.clone()).await,
                    };
                    assert_eq!(answer.is_ok(), job.works, "{answer:?}");
                    let seen = job.seen.lock().unwrap().clone();
                    let n = seen[0];
                    assert!((FIRST..=FIRST + RELOADS).contains(&n), "{seen:?}");
                    assert!(seen.iter().all(|other| *other == n), "two files: {seen:?}");
                    let expected = if job.works { 1 } else { attempts(n) };
                    assert_eq!(seen.len() as u64, expected, "attempts of another file than {n}");
                    later.fetch_add(u64::from(n > FIRST), Ordering::Relaxed);
                    failed += u64::from(!job.works);
                    made += 1;
                }
                (made, failed)
            })
        })
        .collect();
    let reloads = tokio::task::spawn_blocking(move || {
        for n in FIRST + 1..=FIRST + RELOADS {
            rig.try_reload(&numbered(n).replace("api:", "app:").replace("cost: 1", "cost: 0"))
                .unwrap_err();
            rig.reload(&numbered(n));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        stop.store(true, Ordering::Relaxed);
        rig
    });
    let rig = reloads.await.unwrap();
    let (mut made, mut failed) = (0, 0);
    for task in tasks {
        let of_task = task.await.unwrap();
        (made, failed) = (made + of_task.0, failed + of_task.1);
    }
    assert!(made >= 10_000);
    assert!(later.load(Ordering::Relaxed) > 1000, "requests ran while it was reloaded");
    assert_eq!(rig.stacks.generation(), 1 + RELOADS);
    let last = FIRST + RELOADS;
    let there = |id: &str| rig.shown().contains(&id.to_owned());
    assert_eq!(there("rate_limit/pay"), last.is_multiple_of(4));
    assert_eq!(there("conditioner/pay"), last.is_multiple_of(7));
    let row = rig.row("retry/pay");
    let abandoned = row.counters.iter().find(|it| it.0 == "abandoned").unwrap().1;
    assert_eq!(abandoned, failed, "no count is lost");
}
