//! The statements. Each is one transaction of its own, and decides under the row's lock what [`Entry`] decides
//! in memory; the rules are told there.
//!
//! Two things about PostgreSQL they rely on. A statement sees the rows as they were when it began; but an
//! `UPDATE`, a `DELETE` and `ON CONFLICT DO UPDATE` wait for whoever holds the row, and then look at its newest
//! version, and decide their `WHERE` again. So what a statement changes is decided on what is there. What it
//! only reads, because it may not change it, may be older by the length of the call, which is as if the call had
//! come that much earlier. Where the two contradict each other (nothing was changed, and what was read does not
//! say why) it answers so, and is sent again.
//!
//! Time is `clock_timestamp()`: `now()` stands still from the beginning of the statement, and may be long past
//! when a lock has been waited for. In microseconds, so that any length of time can be added.
//!
//! [`Entry`]: crate::store::Entry

/// Microseconds since 1970, as they pass.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The same in the units of a quota. They pass what a `bigint` holds.
const NOW_UNITS: &str =
    "((extract(epoch FROM clock_timestamp()) * 1000000)::bigint::numeric * 16000)";

/// `r` may be forgotten.
const EXPIRED: &str = "(r.expires_at <= @now@ AND NOT (r.state = 0 AND r.lease_until > @now@))";

/// What is read of a record, in the order in which `row::entry` wants it.
const COLUMNS: &str = "state, generation, attempt, fingerprint, runs, lease_until, expires_at, created_at, \
                       status, head, body";

/// Ours if the record is free, dead, or ours already; else what stands in the way. `first` is whether something
/// was written.
const BEGIN: &str = "
WITH n AS MATERIALIZED (SELECT @now@ AS t),
known AS (
    SELECT @columns@ FROM @p@_records r, n
    WHERE r.id = $1
      AND NOT (r.expires_at <= n.t AND NOT (r.state = 0 AND r.lease_until > n.t))
      AND NOT (r.state = 0 AND r.attempt = $2)
      AND NOT (r.state = 0 AND r.fingerprint = $3 AND r.lease_until <= n.t)
),
ours AS (
    INSERT INTO @p@_records AS r
        (id, state, generation, attempt, fingerprint, runs, lease_until, expires_at, created_at)
    SELECT $1, 0, nextval('@p@_generation'), $2, $3, 1, n.t + $4, n.t + $4 + $5, n.t
    FROM n WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (id) DO UPDATE
    SET (state, generation, attempt, fingerprint, runs, lease_until, expires_at, created_at, status, head, body) = (
        SELECT
            CASE k WHEN 'keep' THEN r.state WHEN 'interrupt' THEN 2 ELSE 0 END,
            CASE WHEN k IN ('fresh', 'take') THEN greatest(excluded.generation, r.generation + 1)
                 ELSE r.generation END,
            CASE WHEN k IN ('fresh', 'take') THEN $2 ELSE r.attempt END,
            CASE k WHEN 'fresh' THEN $3 ELSE r.fingerprint END,
            CASE k WHEN 'fresh' THEN 1 WHEN 'take' THEN least(r.runs + 1, 65535) ELSE r.runs END,
            CASE WHEN k IN ('keep', 'interrupt') THEN r.lease_until ELSE t + $4 END,
            CASE k WHEN 'keep' THEN r.expires_at
                   WHEN 'fresh' THEN t + $4 + $5
                   WHEN 'interrupt' THEN greatest(r.expires_at, t + $5)
                   ELSE greatest(r.expires_at, t + $4 + $5) END,
            CASE k WHEN 'fresh' THEN t ELSE r.created_at END,
            CASE k WHEN 'keep' THEN r.status END,
            CASE k WHEN 'keep' THEN r.head END,
            CASE k WHEN 'keep' THEN r.body END
        FROM (
            SELECT t, CASE
                WHEN r.expires_at <= t AND NOT (r.state = 0 AND r.lease_until > t) THEN 'fresh'
                WHEN r.state <> 0 THEN 'keep'
                WHEN r.attempt = $2 THEN 'hold'
                WHEN r.fingerprint <> $3 OR r.lease_until > t THEN 'keep'
                WHEN r.runs < $6 THEN 'take'
                ELSE 'interrupt' END AS k
            FROM (SELECT @now@ AS t) a
        ) d
    )
    WHERE @expired@
       OR (r.state = 0 AND r.attempt = $2)
       OR (r.state = 0 AND r.fingerprint = $3 AND r.lease_until <= @now@)
    RETURNING @columns@
)
SELECT @columns@, @now@, true FROM ours
UNION ALL
SELECT @columns@, n.t, false FROM known, n";

/// How a change ends: 0 done, 1 done before, 2 not ours, 3 contradictory, 4 interrupted meanwhile.
const COMPLETE: &str = "
WITH ours AS (
    UPDATE @p@_records r
    SET state = 1, lease_until = @now@, expires_at = @now@ + $3, status = $4, head = $5, body = $6
    WHERE r.id = $1 AND r.attempt = $2 AND r.state IN (0, 2) AND NOT @expired@
    RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM ours) THEN 0 ELSE coalesce((
    SELECT CASE WHEN r.attempt <> $2 OR @expired@ THEN 2 WHEN r.state = 1 THEN 1 ELSE 3 END
    FROM @p@_records r WHERE r.id = $1), 2) END";

