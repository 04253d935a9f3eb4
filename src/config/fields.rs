//! The tables themselves.

use super::schema::{Field, Kind};

const fn field(key: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Field {
    Field { key, kind, default, doc }
}

const YEAR: f64 = 365.0 * 86400.0;
const CENTURIES: f64 = 500.0 * YEAR;
const U32: u64 = u32::MAX as u64;

const fn count(max: u64) -> Kind {
    Kind::Count { min: 1, max }
}
const fn seconds(min: f64, max: f64) -> Kind {
    Kind::Seconds { min, max }
}
const SHARE: Kind = Kind::Number { min: 0.0, max: 1.0, percent: true };
const SPAN: Kind = seconds(0.001, YEAR);
static CANCELLED: Kind = seconds(0.0, YEAR);
const CANCELLED_AFTER: Field = field(
    "cancelled_after",
    Kind::Off("never", &CANCELLED),
    "1",
    "A call given up after this time counts as a failure; \"never\" does not count them.",
);
const SHADOW: Field =
    field("shadow", Kind::Flag, "false", "Decides and reports, but refuses nothing.");

/// Everything.
pub(super) static ROOT: &[Field] = &[
    field(
        "resilience",
        Kind::Table(SEED),
        "",
        "The block other tools have; the default of every breaker.",
    ),
    field("breakers", Kind::Map(&BREAKER), "", "Circuit breakers by name."),
    field("rate_limits", Kind::Map(&RATE_LIMIT), "", "Rate limits by name."),
    field("retries", Kind::Map(&RETRY), "", "Retry policies by name."),
    field("retry_budgets", Kind::Map(&RETRY_BUDGET), "", "Retry budgets by name."),
    field("failure_budgets", Kind::Map(&FAILURE_BUDGET), "", "Failure budgets by name."),
    field("faults", Kind::Map(&FAULTS), "", "Fault plans by name."),
    field("clients", Kind::Map(&CLIENT), "", "Stacks around calls that go out, by name."),
    field("servers", Kind::Map(&SERVER), "", "Stacks around calls that come in, by name."),
];

static SEED: &[Field] = &[
    field("circuit_breaker", Kind::Table(SEED_BREAKER), "", "Defaults of every breaker."),
    field("shutdown", Kind::Table(SEED_SHUTDOWN), "", "Graceful shutdown."),
    field("heartbeat", Kind::Table(SEED_HEARTBEAT), "", "Heartbeat."),
    field("watchdog", Kind::Table(SEED_WATCHDOG), "", "Watchdog."),
    field("rate_limiter", Kind::Ignored, "", "Has no meaning; rate limits are in rate_limits."),
];
static SEED_BREAKER: &[Field] = &[
    field("max_failures", legacy(1.0, 100.0, true), "5", "Failures in a row that open it."),
    field("reset_timeout", legacy(1.0, 3600.0, false), "60", "How long it stays open."),
    field("half_open_max_calls", legacy(1.0, 10.0, true), "1", "Probes that close it."),
];
static SEED_SHUTDOWN: &[Field] = &[
    field("timeout", legacy(5.0, 300.0, false), "30", "Longest shutdown."),
    field(
        "default_timeout",
        legacy(5.0, 300.0, false),
        "",
        "Another name of timeout; ignored with clamp.",
    ),
    field(
        "force_exit_code",
        Kind::Count { min: 0, max: 255 },
        "1",
        "Exit code when the time is over.",
    ),
];
static SEED_HEARTBEAT: &[Field] =
    &[field("interval", legacy(1.0, 300.0, false), "10", "Time between two beats.")];
static SEED_WATCHDOG: &[Field] =
    &[field("timeout", legacy(1.0, 3600.0, false), "30", "Silence after which it fires.")];

const fn legacy(min: f64, max: f64, whole: bool) -> Kind {
    Kind::Legacy { min, max, whole }
}

pub(super) static BREAKER: Kind = Kind::Def("breaker", &Kind::Table(BREAKER_FIELDS));
pub(super) static BREAKER_FIELDS: &[Field] = &[
    field("consecutive_failures", count(U32), "5 without rates", "Failures in a row that open it."),
    field("failure_rate", SHARE, "", "Share of failures in the window that opens it."),
    field("slow_calls", Kind::Table(SLOW), "", "Slow calls open it too."),
    field("window", seconds(0.01, YEAR), "10 with rates", "The window, as time."),
    field("window_calls", count(U32), "", "The window, as calls."),
    field("min_calls", count(U32), "20", "Calls the window needs before a rate counts."),
    field("open_for", SPAN, "60", "How long it stays open."),
    field("open_for_max", SPAN, "", "Openings in a row are longer, up to this."),
    field("half_open_calls", count(U32), "1", "Probes, and successes that close it."),
    field("half_open_for", SPAN, "60", "Half-open for at most this time."),
    field("probe_lease", SPAN, "30", "A probe without result gives its place back after this."),
    field("ramp", SPAN, "", "Lets traffic back in bit by bit over this time."),
    CANCELLED_AFTER,
    SHADOW,
    field(
        "seed",
        Kind::Count { min: 0, max: i64::MAX as u64 },
        "",
        "Seed of its random numbers; a reload does not change it.",
    ),
];
static SLOW: &[Field] = &[
    field("after", seconds(1e-9, YEAR), "", "A call this long is slow."),
    field("rate", SHARE, "", "Share of slow calls that opens it."),
];

pub(super) static RATE_LIMIT: Kind =
    Kind::Def("rate_limit", &Kind::Short("rate", RATE_LIMIT_FIELDS));
pub(super) static RATE_LIMIT_FIELDS: &[Field] = &[
    field("rate", Kind::Rate, "", "The rate, with its burst."),
    field(
        "initial_tokens",
        Kind::Number { min: 0.0, max: 9e15, percent: false },
        "the burst",
        "Tokens at the start; a reload adds none.",
    ),
    field("max_waiting", Kind::Count { min: 0, max: U32 }, "", "Most calls that wait."),
    SHADOW,
];

pub(super) static RETRY: Kind = Kind::Def("retry", &Kind::Short("like", RETRY_FIELDS));
static BUDGET_OF_CLASS: Kind = Kind::Count { min: 0, max: U32 - 1 };
static ATTEMPTS: Kind = count(U32);
static RETRY_AFTER: Kind = seconds(0.0, CENTURIES);
const CLASS: Kind = Kind::Off("unlimited", &BUDGET_OF_CLASS);
const DELAY: Kind = seconds(0.0, CENTURIES);
pub(super) static RETRY_FIELDS: &[Field] = &[
    field(
        "like",
        Kind::Text,
        "adaptive",
        "The policy this one starts from: default, adaptive, or a name such as FLOW_NODE_DEFAULT.",
    ),
    field("max_attempts", Kind::Off("unlimited", &ATTEMPTS), "as like has it", "Attempts in all."),
    field("transient", CLASS, "as like has it", "Retries of transient failures."),
    field("flaky", CLASS, "as like has it", "Retries of flaky failures."),
    field("permanent", CLASS, "as like has it", "Retries of permanent failures."),
    field("base_delay", DELAY, "as like has it", "First delay."),
    field("max_delay", DELAY, "as like has it", "Longest delay."),
    field(
        "backoff_factor",
        Kind::Number { min: 1.0, max: 1e9, percent: false },
        "as like has it",
        "What a delay is multiplied by.",
    ),
    field(
        "jitter",
        Kind::Number { min: 0.0, max: 1e9, percent: true },
        "as like has it",
        "Random share of the delay that is added.",
    ),
    field(
        "backoff",
        Kind::Table(BACKOFF),
        "as like has it",
        "The delays, instead of the four keys above.",
    ),
    field("deadline", seconds(1e-9, CENTURIES), "as like has it", "Longest time for all attempts."),
    field(
        "attempt_timeout",
        seconds(1e-9, CENTURIES),
        "as like has it",
        "Longest time for one attempt.",
    ),
    field(
        "expected_attempt_time",
        DELAY,
        "as like has it",
        "No attempt starts with less time left.",
    ),
    field(
        "max_retry_after",
        Kind::Off("ignore", &RETRY_AFTER),
        "as like has it",
        "Longest Retry-After that is honoured.",
    ),
    field("retry_unsafe", Kind::Flag, "as like has it", "Also what may not be done twice."),
    field(
        "give_up_if_not_ready",
        Kind::Flag,
        "as like has it",
        "No retry when the service is not ready.",
    ),
    field("fail_immediately", Kind::Flag, "as like has it", "No retry at all."),
    field(
        "guarantee",
        Kind::Choice(&["at_least_once", "exactly_once", "AT_LEAST_ONCE", "EXACTLY_ONCE"]),
        "as like has it",
        "What may happen twice.",
    ),
    field(
        "jitter_seed",
        Kind::Count { min: 0, max: i64::MAX as u64 },
        "",
        "Seed of its random numbers.",
    ),
];
static BACKOFF: &[Field] = &[
    field("base", DELAY, "", "First delay."),
    field("cap", DELAY, "constant without", "Longest delay."),
    field(
        "factor",
        Kind::Number { min: 1.0, max: 1e9, percent: false },
        "2",
        "What a delay is multiplied by.",
    ),
    field("jitter", Kind::Variant(JITTER), "full", "How delays are spread."),
];
static JITTER: &[Field] = &[
    field("none", Kind::Unit, "", "Exactly the delay."),
    field("full", Kind::Unit, "", "Between nothing and the delay."),
    field("equal", Kind::Unit, "", "Between half and the whole delay."),
    field("decorrelated", Kind::Unit, "", "From the last delay."),
    field(
        "proportional",
        Kind::Number { min: 0.0, max: 1e9, percent: true },
        "",
        "Up to this share more.",
    ),
    field("additive", DELAY, "", "Up to this time more."),
];

pub(super) static RETRY_BUDGET: Kind = Kind::Def("retry_budget", &Kind::Table(RETRY_BUDGET_FIELDS));
pub(super) static RETRY_BUDGET_FIELDS: &[Field] = &[
    field(
        "ratio",
        Kind::Number { min: 1e-6, max: 10.0, percent: true },
        "0.2",
        "Retries for each request.",
    ),
    field("burst", count(1_000_000), "10", "Retries that may come at once."),
    field("floor", count(1_000_000), "3", "Retries saved up at the start; a reload adds none."),
    field("tokens", count(1_000_000), "140", "Size of the bucket."),
    field("initial_tokens", count(1_000_000), "28", "Tokens at the start; a reload adds none."),
    field("cost", count(1_000_000), "14", "Tokens of a retry."),
    field("throttled_cost", count(1_000_000), "5", "Tokens of a retry after throttling."),
];

pub(super) static FAILURE_BUDGET: Kind =
    Kind::Def("failure_budget", &Kind::Table(FAILURE_BUDGET_FIELDS));
pub(super) static FAILURE_BUDGET_FIELDS: &[Field] = &[
    field("threshold", SHARE, "0.05", "Share of failures above which it is breached."),
    field("window", SPAN, "30", "The window."),
    field("min_samples", count(U32), "50", "Calls the window needs."),
    field("recovery", SHARE, "0.5 (0.9 with slo)", "Recovered below this share of the threshold."),
    field("latch", Kind::Flag, "false", "Stays breached until it is reset."),
    field("action", Kind::Choice(&["notify", "reject", "shed"]), "notify", "What a breach does."),
    field("probes", SHARE, "0.01", "Share of calls let through while it rejects."),
    CANCELLED_AFTER,
    field("slo", Kind::Table(SLO), "", "A service level objective instead of the threshold."),
];
static SLO: &[Field] = &[
    field("objective", SHARE, "", "Share of calls that must succeed."),
    field("period", seconds(1.0, 10.0 * YEAR), "", "The period it is meant for."),
];

pub(super) static FAULTS: Kind = Kind::Def("faults", &Kind::Table(FAULTS_FIELDS));
static RULE_KIND: Kind = Kind::Def("fault_rule", &Kind::Table(RULE));
static WORD: Kind = Kind::Text;
pub(super) static FAULTS_FIELDS: &[Field] = &[
    field("rules", Kind::List(&RULE_KIND), "", "The faults, in order."),
    field("match_all", Kind::Flag, "false", "Every rule that matches acts, not only the first."),
    field("seed", Kind::Count { min: 0, max: i64::MAX as u64 }, "", "Seed of the draws."),
    field("max_share", SHARE, "1", "Most calls that may be hurt."),
    field("allow_in", Kind::List(&WORD), "", "Environments in which it works."),
    field("environment", Kind::Text, "", "The environment this is."),
    field("environment_from", Kind::Text, "", "The variable that names the environment."),
];
static RULE: &[Field] = &[
    field("fault", Kind::Variant(FAULT), "", "What happens."),
    field("share", SHARE, "1", "Share of calls it happens to."),
    field("matching", Kind::Def("matcher", &MATCHER), "everything", "The calls it can happen to."),
    field("during", Kind::Table(SCHEDULE), "always", "When."),
    field("max_active", count(U32), "", "Most calls it holds at once."),
];
static FAULT: &[Field] = &[
    field("latency", Kind::Variant(LATENCY), "", "Takes longer."),
    field("loss", Kind::Unit, "", "Is lost."),
    field("error", Kind::Table(ERROR), "", "Fails with an I/O error."),
    field("status", Kind::Count { min: 100, max: 999 }, "", "Answers with this HTTP status."),
    field("grpc", Kind::Table(GRPC), "", "Answers with this gRPC status."),
    field("hang", Kind::Unit, "", "Never answers."),
    field("hang_for", DELAY, "", "Answers after this time with an error."),
    field("reply_lost", Kind::Unit, "", "Is done, but the answer is lost."),
    field("slow_body", DELAY, "", "Time between two pieces of the body."),
    field("bandwidth", count(i64::MAX as u64), "", "Bytes each second."),
    field(
        "truncate_body",
        Kind::Count { min: 0, max: i64::MAX as u64 },
        "",
        "Ends after so many bytes.",
    ),
    field("corrupt_body", count(i64::MAX as u64), "", "One byte in so many is wrong."),
];
static ERROR: &[Field] = &[
    field("kind", Kind::Text, "", "Such as connection_reset."),
    field("message", Kind::Text, "", "Its text."),
];
static GRPC: &[Field] = &[
    field("code", Kind::Count { min: 0, max: U32 }, "", "The code."),
    field("message", Kind::Text, "", "Its text."),
];
const NUMBER: Kind = Kind::Number { min: 0.0, max: 1e12, percent: false };
const AT_MOST: Field = field("at_most", DELAY, "", "Never longer.");
static LATENCY: &[Field] = &[
    field("fixed", DELAY, "", "Always this."),
    field(
        "uniform",
        Kind::Table(&[
            field("middle", DELAY, "", "The middle."),
            field("jitter", DELAY, "", "Up to this more or less."),
            AT_MOST,
        ]),
        "",
        "Evenly spread.",
    ),
    field(
        "normal",
        Kind::Table(&[
            field("mean", DELAY, "", "The mean."),
            field("deviation", DELAY, "", "The deviation."),
            AT_MOST,
        ]),
        "",
        "Normal.",
    ),
    field(
        "lognormal",
        Kind::Table(&[
            field("median", DELAY, "", "The median."),
            field("sigma", NUMBER, "", "The shape."),
            AT_MOST,
        ]),
        "",
        "Log-normal.",
    ),
    field(
        "pareto",
        Kind::Table(&[
            field("least", DELAY, "", "The least."),
            field("shape", NUMBER, "", "The shape."),
            AT_MOST,
        ]),
        "",
        "Pareto.",
    ),
];
static SCHEDULE: &[Field] = &[
    field("start", DELAY, "0", "Begins then."),
    field("end", DELAY, "", "Ends then."),
    field("ramp", DELAY, "0", "Grows to its share over this time."),
    field("period", DELAY, "", "Begins anew after this time."),
];
static MATCHER_DEF: Kind = Kind::Def("matcher", &MATCHER);
static MATCHER: Kind = Kind::Variant(MATCHERS);
static MATCHERS: &[Field] = &[
    field("everything", Kind::Unit, "", "Every call."),
    field("name_or_url", Kind::Text, "", "Its name or URL contains this."),
    field("method", Kind::Text, "", "Its method."),
    field("path", Kind::Text, "", "Its path."),
    field("has_header", Kind::Text, "", "Has this header."),
    field(
        "header",
        Kind::Table(&[
            field("name", Kind::Text, "", "The header."),
            field("value", Kind::Text, "", "Its value."),
        ]),
        "",
        "Has this header with this value.",
    ),
    field(
        "token",
        Kind::Table(&[
            field("header", Kind::Text, "", "The header."),
            field("secret", Kind::Text, "", "The secret in it."),
        ]),
        "",
        "Brings the secret.",
    ),
    field("all", Kind::List(&MATCHER_DEF), "", "All of these."),
    field("any_of", Kind::List(&MATCHER_DEF), "", "One of these."),
    field("not", Kind::Def("matcher", &MATCHER), "", "Not this."),
];

pub(super) static CLIENT: Kind = Kind::Def("client", &Kind::Table(CLIENT_FIELDS));
pub(super) static CLIENT_FIELDS: &[Field] = &[
    field("total_timeout", SPAN, "", "Longest time for the call with all its attempts."),
    field("retry", Kind::Named("retries", &RETRY), "", "Retry policy."),
    field("retry_budget", Kind::Named("retry_budgets", &RETRY_BUDGET), "", "Retry budget."),
    field(
        "rate_limit",
        Kind::Named("rate_limits", &RATE_LIMIT),
        "",
        "Rate limit, of each attempt.",
    ),
    field(
        "backend",
        Kind::Short("limit", BACKEND),
        "",
        "Learns what the backend can take and lets calls wait for it. Without retry, there are retries paid from its headroom.",
    ),
    field(
        "hedge",
        Kind::Off("never", &Kind::Table(HEDGE)),
        "as its keys say with backend, else never",
        "Second attempts beside slow ones.",
    ),
    field("endpoints", Kind::Table(ENDPOINTS), "", "Settings of pools."),
    field("attempt_timeout", SPAN, "", "Longest time for one attempt."),
    field("breaker", Kind::Named("breakers", &BREAKER), "", "Circuit breaker, of each attempt."),
    field("faults", Kind::Named("faults", &FAULTS), "", "Fault plan, for each attempt."),
];
static IN_FLIGHT: Kind = count(1_000_000);
static BACKEND: &[Field] = &[
    field("limit", Kind::Off("learned", &IN_FLIGHT), "learned", "Most calls in flight."),
    field(
        "patience",
        SPAN,
        "total_timeout, or 1",
        "How long a call without a deadline waits for its turn.",
    ),
];
static HANDLERS: &[Field] = &[
    field("limit", Kind::Off("learned", &IN_FLIGHT), "learned", "Most calls in the handlers."),
    field(
        "patience",
        SPAN,
        "timeout, or 1",
        "How long a call without a deadline waits for its turn.",
    ),
];
pub(super) static HEDGE: &[Field] = &[
    field(
        "percentile",
        Kind::Number { min: 0.5, max: 0.9999, percent: true },
        "0.98",
        "Share of answers that come before a second attempt is made.",
    ),
    field("min_delay", seconds(0.001, 3600.0), "0.001", "No second attempt sooner than this."),
    field(
        "extra_load",
        Kind::Number { min: 1e-6, max: 1.0, percent: true },
        "0.1",
        "Second attempts for each call, in the long run.",
    ),
];
pub(super) static ENDPOINTS: &[Field] = &[
    field(
        "max_ejected",
        Kind::Number { min: 0.0, max: 0.999_999, percent: true },
        "0.5",
        "Share of the endpoints that may be left out.",
    ),
    field("failures_in_row", count(U32), "3", "Failures in a row after which one is left out."),
    field("probe_after", SPAN, "1", "Time until it is tried again."),
    field("probe_after_max", SPAN, "30", "Longest time between two tries."),
    field(
        "slow_start",
        seconds(0.0, YEAR),
        "2",
        "How long one that is back takes to get its full share.",
    ),
    field(
        "memory",
        SPAN,
        "10",
        "Two thirds of what is known of an endpoint are forgotten after this time without a call.",
    ),
];
pub(super) static SERVER: Kind = Kind::Def("server", &Kind::Table(SERVER_FIELDS));
pub(super) static SERVER_FIELDS: &[Field] = &[
    field("rate_limit", Kind::Named("rate_limits", &RATE_LIMIT), "", "Rate limit."),
    field("timeout", SPAN, "", "Longest time for a call, its wait for the backend included."),
    field(
        "backend",
        Kind::Short("limit", HANDLERS),
        "",
        "How many calls the handlers have at a time; the others wait.",
    ),
    field("failure_budget", Kind::Named("failure_budgets", &FAILURE_BUDGET), "", "Failure budget."),
    field("faults", Kind::Named("faults", &FAULTS), "", "Fault plan."),
];
