//! The shape of the service and the fourteen things that happen to it.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) clients: usize,
    /// Workers of all servers together.
    pub(crate) workers: usize,
    /// Arithmetic mean.
    pub(crate) service: Duration,
    pub(crate) sigma: f64,
    pub(crate) deadline: Duration,
    pub(crate) utilisation: f64,
    /// Mean number of requests that arrive at once; 1 is Poisson.
    pub(crate) burstiness: f64,
    /// What comes to a server that has so many already, for each of its workers, fails as other errors do.
    pub(crate) fail_beyond: Option<f64>,
}

impl Shape {
    /// The public one.
    pub(crate) fn a() -> Self {
        Self {
            clients: 10,
            workers: 50,
            service: Duration::from_millis(50),
            sigma: 0.6,
            deadline: Duration::from_secs(1),
            utilisation: 0.7,
            burstiness: 1.0,
            fail_beyond: None,
        }
    }

    pub(crate) fn capacity(&self) -> f64 {
        self.workers as f64 / self.service.as_secs_f64()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    S0,
    S1,
    S2,
    S2b,
    S3,
    S4,
    S5,
    S5c,
    S6,
    S7,
    S7b,
    S8,
    S9,
    S10,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Score {
    Goodput,
    /// Goodput as a share of the oracle's.
    OfOracle,
    /// The share of what is lost without any stack that is not lost.
    LossAvoided,
    /// As `OfOracle`, where a critical request weighs ten.
    Weighted,
}

/// How one server is at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) refused: bool,
    pub(crate) silent: bool,
    /// What arrives is delivered when this ends.
    pub(crate) deferred: bool,
    pub(crate) errors: f64,
    pub(crate) slow: f64,
    /// The share of attempts that are 50 times slower.
    pub(crate) tail: f64,
    pub(crate) capacity: f64,
}

pub(crate) const WELL: Condition = Condition {
    refused: false,
    silent: false,
    deferred: false,
    errors: 0.0,
    slow: 1.0,
    tail: 0.0,
    capacity: 1.0,
};

pub(crate) type Script = fn(usize, f64) -> Condition;

/// A shape and a scenario, as the servers and callers need it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) servers: usize,
    /// Of each server.
    pub(crate) workers: usize,
    pub(crate) queue: usize,
    /// Requests in a second from all clients; closed-loop users instead, where there are some.
    pub(crate) rate: f64,
    pub(crate) users: usize,
    pub(crate) think: Duration,
    pub(crate) critical: f64,
    pub(crate) quota_rate: Option<f64>,
    pub(crate) quota_burst: f64,
    pub(crate) retry_after: Duration,
    pub(crate) seconds: usize,
    /// Others arrive after those that count while these can still be answered: nobody gets a quiet end.
    pub(crate) goes_on: bool,
    /// Seconds of arrivals that count.
    pub(crate) window: (usize, usize),
    pub(crate) score: Score,
    pub(crate) script: Script,
    /// What peers are configured with.
    pub(crate) attempts: u32,
    pub(crate) attempt_timeout: Duration,
    /// A time limit on each attempt that even no stack at all has.
    pub(crate) transport_timeout: Option<Duration>,
    /// Arrivals at a rate that changes, in requests a second; `rate` otherwise.
    pub(crate) rate_at: Option<fn(f64) -> f64>,
    /// A server without workers and queue: an attempt takes 1 s and 10 ms for each that is in work.
    pub(crate) crowded: bool,
}

impl Plan {
    pub(crate) fn condition(&self, server: usize, seconds: f64) -> Condition {
        (self.script)(server, seconds)
    }

    /// What attempts are compared with at least. Users who wait offer less; against what they would offer it is no
    /// amplification.
    pub(crate) fn least_offered(&self) -> f64 {
        if self.users > 0 { self.rate } else { 1.0 }
    }
}