const RENEW: &str = "
WITH ours AS (
    UPDATE @p@_records r
    SET lease_until = @now@ + $3, expires_at = greatest(r.expires_at, @now@ + $3 + $4)
    WHERE r.id = $1 AND r.attempt = $2 AND r.state = 0 AND NOT @expired@
    RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM ours) THEN 0 ELSE coalesce((
    SELECT CASE WHEN r.attempt <> $2 OR @expired@ OR r.state = 1 THEN 2 WHEN r.state = 2 THEN 4 ELSE 3 END
    FROM @p@_records r WHERE r.id = $1), 2) END";

/// What took over leaves the record to those who were before, as nobody's.
const RELEASE: &str = "
WITH gone AS (
    DELETE FROM @p@_records r
    WHERE r.id = $1 AND r.attempt = $2 AND r.state IN (0, 2) AND r.runs <= 1 AND NOT @expired@
    RETURNING 1
),
left_to_others AS (
    UPDATE @p@_records r
    SET runs = r.runs - 1, attempt = '\\x00000000000000000000000000000000',
        lease_until = least(r.lease_until, @now@)
    WHERE r.id = $1 AND r.attempt = $2 AND r.state IN (0, 2) AND r.runs > 1 AND NOT @expired@
    RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM gone) OR EXISTS (SELECT FROM left_to_others) THEN 0 ELSE coalesce((
    SELECT CASE WHEN @expired@ THEN 1 WHEN r.attempt <> $2 OR r.state = 1 THEN 2 ELSE 3 END
    FROM @p@_records r WHERE r.id = $1), 1) END";

const INTERRUPT: &str = "
WITH ours AS (
    UPDATE @p@_records r
    SET state = 2, lease_until = @now@, expires_at = greatest(r.expires_at, @now@ + $3)
    WHERE r.id = $1 AND r.attempt = $2 AND r.state = 0 AND NOT @expired@
    RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM ours) THEN 0 ELSE coalesce((
    SELECT CASE WHEN r.attempt <> $2 OR @expired@ OR r.state = 1 THEN 2 WHEN r.state = 2 THEN 1 ELSE 3 END
    FROM @p@_records r WHERE r.id = $1), 2) END";

/// The lease ends now instead of later.
const ABANDON: &str = "
UPDATE @p@_records r SET lease_until = least(r.lease_until, @now@)
WHERE r.id = $1 AND r.attempt = $2 AND r.state = 0 AND NOT @expired@";

/// The attempt becomes that of nobody: a late owner is fenced off.
const RESOLVE: &str = "
WITH ours AS (
    UPDATE @p@_records r
    SET state = 1, attempt = '\\x00000000000000000000000000000000', lease_until = @now@,
        status = $3, head = $4, body = $5
    WHERE r.id = $1 AND r.generation = $2 AND NOT @expired@
      AND (r.state = 2 OR (r.state = 0 AND r.lease_until <= @now@))
    RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM ours) THEN 0 ELSE 2 END";

const FORGET: &str = "
WITH ours AS (
    DELETE FROM @p@_records r
    WHERE r.id = $1 AND r.generation = $2 AND NOT @expired@
      AND NOT (r.state = 0 AND r.lease_until > @now@)
    RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM ours) THEN 0 ELSE 2 END";

const GET: &str = "SELECT @columns@, @now@ FROM @p@_records r WHERE r.id = $1 AND NOT @expired@";

/// Rows that somebody is about to claim again are left to him. The time is asked for once: one that passes while
/// the rows are looked at cannot be looked up in the index, and the last purge would read all that is kept.
const PURGE: &str = "
WITH n AS MATERIALIZED (SELECT @now@ AS t),
gone AS (
    DELETE FROM @p@_records WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM @p@_records r
        WHERE r.expires_at <= (SELECT t FROM n) AND NOT (r.state = 0 AND r.lease_until > (SELECT t FROM n))
        ORDER BY r.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )) RETURNING 1
)
SELECT count(*) FROM gone";

/// The generic cell rate algorithm, see `rate_limit::core`. $2 interval, $3 burst, $4 at least, $5 at most.
/// A bucket that is not there is full. One that is emptier than empty (the clock was set back, or the quota
/// made smaller) is made empty: it would stay shut until the clock has caught up.
const TAKE: &str = "
WITH n AS MATERIALIZED (SELECT @units@ AS t),
known AS (
    SELECT l.tat - n.t AS debt FROM @p@_limits l, n
    WHERE l.id = $1
      AND l.tat > n.t + ($3 - $4)::numeric * $2
      AND l.tat <= n.t + $3::numeric * $2
),
ours AS (
    INSERT INTO @p@_limits AS l (id, tat, granted)
    SELECT $1, n.t + least($3, $5)::numeric * $2, least($3, $5)
    FROM n WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (id) DO UPDATE
    SET (tat, granted) = (
        SELECT base + g * $2, g FROM (
            SELECT base, CASE WHEN room < $4::numeric * $2 THEN 0
                              ELSE least($5::numeric, div(room, $2)) END AS g
            FROM (
                SELECT base, $3::numeric * $2 - (base - t) AS room
                FROM (
                    SELECT t, least(greatest(l.tat, t), t + $3::numeric * $2) AS base
                    FROM (SELECT @units@ AS t) a
                ) b
            ) c
        ) d
    )
    WHERE l.tat <= @units@ + ($3 - $4)::numeric * $2
       OR l.tat > @units@ + $3::numeric * $2
    RETURNING tat, granted
)
SELECT granted, greatest(tat - @units@, 0)::bigint FROM ours
UNION ALL
SELECT 0, debt::bigint FROM known";

