//! The load: arrivals that do not wait for answers, sent twice, and what became of each.
//!
//! Open loop, because that is what the internet is: a slow server does not slow its callers down. A
//! generator that waits for answers would send less exactly when the backend is in trouble.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::script::Day;

/// Requests per second, on average: 70 % of what the backend can do.
pub(crate) const RATE: f64 = 280.0;
/// They come from this many callers.
const CALLERS: u64 = 20;
/// What one more caller sends in the phase in which it is greedy.
const GREED: f64 = 500.0;
/// A caller who has waited this long has left.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// SplitMix64: a few lines, and the same numbers on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    /// Different purposes draw from different streams of one seed.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        Self(purpose.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponential: the gap to the next arrival of a Poisson process.
    fn gap(&mut self, rate: f64) -> f64 {
        -(1.0 - self.within(0.0, 1.0)).ln() / rate
    }

    /// Log-normal with mean 1 and a moderate tail (p99 is three times the mean).
    pub(crate) fn around_one(&mut self) -> f64 {
        const SIGMA: f64 = 0.5;
        let (a, b) = (1.0 - self.within(0.0, 1.0), self.within(0.0, 1.0));
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()
    }
}

/// How a request ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A 200 in time.
    Good,
    /// The gateway said no, with a reason.
    Refused,
    /// Any other answer.
    Failed,
    /// No connection, or one that broke.
    Unreachable,
    /// No answer before the deadline.
    TooLate,
}

/// One request. All times in seconds since the start of the day.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) sent: f64,
    pub(crate) ended: f64,
    pub(crate) end: End,
}

impl Sample {
    pub(crate) fn wait(&self) -> f64 {
        self.ended - self.sent
    }
}

/// What the callers experienced in one of the two worlds.
pub(crate) struct Record {
    /// Everything that was sent, the greedy caller's requests included.
    pub(crate) sent: Arc<Tally>,
    /// Without the greedy caller's, as everything below: what counts is how the others fare.
    pub(crate) offered: Tally,
    /// Good ends, by the time at which they were sent.
    pub(crate) good: Tally,
    /// In the order in which they ended.
    samples: Mutex<Vec<Sample>>,
}

impl Record {
    pub(crate) fn new(day: &Day) -> Self {
        let tally = || Tally::new(day.length());
        Self { sent: Arc::new(tally()), offered: tally(), good: tally(), samples: Mutex::default() }
    }

    fn push(&self, sample: Sample) {
        if sample.end == End::Good {
            self.good.add(sample.sent);
        }
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    /// Those that were sent in `[from, until)`.
    pub(crate) fn sent_between(&self, from: f64, until: f64) -> Vec<Sample> {
        let all = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|sample| (from..until).contains(&sample.sent)).copied().collect()
    }

    /// Those that ended since `from`.
    pub(crate) fn ended_since(&self, from: f64) -> Vec<Sample> {
        let all = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks may swap places by a few milliseconds, so look a little further than the first miss.
        let recent = all.iter().rev().take_while(|sample| sample.ended > from - 0.1);
        recent.filter(|sample| sample.ended >= from).copied().collect()
    }
}

/// Counts events per tenth of a second.
pub(crate) struct Tally(Vec<AtomicU32>);

impl Tally {
    pub(crate) fn new(seconds: f64) -> Self {
        // Two seconds more for those that arrive late.
        Self((0..(seconds * 10.0) as usize + 20).map(|_| AtomicU32::new(0)).collect())
    }

    pub(crate) fn add(&self, at: f64) {
        if let Some(slot) = self.0.get((at * 10.0) as usize) {
            slot.fetch_add(1, Relaxed);
        }
    }

    /// Events in `[from, until)`, to the tenth of a second.
    pub(crate) fn between(&self, from: f64, until: f64) -> u32 {
        let end = Self::slot(until).min(self.0.len());
        let slots = Self::slot(from).min(end)..end;
        self.0[slots].iter().map(|n| n.load(Relaxed)).sum()
    }

    /// The seconds that [`between`](Self::between) really looks at.
    pub(crate) fn covered(from: f64, until: f64) -> f64 {
        (Self::slot(until) - Self::slot(from)) as f64 / 10.0
    }

    fn slot(at: f64) -> usize {
        (at.max(0.0) * 10.0).round() as usize
    }
}

/// Sends the load of the whole day to every target, and returns when the last request has ended.
pub(crate) async fn generate(day: Arc<Day>, targets: [(Uri, Arc<Record>); 2]) {
    let mut rng = Rng::new(day.seed, "load");
    // Separate clients: connection pools must not be shared between the two worlds.
    let targets = targets.map(|(uri, record)| (client(), uri, record));
    let mut requests = JoinSet::new();
    let mut next = 0.0;
    loop {
        let greed = if day.phases[day.phase_at(next)].greedy { GREED } else { 0.0 };
        next += rng.gap(RATE + greed);
        if next >= day.length() {
            break;
        }
        let greedy = rng.within(0.0, RATE + greed) < greed;
        let caller = if greedy { 0 } else { 1 + rng.next() % CALLERS };
        sleep_until(day.at(next)).await;
        for (client, uri, record) in &targets {
            let request = Request::get(uri.clone())
                // The load plays the balancer in front of the gateway, which says who is calling.
                .header("x-forwarded-for", format!("198.51.100.{caller}"))
                .body(Empty::new());
            if let Ok(request) = request {
                let call = call(client.clone(), request);
                requests.spawn(one(call, !greedy, record.clone(), day.clone()));
            }
        }
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

type Caller = Client<HttpConnector, Empty<Bytes>>;

fn client() -> Caller {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn one(call: impl Future<Output = End>, counts: bool, record: Arc<Record>, day: Arc<Day>) {
    let sent = day.now();
    record.sent.add(sent);
    if counts {
        record.offered.add(sent);
    }
    let end = timeout(DEADLINE, call).await.unwrap_or(End::TooLate);
    if counts {
        record.push(Sample { sent, ended: day.now(), end });
    }
}

async fn call(client: Caller, request: Request<Empty<Bytes>>) -> End {
    let Ok(response) = client.request(request).await else { return End::Unreachable };
    let status = response.status();
    let problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/problem+json"));
    match response.into_body().collect().await {
        Err(_) => End::Unreachable,
        Ok(_) if status == StatusCode::OK => End::Good,
        Ok(_) if problem => End::Refused,
        Ok(_) => End::Failed,
    }
}
