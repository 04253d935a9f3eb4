//! axum on loopback under wrk: the server on the first core, wrk on the second.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::idem::{self, Key, Session};
use crate::median;

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub name: &'static str,
    /// The layers of [`crate::idem::app`], and the key and session of the requests; without, a plain GET to
    /// [`crate::http::app`].
    pub post: Option<(&'static str, Key, Session)>,
}

const fn get(name: &'static str) -> Mode {
    Mode { name, post: None }
}

const fn post(name: &'static str, who: &'static str, key: Key, session: Session) -> Mode {
    Mode { name, post: Some((who, key, session)) }
}

const IDEMPOTENT: &str = "axum-idempotent";
const EACH: &str = "axum-idempotent, session each";

/// The first is what the others are compared to.
pub const POSTS: &[Mode] = &[
    post("identity", "identity", Key::Fresh, Session::None),
    post("us without key", "us", Key::None, Session::None),
    post("us replay", "us", Key::Same, Session::None),
    post("us fresh", "us", Key::Fresh, Session::None),
    post("axum-idempotent replay", IDEMPOTENT, Key::Same, Session::One),
    post("axum-idempotent fresh", IDEMPOTENT, Key::Fresh, Session::One),
    post("axum-idempotent fresh, session each", EACH, Key::Fresh, Session::Each),
];

pub const GETS: &[Mode] = &[
    get("plain"),
    get("identity"),
    get("us stack of 3"),
    get("us refusing"),
    get("us refusing, status only"),
    get("tower stack of 3"),
    get("tower-resilience breaker"),
    get("tower-resilience stack of 4"),
    get("tower-resilience limiter refusing"),
    get("tower_governor"),
    get("tower_governor refusing"),
];

pub struct Served {
    pub mode: &'static str,
    pub per_second: f64,
    /// Median over the rounds of the ratio to the first mode in the same round.
    pub to_plain: f64,
    pub not_2xx: f64,
    /// Processor time of the server for one request, in microseconds, and its ratio to plain's: steadier
    /// than requests per second where other processes want the same cores.
    pub cpu_us: f64,
    pub cpu_to_plain: f64,
}

/// The server: prints its port, then serves until it is killed.
pub fn serve(mode: &str) -> Result<(), String> {
    crate::pin(0);
    let app = match mode.strip_prefix("post ") {
        Some(who) => idem::app(who, idem::handler()).map(|(app, _)| app),
        None => crate::http::app(mode),
    };
    let app = app.ok_or_else(|| format!("`{mode}` is not a mode of a server"))?;
    crate::runtime()
        .block_on(async {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
            println!("{}", listener.local_addr()?.port());
            std::io::stdout().flush()?;
            axum::serve(listener, app).await
        })
        .map_err(|error| error.to_string())
}

struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mode: Mode) -> Result<Server, String> {
    let mode = match mode.post {
        Some((who, ..)) => format!("post {who}"),
        None => mode.name.to_owned(),
    };
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(this)
        .args(["serve", &mode])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut line = String::new();
    let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    let server = |port| Server(child, port);
    match (read, line.trim().parse()) {
        (Some(Ok(_)), Ok(port)) => Ok(server(port)),
        _ => {
            drop(server(0));
            Err(format!("the server for `{mode}` did not start"))
        }
    }
}

impl Server {
    /// Processor time so far, in seconds; NaN where the system does not tell.
    fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.0.id()));
        let nanos = text.ok().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        nanos.map_or(f64::NAN, |nanos| nanos / 1e9)
    }
}

#[derive(Clone, Copy)]
struct Seen {
    per_second: f64,
    not_2xx: f64,
    cpu_us: f64,
}