/// Without an index, which each `take` would have to write to.
const PURGE_LIMITS: &str = "
WITH n AS MATERIALIZED (SELECT @units@ AS t),
gone AS (
    DELETE FROM @p@_limits WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM @p@_limits WHERE tat <= (SELECT t FROM n) LIMIT $1 FOR UPDATE SKIP LOCKED
    )) RETURNING 1
)
SELECT count(*) FROM gone";

const VERSION: &str = "SELECT version FROM @p@_schema";

/// What makes version `n + 1` of version `n`.
const STEPS: [&str; 1] = ["
CREATE TABLE @p@_records (
    id          bytea PRIMARY KEY,
    state       smallint NOT NULL,
    generation  bigint NOT NULL,
    attempt     bytea NOT NULL,
    fingerprint bytea NOT NULL,
    runs        integer NOT NULL,
    lease_until bigint NOT NULL,
    expires_at  bigint NOT NULL,
    created_at  bigint NOT NULL,
    status      integer,
    head        bytea,
    body        bytea
) WITH (fillfactor = 70);
CREATE INDEX @p@_records_expires_at ON @p@_records (expires_at);
CREATE SEQUENCE @p@_generation;
CREATE UNLOGGED TABLE @p@_limits (
    id      bytea PRIMARY KEY,
    tat     numeric NOT NULL,
    granted bigint NOT NULL
) WITH (fillfactor = 70);"];

/// Of the tables, as this version of the crate makes and uses them.
pub(crate) const SCHEMA_VERSION: i32 = 1;

fn fill(template: &str, prefix: &str) -> String {
    template
        .replace("@expired@", EXPIRED)
        .replace("@columns@", COLUMNS)
        .replace("@now@", NOW)
        .replace("@units@", NOW_UNITS)
        .replace("@p@", prefix)
}

/// All statements, for one prefix of tables.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) begin: String,
    pub(super) complete: String,
    pub(super) renew: String,
    pub(super) release: String,
    pub(super) interrupt: String,
    pub(super) abandon: String,
    pub(super) resolve: String,
    pub(super) forget: String,
    pub(super) get: String,
    pub(super) purge: String,
    pub(super) take: String,
    pub(super) purge_limits: String,
    pub(super) version: String,
    pub(super) prefix: String,
}

impl Statements {
    /// `prefix` must be an identifier.
    pub(super) fn new(prefix: &str) -> Self {
        let of = |template| fill(template, prefix);
        Self {
            begin: of(BEGIN),
            complete: of(COMPLETE),
            renew: of(RENEW),
            release: of(RELEASE),
            interrupt: of(INTERRUPT),
            abandon: of(ABANDON),
            resolve: of(RESOLVE),
            forget: of(FORGET),
            get: of(GET),
            purge: of(PURGE),
            take: of(TAKE),
            purge_limits: of(PURGE_LIMITS),
            version: of(VERSION),
            prefix: prefix.to_owned(),
        }
    }

    /// Lets one at a time make or change tables, and makes the table that says of which version they are. A
    /// transaction must have been begun.
    pub(super) fn lock_schema(&self) -> String {
        // A number of our own ("buttress" in hexadecimal), so that we wait for nobody else.
        fill(
            "SELECT pg_advisory_xact_lock(7094142370837983091);
             CREATE TABLE IF NOT EXISTS @p@_schema (version integer NOT NULL);",
            &self.prefix,
        )
    }

    /// A record's next claim has a greater number than the one before. When the record is gone, the sequence alone
    /// sees to that; but it goes back when the database is restored from a backup, fails over to a replica that was
    /// behind or to a logical one, which has no sequences, or when the tables are made anew. So it is set to the
    /// microseconds since 1970, which is ahead of any number it can have given, at less than a million claims a
    /// second.
    pub(super) fn catch_up(&self) -> String {
        fill(
            "SELECT setval('@p@_generation', t)
             FROM @p@_generation, (SELECT @now@ AS t) n WHERE last_value < t;",
            &self.prefix,
        )
    }

    /// From version `found` to this one.
    pub(super) fn migrate(&self, found: i32) -> String {
        let from = usize::try_from(found).unwrap_or(0);
        let steps = STEPS[from..].concat();
        let version = SCHEMA_VERSION;
        let noted = format!("DELETE FROM @p@_schema; INSERT INTO @p@_schema VALUES ({version});");
        fill(&(steps + &noted), &self.prefix)
    }
}
