//! The scripts. Each touches one key, runs alone in the server, and decides what [`Entry`] decides in memory;
//! the rules are told there.
//!
//! A record is a hash: `v` version, `s` state, `g` generation, `a` attempt, `f` fingerprint, `r` runs, `l` lease
//! until, `e` expires at, `c` created at, `o` status, `h` head, `b` body. The key's own expiry is the end of the
//! retention, never that of the lease: a lease that ends must not make the record go.
//!
//! Numbers are doubles there: exact up to 2^53, which is the year 2255 in microseconds. As text only by `%.0f`:
//! Lua's own conversion leaves digits out.
//!
//! [`Entry`]: crate::store::Entry

use redis::Script;

/// Before each script about records: `now`, and the record as `s`, `g` and so on; `there` is whether there is one
/// that has not expired.
const RECORD: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local key = KEYS[1]
local function text(n) return string.format('%.0f', n) end
local v, s, g, a, f, r, l, e, c = unpack(redis.call('HMGET', key, 'v', 's', 'g', 'a', 'f', 'r', 'l', 'e', 'c'))
if v and v ~= '1' then return redis.error_reply('VERSION a record of version ' .. v) end
if not v and (s or g or a or f or r or l or e or c) then
    return redis.error_reply('VERSION a record of no version')
end
if v and not (s and g and a and f and tonumber(r) and tonumber(l) and tonumber(e) and tonumber(c)) then
    return redis.error_reply('VERSION a record without some of its fields')
end
local there = v and not (tonumber(e) <= now and not (s == '0' and tonumber(l) > now))
local function keep_until(micros)
    e = text(micros)
    redis.call('HSET', key, 'e', e)
    redis.call('PEXPIREAT', key, text(math.ceil(micros / 1000)))
end
-- A full server refuses the first write of a script, if it takes room. One that takes none goes first where a
-- record that is there must be changed all the same.
local function make_way()
    redis.call('PEXPIREAT', key, text(math.ceil(e / 1000)))
end
local function record()
    local o, h, b = unpack(redis.call('HMGET', key, 'o', 'h', 'b'))
    return {text(now), s, g, a, f, r, l, e, c, o, h, b}
end
";

/// `attempt`, `fingerprint`, `lease`, `retention`, `reruns`.
const BEGIN: &str = "
local lease, retention = tonumber(ARGV[3]), tonumber(ARGV[4])
local longer = now + lease + retention
local function take()
    g = text(math.max(now, g and g + 1 or 0))
    a = ARGV[1]
    l = text(now + lease)
    redis.call('HSET', key, 'v', '1', 's', '0', 'g', g, 'a', a, 'f', f, 'r', r, 'l', l, 'c', c)
end
if not there then
    if v then redis.call('DEL', key) end
    s, f, r, c = '0', ARGV[2], '1', text(now)
    take()
    keep_until(longer)
elseif s == '0' and a == ARGV[1] then
    l = text(now + lease)
    redis.call('HSET', key, 'l', l)
    keep_until(math.max(tonumber(e), longer))
elseif s ~= '0' or f ~= ARGV[2] or tonumber(l) > now then
    -- It stays as it is.
elseif tonumber(r) < tonumber(ARGV[5]) then
    r = text(math.min(r + 1, 65535))
    take()
    keep_until(math.max(tonumber(e), longer))
else
    s = '2'
    redis.call('HSET', key, 's', s)
    keep_until(math.max(tonumber(e), now + retention))
end
return record()
";

/// How a change ends: 0 done, 1 done before, 2 not ours, 4 interrupted meanwhile. `attempt`, `retention`,
/// `status`, `head`, and the body if there is one.
const COMPLETE: &str = "
if not there or a ~= ARGV[1] then return 2 end
if s == '1' then return 1 end
make_way()
redis.call('HSET', key, 's', '1', 'l', text(now), 'o', ARGV[3], 'h', ARGV[4])
if ARGV[5] then redis.call('HSET', key, 'b', ARGV[5]) end
keep_until(now + ARGV[2])
return 0
";