/// Makes wrk send POSTs. Every mode formats a request for each, so that this costs all of them the same; runs
/// differ, or the second one on a server would send the keys of the first.
fn script(key: Key, session: Session, run: usize) -> String {
    let number = |same: bool| if same { "0" } else { "number" };
    let key = match key {
        Key::None => String::new(),
        key => {
            let number = number(key == Key::Same);
            format!(
                r#"headers["idempotency-key"] = string.format("8e03978e-40d5-{run:04}-%016d", {number})"#
            )
        }
    };
    let cookie = match session {
        Session::None => String::new(),
        session => {
            let number = number(session == Session::One);
            format!(r#"headers["cookie"] = string.format("session={run:04}%017dA", {number})"#)
        }
    };
    let (path, body) = (idem::PATH, idem::ASKED);
    format!(
        r#"
        local number = 0
        local headers = {{ ["content-type"] = "application/json" }}
        request = function()
            number = number + 1
            {key}
            {cookie}
            return wrk.format("POST", "{path}", headers, [[{body}]])
        end
        "#
    )
}

fn wrk(server: &Server, mode: Mode, run: usize, seconds: u64) -> Result<Seen, String> {
    let port = server.1;
    let file = std::env::temp_dir().join(format!("versus-{}.lua", std::process::id()));
    let mut scripted = Vec::new();
    if let Some((_, key, session)) = mode.post {
        std::fs::write(&file, script(key, session, run)).map_err(|error| error.to_string())?;
        scripted = vec!["-s".into(), file.clone().into_os_string()];
    }
    let before = server.cpu();
    let core = if crate::cores() > 1 { "1" } else { "0" };
    let output = Command::new("taskset")
        .args(["-c", core, "wrk", "-t1", "-c32"])
        .arg(format!("-d{seconds}s"))
        .args(scripted)
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .map_err(|error| format!("taskset and wrk: {error}"))?;
    let _ = std::fs::remove_file(file);
    let text = String::from_utf8_lossy(&output.stdout);
    let after = |label: &str| {
        let line = text.lines().find(|line| line.contains(label))?;
        line.split(':').nth(1)?.trim().parse::<f64>().ok()
    };
    let per_second = after("Requests/sec").ok_or_else(|| {
        format!("wrk said nothing to use: {}", String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let total = text
        .lines()
        .find(|line| line.contains("requests in"))
        .and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok())
        .unwrap_or(f64::NAN);
    Ok(Seen {
        per_second,
        not_2xx: after("Non-2xx").unwrap_or(0.0) / total,
        cpu_us: (server.cpu() - before) * 1e6 / total,
    })
}

/// Modes in another order each round; empty with a note where wrk is missing.
pub fn run(modes: &[Mode], rounds: usize, seconds: u64) -> Vec<Served> {
    measure(modes, rounds, seconds).unwrap_or_else(|error| {
        eprintln!("load: {error}; the table stays empty");
        Vec::new()
    })
}

fn measure(modes: &[Mode], rounds: usize, seconds: u64) -> Result<Vec<Served>, String> {
    let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); modes.len()];
    for round in 0..rounds {
        for index in 0..modes.len() {
            // Another mode first each round, and the other way round every other.
            let index = (index + round) % modes.len();
            let index = if round % 2 == 1 { modes.len() - 1 - index } else { index };
            let server = start(modes[index])?;
            wrk(&server, modes[index], 0, 1)?;
            seen[index].push(wrk(&server, modes[index], 1, seconds)?);
        }
        eprintln!("  load: round {} of {rounds}", round + 1);
    }
    let served = modes.iter().zip(&seen).map(|(mode, of_mode)| {
        let middle =
            |value: fn(&Seen) -> f64| median(&mut of_mode.iter().map(value).collect::<Vec<_>>());
        let to_plain = |value: fn(&Seen) -> f64| {
            let ratios =
                of_mode.iter().zip(&seen[0]).map(|(of_mode, plain)| value(of_mode) / value(plain));
            median(&mut ratios.collect::<Vec<_>>())
        };
        Served {
            mode: mode.name,
            per_second: middle(|seen| seen.per_second),
            to_plain: to_plain(|seen| seen.per_second),
            not_2xx: middle(|seen| seen.not_2xx),
            cpu_us: middle(|seen| seen.cpu_us),
            cpu_to_plain: to_plain(|seen| seen.cpu_us),
        }
    });
    Ok(served.collect())
}
