//! What every store of shared buckets must do.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress::Quota;
use buttress::rate_limit::{RateLimiter, SharedRateLimiter, WhenDown};
use buttress::store::{RateStore, RecordId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

/// Nanoseconds on this machine's clock, which is the server's, too.
fn nanos() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128
}

/// The rule in exact numbers (units of `1 / amount` ns), between the moment before a question and the one
/// after it: when in between the server decided is not known.
struct Reference {
    amount: i128,
    period: i128,
    burst: i128,
    /// When the bucket is full at the earliest, and at the latest.
    tat: (i128, i128),
}

impl Reference {
    fn new(quota: &Quota) -> Self {
        Self {
            amount: quota.amount() as i128,
            period: quota.period().as_nanos() as i128,
            burst: i128::from(quota.capacity()),
            tat: (0, 0),
        }
    }

    fn tokens(&self, tat: i128, now: i128) -> i128 {
        (self.burst * self.period - (tat - now).max(0)) / self.period
    }

    /// Fails unless so many may have been granted.
    fn check(
        &mut self,
        before: i128,
        after: i128,
        asked: (u64, u64),
        granted: u64,
        debt: Duration,
    ) {
        // A microsecond is as exact as the servers' clocks are.
        let (before, after) = ((before - 1_000) * self.amount, after * self.amount);
        let allowed = |there: i128| {
            let there = there.min(i128::from(asked.1));
            if there < i128::from(asked.0) { 0 } else { there }
        };
        // The interval is rounded up, by up to a sixteenth of a nanosecond for each token: less may be there.
        let slack = self.burst * self.amount;
        let least = allowed(self.tokens(self.tat.1, before - slack));
        let most = allowed(self.tokens(self.tat.0, after));
        let got = i128::from(granted);
        assert!((least..=most).contains(&got), "{granted} of {asked:?}, not {least} to {most}");
        self.tat.0 = self.tat.0.max(before) + got * self.period;
        self.tat.1 = self.tat.1.max(after) + got * self.period;
        let debt = debt.as_nanos() as i128 * self.amount;
        let slack = slack + 1_000 * self.amount;
        let (low, high) = (self.tat.0 - after - slack, self.tat.1 - before + slack);
        assert!((low..=high).contains(&debt), "{debt} not in {low} to {high}");
    }
}

/// Random questions with random rests between them: also such after which a bucket that forgets the maximum
/// holds too much.
pub async fn agrees_with_reference(store: &impl RateStore, questions: usize) {
    agrees_by(nanos, store, questions).await;
}

/// By the store's clock.
pub async fn agrees_by(nanos: impl Fn() -> i128, store: &impl RateStore, questions: usize) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (number, quota) in
        ["100/s burst 10", "333/s burst 7", "3000000/s burst 60000"].iter().enumerate()
    {
        let quota: Quota = quota.parse().unwrap();
        let burst = quota.capacity();
        let id = RecordId::of(&seed.to_le_bytes(), &number.to_le_bytes());
        let mut reference = Reference::new(&quota);
        for n in 0..questions {
            let at_least = random.random_range(1..=(burst / 3).max(1));
            let asked = (at_least, random.random_range(at_least..=burst));
            let before = nanos();
            let taken = store.take(&id, &quota, asked.0, asked.1).await.unwrap();
            reference.check(before, nanos(), asked, taken.granted, taken.debt);
            // A burst at once, then a rest that is shorter or longer than it takes to fill.
            if n % 4 == 3 {
                let rest = quota.fill_time().mul_f64(random.random_range(0.0..1.5));
                sleep(rest.max(Duration::from_micros(1))).await;
            }
        }
    }
    // One that takes nine years to fill, all at once.
    let quota: Quota = "1/3000d".parse().unwrap();
    let id = RecordId::of(&seed.to_le_bytes(), b"long");
    let first = store.take(&id, &quota, 1, 1).await.unwrap();
    assert_eq!(first.granted, 1);
    let day = 86_400;
    assert!((2_999 * day..=3_000 * day).contains(&first.debt.as_secs()), "{:?}", first.debt);
    assert_eq!(store.take(&id, &quota, 1, 1).await.unwrap().granted, 0);
    // A quota made smaller finds the bucket empty, not overdrawn.
    let smaller: Quota = "100/s burst 2".parse().unwrap();
    let taken = store.take(&id, &smaller, 1, 1).await.unwrap();
    assert_eq!(taken.granted, 0);
    assert!(taken.debt <= Duration::from_millis(20), "{:?}", taken.debt);
    sleep(Duration::from_millis(15)).await;
    assert_eq!(store.take(&id, &smaller, 1, 1).await.unwrap().granted, 1);
}

/// Many ask at the same time for what is there once.
pub async fn grants_no_token_twice(clients: &[impl RateStore]) {
    let quota: Quota = "1/h burst 100".parse().unwrap();
    let id = RecordId::of(b"twice", &rand::random::<[u8; 8]>());
    let all = (0..500).map(|n| clients[n % clients.len()].take(&id, &quota, 1, 3));
    let all = futures_util::future::join_all(all).await;
    let granted: u64 = all.into_iter().map(|taken| taken.unwrap().granted).sum();
    assert_eq!(granted, 100);
}

/// With tokens in advance, and with a deadline for a busy machine.
pub fn limiter(store: impl RateStore, name: &'static str) -> SharedRateLimiter {
    RateLimiter::shared(store, name, WhenDown::Deny)
        .quota("2000/s burst 400".parse().unwrap())
        .advance(100, Duration::from_millis(50))
        .deadline(Duration::from_secs(5))
        .build()
        .unwrap()
}