impl Scenario {
    pub(crate) const ALL: [Self; 14] = [
        Self::S0,
        Self::S1,
        Self::S2,
        Self::S2b,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S5c,
        Self::S6,
        Self::S7,
        Self::S7b,
        Self::S8,
        Self::S9,
        Self::S10,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::S0 => "S0",
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S2b => "S2b",
            Self::S3 => "S3",
            Self::S4 => "S4",
            Self::S5 => "S5",
            Self::S5c => "S5c",
            Self::S6 => "S6",
            Self::S7 => "S7",
            Self::S7b => "S7b",
            Self::S8 => "S8",
            Self::S9 => "S9",
            Self::S10 => "S10",
        }
    }

    /// Whatever the case of its letters.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|one| one.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("no scenario {name:?}"))
    }

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::S0 => "no fault",
            Self::S1 => "errors 1 % (10-35 s), 5 % (35-60 s)",
            Self::S2 => "refused 20-30 s, then 40 % capacity until 35 s",
            Self::S2b => "no answer 20-30 s",
            Self::S3 => "errors 30, 50, 70 %, 7 s each from 20 s",
            Self::S4 => "service x20 for 20-35 s",
            Self::S5 => "80 % load, capacity halved 20-30 s",
            Self::S5c => "the same with 1200 users who wait for their answer",
            Self::S6 => "2 s refused, 2 s up, 20-60 s",
            Self::S7 => "5 servers: no. 2 answers 500, 20-50 s",
            Self::S7b => "5 servers: no. 2 is x20 slower, 20-50 s",
            Self::S8 => "a quota for each client, offered twice: 429 with Retry-After",
            Self::S9 => "1 % of attempts x50 slow, 40 % load, deadline 40 %",
            Self::S10 => "1.5x overload, 30 % critical (weight 10)",
        }
    }

    fn script(self) -> Script {
        match self {
            Self::S0 | Self::S8 | Self::S10 => |_, _| WELL,
            Self::S1 => |_, t| {
                let errors = if t >= 35.0 {
                    0.05
                } else if t >= 10.0 {
                    0.01
                } else {
                    0.0
                };
                Condition { errors, ..WELL }
            },
            Self::S2 => |_, t| match t {
                20.0..30.0 => Condition { refused: true, ..WELL },
                30.0..35.0 => Condition { capacity: 0.4, ..WELL },
                _ => WELL,
            },
            Self::S2b => |_, t| Condition { silent: (20.0..30.0).contains(&t), ..WELL },
            Self::S3 => |_, t| {
                let errors = match t {
                    20.0..27.0 => 0.3,
                    27.0..34.0 => 0.5,
                    34.0..41.0 => 0.7,
                    _ => 0.0,
                };
                Condition { errors, ..WELL }
            },
            Self::S4 => |_, t| Condition {
                slow: if (20.0..35.0).contains(&t) { 20.0 } else { 1.0 },
                ..WELL
            },
            Self::S5 | Self::S5c => |_, t| {
                let capacity = if (20.0..30.0).contains(&t) { 0.5 } else { 1.0 };
                Condition { capacity, ..WELL }
            },
            Self::S6 => |_, t| Condition { refused: t >= 20.0 && (t - 20.0) % 4.0 < 2.0, ..WELL },
            Self::S7 => |server, t| {
                let bad = server == 2 && (20.0..50.0).contains(&t);
                Condition { errors: if bad { 1.0 } else { 0.0 }, ..WELL }
            },
            Self::S7b => |server, t| {
                let bad = server == 2 && (20.0..50.0).contains(&t);
                Condition { slow: if bad { 20.0 } else { 1.0 }, ..WELL }
            },
            Self::S9 => |_, _| Condition { tail: 0.01, ..WELL },
        }
    }

    pub(crate) fn plan(self, shape: &Shape) -> Plan {
        let mut shape = shape.clone();
        if self == Self::S9 {
            shape.deadline = shape.deadline.mul_f64(0.4);
        }
        let capacity = shape.capacity();
        let load = match self {
            Self::S5 | Self::S5c => shape.utilisation * 0.8 / 0.7,
            Self::S8 => shape.utilisation * 2.0,
            Self::S9 => shape.utilisation * 0.4 / 0.7,
            Self::S10 => 1.5,
            _ => shape.utilisation,
        };
        let rate = capacity * load;
        let servers = if matches!(self, Self::S7 | Self::S7b) { 5 } else { 1 };
        // 1200 users for 800 requests a second in shape A.
        let users = if self == Self::S5c { (rate * 1.5).round() as usize } else { 0 };
        let think = Duration::from_secs_f64((1.5 - shape.service.as_secs_f64()).max(0.1));
        let quota = capacity * shape.utilisation / shape.clients as f64;
        let window = match self {
            Self::S0 | Self::S8 | Self::S9 | Self::S10 => (5, 60),
            Self::S1 => (10, 60),
            Self::S2 | Self::S2b | Self::S3 | Self::S7 | Self::S7b => (20, 50),
            Self::S4 | Self::S5 | Self::S5c | Self::S6 => (20, 60),
        };
        let score = match self {
            Self::S0 => Score::Goodput,
            Self::S1 | Self::S7 | Self::S7b | Self::S9 => Score::LossAvoided,
            Self::S10 => Score::Weighted,
            _ => Score::OfOracle,
        };
        Plan {
            servers,
            workers: (shape.workers / servers).max(1),
            // A second of work.
            queue: (capacity / servers as f64).round().max(1.0) as usize,
            rate,
            users,
            think,
            critical: 0.3,
            quota_rate: (self == Self::S8).then_some(quota),
            quota_burst: (quota / 7.0).max(1.0),
            retry_after: shape.deadline,
            seconds: 60,
            goes_on: true,
            window,
            score,
            script: self.script(),
            attempts: 3,
            attempt_timeout: shape.deadline.mul_f64(0.3),
            transport_timeout: None,
            rate_at: None,
            crowded: false,
            shape,
        }
    }
}