/// `attempt`, `lease`, `retention`.
const RENEW: &str = "
if not there or a ~= ARGV[1] or s == '1' then return 2 end
if s == '2' then return 4 end
make_way()
redis.call('HSET', key, 'l', text(now + ARGV[2]))
keep_until(math.max(tonumber(e), now + ARGV[2] + ARGV[3]))
return 0
";

/// `attempt`, `attempt of nobody`. What took over leaves the record to those who were before.
const RELEASE: &str = "
if not there then return 1 end
if a ~= ARGV[1] or s == '1' then return 2 end
if tonumber(r) <= 1 then
    redis.call('DEL', key)
else
    make_way()
    redis.call('HSET', key, 'r', text(r - 1), 'a', ARGV[2], 'l', text(math.min(tonumber(l), now)))
end
return 0
";

/// `attempt`, `retention`.
const INTERRUPT: &str = "
if not there or a ~= ARGV[1] or s == '1' then return 2 end
if s == '2' then return 1 end
make_way()
redis.call('HSET', key, 's', '2', 'l', text(now))
keep_until(math.max(tonumber(e), now + ARGV[2]))
return 0
";

/// `attempt`. The lease ends now instead of later.
const ABANDON: &str = "
if not there or a ~= ARGV[1] or s ~= '0' then return 2 end
if tonumber(l) > now then
    make_way()
    redis.call('HSET', key, 'l', text(now))
end
return 0
";

/// `generation`, `attempt of nobody`, `status`, `head`, and the body if there is one. The retention stays.
const RESOLVE: &str = "
if not there or g ~= ARGV[1] or s == '1' or (s == '0' and tonumber(l) > now) then return 2 end
make_way()
redis.call('HSET', key, 's', '1', 'a', ARGV[2], 'l', text(now), 'o', ARGV[3], 'h', ARGV[4])
if ARGV[5] then redis.call('HSET', key, 'b', ARGV[5]) end
return 0
";

/// `generation`.
const FORGET: &str = "
if not there or g ~= ARGV[1] or (s == '0' and tonumber(l) > now) then return 2 end
redis.call('DEL', key)
return 0
";

const GET: &str = "
if not there then return false end
return record()
";

/// The generic cell rate algorithm, see `rate_limit::core`: `interval` (in sixteenths of a nanosecond), `burst`,
/// `at least`, `at most`. What is kept is the time at which the bucket is full, as seconds and units, because
/// units since 1970 are more than a double holds. All else is counted from now. A bucket that is not there is
/// full. One that is emptier than empty (the clock was set back, or the quota made smaller) is made empty: it
/// would stay shut until the clock has caught up.
const TAKE: &str = "
local time = redis.call('TIME')
local seconds, units = tonumber(time[1]), time[2] * 16000
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local at_least, at_most = tonumber(ARGV[3]), tonumber(ARGV[4])
local full, debt = interval * burst, 0
local kept = redis.call('GET', KEYS[1])
if kept then
    local of_seconds, of_units = string.match(kept, '^(%d+) (%d+)$')
    if not of_seconds then return redis.error_reply('VERSION a bucket that cannot be read') end
    debt = math.max((of_seconds - seconds) * 16000000000 + (of_units - units), 0)
end
local beyond = debt > full
if beyond then debt = full end
local room = full - debt
local granted = math.min(at_most, math.floor(room / interval))
if granted * interval > room then granted = granted - 1 end
if granted < at_least then granted = 0 end
if granted > 0 or beyond then
    debt = debt + granted * interval
    local total = units + debt
    local whole = math.floor(total / 16000000000)
    local value = string.format('%.0f %.0f', seconds + whole, total - whole * 16000000000)
    redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.max(math.ceil(debt / 16000000), 1)))
end
return {string.format('%.0f', granted), string.format('%.0f', debt)}
";

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) begin: Script,
    pub(super) complete: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) interrupt: Script,
    pub(super) abandon: Script,
    pub(super) resolve: Script,
    pub(super) forget: Script,
    pub(super) get: Script,
    pub(super) take: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let of = |script: &str| Script::new(&[RECORD, script].concat());
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
            take: Script::new(TAKE),
        }
    }
}