/// 1,000 checks, one after the other and at once.
pub async fn asks_seldom(store: impl RateStore) {
    let limiter = RateLimiter::shared(store, "seldom", WhenDown::Deny)
        .quota("100000/s burst 20000".parse().unwrap())
        .advance(200, Duration::from_millis(100))
        .deadline(Duration::from_secs(5))
        .build()
        .unwrap();
    for _ in 0..1_000 {
        limiter.try_acquire().await.unwrap();
    }
    let questions = limiter.stats().questions;
    let all = futures_util::future::join_all((0..1_000).map(|_| limiter.try_acquire())).await;
    assert!(all.iter().all(Result::is_ok));
    let more = limiter.stats().questions - questions;
    assert!(questions <= 10 && more <= 10, "{questions} and {more}");
}

// ---- several processes -------------------------------------------------------------------------

const CHILD: &str = "BUTTRESS_TEST_CHILD";

/// What a test that is also a child process was told by its parent.
pub fn told() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// A load for a while; prints when each admitted call began and ended.
pub async fn load(limiter: &SharedRateLimiter) -> Vec<(i128, i128)> {
    let end = Instant::now() + Duration::from_millis(900);
    let worker = async || {
        let mut admitted = vec![];
        while Instant::now() < end {
            let before = nanos();
            match limiter.try_acquire().await {
                Ok(()) => admitted.push((before, nanos())),
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
            // Now and then all of them rest, and the bucket fills.
            if before / 150_000_000 % 3 == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        admitted
    };
    let all = futures_util::future::join_all((0..8).map(|_| worker())).await;
    let all = all.concat();
    for (before, after) in &all {
        println!("admitted {before} {after}");
    }
    all
}

/// On every interval at most `burst + rate * t`: of the calls that surely were in it.
pub fn keeps_the_quota(quota: &Quota, admitted: &[(i128, i128)]) {
    let mut by_end = admitted.to_vec();
    by_end.sort_by_key(|(_, end)| *end);
    let nanos_per_token = quota.period().as_nanos() as f64 / quota.amount();
    for (from, _) in admitted {
        let mut inside = 0;
        for (start, end) in by_end.iter().filter(|(start, _)| start >= from) {
            let _ = start;
            inside += 1;
            let most = quota.capacity() as f64 + (end - from + 1_000) as f64 / nanos_per_token;
            assert!(f64::from(inside) <= most, "{inside} in {} ns, not {most}", end - from);
        }
    }
}

/// Runs `test` of this program in four processes at the same time, each told `what`, and checks what all of
/// them together have admitted.
pub async fn four_processes(test: &str, what: &str) {
    let quota: Quota = "2000/s burst 400".parse().unwrap();
    let children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(CHILD, what)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut admitted = vec![];
    for child in children {
        let output =
            tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let before = admitted.len();
        for line in text.lines().filter_map(|line| line.split("admitted ").nth(1)) {
            let (start, end) = line.split_once(' ').unwrap();
            admitted.push((start.parse().unwrap(), end.trim().parse::<i128>().unwrap()));
        }
        assert!(admitted.len() > before, "a process got nothing: {text}");
    }
    keeps_the_quota(&quota, &admitted);
    // Of the 1,800 that come back in that time and the 300 that the bucket holds.
    assert!(admitted.len() > 700, "{}", admitted.len());
    println!("{} admitted", admitted.len());
}

// ---- outages -----------------------------------------------------------------------------------

/// With the server away: the policy decides, and no call takes longer than its deadline.
pub async fn bears_an_outage(store: impl RateStore + Clone) {
    let make = |name, when_down| {
        let quota = "100/s burst 20".parse().unwrap();
        RateLimiter::shared(store.clone(), name, when_down).quota(quota).build().unwrap()
    };
    let allow = make("allow", WhenDown::Allow);
    let deny = make("deny", WhenDown::Deny);
    let share = make("share", WhenDown::LocalShare { of: 4 });
    let mut longest = Duration::ZERO;
    let (mut admitted, since) = (0, Instant::now());
    for _ in 0..30 {
        let asked = Instant::now();
        allow.try_acquire().await.unwrap();
        longest = longest.max(asked.elapsed());
        let asked = Instant::now();
        let why = deny.try_acquire().await.unwrap_err();
        longest = longest.max(asked.elapsed());
        assert_eq!(why.kind(), buttress::RejectionKind::StoreUnavailable);
        let asked = Instant::now();
        admitted += u32::from(share.try_acquire().await.is_ok());
        longest = longest.max(asked.elapsed());
    }
    // 50 ms, and a busy machine.
    assert!(longest < Duration::from_millis(300), "{longest:?}");
    let most = 5.0 + 25.0 * since.elapsed().as_secs_f64();
    assert!(admitted >= 5 && f64::from(admitted) <= most, "{admitted} of {most}");
    for limiter in [&allow, &deny, &share] {
        let stats = limiter.stats();
        assert!(limiter.is_store_down());
        assert_eq!(stats.without_store, 30);
        assert!(stats.questions < 15, "{stats:?}");
    }
}

/// With the server back: the store is asked again.
pub async fn recovers(limiter: &SharedRateLimiter) {
    let since = Instant::now();
    while limiter.is_store_down() || limiter.try_acquire().await.is_err() {
        let _ = limiter.try_acquire().await;
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", limiter.stats());
        sleep(Duration::from_millis(20)).await;
    }
}
