//! Runs any program and keeps it running: `cargo run --example supervise --features supervise -- --help`.
//!
//! ```sh
//! supervise --report /run/worker.json -- worker --queue orders
//! supervise --heartbeat /run/worker-beat.json --max-age 15s --restart transient -- worker
//! supervise is-alive /run/worker.json --max-age 30s      # 0 or 1: for a probe of a container
//! supervise orphans worker --kill                        # what a supervisor that was killed has left
//! ```
//!
//! `SIGTERM` and `SIGINT` stop the program and end this one; a second `SIGINT` kills it. `SIGHUP`, `SIGUSR1` and `SIGUSR2`
//! are passed on.

#![allow(clippy::exit, reason = "a command says how it went by its exit code")]

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(not(unix))]
fn main() {
    eprintln!("child processes are supervised on Unix only");
    std::process::exit(2);
}

#[cfg(unix)]
mod unix {
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use buttress::BoxError;
    use buttress::observe::{Event, EventKind};
    use buttress::supervise::{
        heartbeat::Heartbeat,
        process::{
            Child, ChildState, Exit, OrphanSweep, ProcessSupervisor, Restart, SupervisorEnd,
            SupervisorReport,
        },
    };
    use tokio::signal::unix::{Signal, SignalKind, signal};

    const HELP: &str = "\
supervise [options] [--] PROGRAM [ARGUMENT…]   run it, restart it, stop it
  --name NAME             what its processes are marked with (the program's file name)
  --restart WHEN          permanent, transient (if it failed) or temporary (permanent)
  --max-restarts N/TIME   more are too many: end with 70 (5/60s)
  --grace TIME            from SIGTERM to SIGKILL (10s)
  --heartbeat FILE        the program's own: restart it when that stops
  --max-age TIME          how old a beat may be (30s)
  --report FILE           a heartbeat of our own, as long as the program is up
supervise is-alive FILE [--max-age TIME]       exit with 0 if it has beaten recently, else with 1
supervise orphans NAME [--kill]                list (or end) what a killed supervisor has left";

    /// Ended with when there were too many restarts.
    const TOO_MANY: u8 = 70;
    const CHILD: &str = "program";

    pub(super) fn main() -> ExitCode {
        let mut args: Vec<String> = std::env::args().skip(1).collect();
        if args.is_empty() && std::env::var_os("BUTTRESS_SMOKE").is_some() {
            return done(smoke());
        }
        match args.first().map(String::as_str) {
            None | Some("--help" | "-h") => {
                println!("{HELP}");
                ExitCode::from(u8::from(args.is_empty()) * 2)
            }
            Some("is-alive") => done(is_alive(args.split_off(1))),
            Some("orphans") => done(orphans(args.split_off(1))),
            // What the smoke run supervises.
            Some("beat") => done(beat(&args.split_off(1))),
            Some(_) => done(parse(args).and_then(|plan| run(&plan))),
        }
    }

    fn done(result: Result<u8, BoxError>) -> ExitCode {
        match result {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("supervise: {error}");
                ExitCode::from(2)
            }
        }
    }

    #[derive(Debug, PartialEq)]
    struct Plan {
        name: Option<String>,
        restart: Restart,
        limit: (u32, Duration),
        grace: Duration,
        heartbeat: Option<String>,
        max_age: Duration,
        report: Option<String>,
        program: Vec<String>,
    }

    fn parse(args: Vec<String>) -> Result<Plan, BoxError> {
        let mut plan = Plan {
            name: None,
            restart: Restart::Permanent,
            limit: (5, Duration::from_secs(60)),
            grace: Duration::from_secs(10),
            heartbeat: None,
            max_age: Duration::from_secs(30),
            report: None,
            program: Vec::new(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--name" => plan.name = Some(value()?),
                "--restart" => {
                    plan.restart = match value()?.as_str() {
                        "permanent" => Restart::Permanent,
                        "transient" => Restart::Transient,
                        "temporary" => Restart::Temporary,
                        other => {
                            return Err(format!(
                                "--restart {other}: expected permanent, transient or temporary"
                            )
                            .into());
                        }
                    }
                }
                "--max-restarts" => {
                    let text = value()?;
                    let parts = text.split_once('/');
                    let parsed =
                        parts.and_then(|(n, per)| Some((n.parse().ok()?, time(per).ok()?)));
                    plan.limit = parsed
                        .ok_or_else(|| format!("--max-restarts {text}: expected one as 5/60s"))?;
                }
                "--grace" => plan.grace = time(&value()?)?,
                "--heartbeat" => plan.heartbeat = Some(value()?),
                "--max-age" => plan.max_age = time(&value()?)?,
                "--report" => plan.report = Some(value()?),
                "--" => plan.program.extend(args.by_ref()),
                option if option.starts_with('-') => {
                    return Err(format!("unknown option {option}; see --help").into());
                }
                _ => {
                    plan.program.push(arg);
                    plan.program.extend(args.by_ref());
                }
            }
        }
        if plan.program.is_empty() {
            return Err("no program; see --help".into());
        }
        Ok(plan)
    }

    /// `500ms`, `30s`, `2m`; a number alone is seconds.
    fn time(text: &str) -> Result<Duration, BoxError> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: u64 = number.parse().map_err(|_| format!("{text}: expected a time as 30s"))?;
        match unit {
            "ms" => Ok(Duration::from_millis(number)),
            "s" | "" => Ok(Duration::from_secs(number)),
            "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
            _ => Err(format!("{text}: expected ms, s or m").into()),
        }
    }

    fn supervisor(plan: &Plan) -> Result<ProcessSupervisor, BoxError> {
        let program = &plan.program[0];
        let file = program.rsplit('/').next().unwrap_or(program);
        let name = plan.name.clone().unwrap_or_else(|| file.to_owned());
        let mut child = Child::new(CHILD, program)
            .args(&plan.program[1..])
            .restart(plan.restart)
            .grace(plan.grace);
        if let Some(file) = &plan.heartbeat {
            child = child.heartbeat(file, plan.max_age);
        }
        let supervisor = ProcessSupervisor::builder(name)
            .child(child)
            .intensity(plan.limit.0, plan.limit.1)
            .observe(|event: &Event<'_>| {
                if let EventKind::Supervised { what, detail, .. } = event.kind {
                    eprintln!("supervise: {what}: {detail}");
                }
            })
            .build()?;
        Ok(supervisor)
    }

    /// Beats as long as the program is up.
    fn report(file: &str, supervisor: &ProcessSupervisor) -> Result<Heartbeat, BoxError> {
        let (watched, looks) = (supervisor.clone(), AtomicU64::new(0));
        let up = move || {
            let up = matches!(watched.status()[0].state, ChildState::Up { .. });
            looks.fetch_add(u64::from(up), Ordering::Relaxed)
        };
        let interval = Duration::from_secs(5);
        let heartbeat = Heartbeat::builder("supervise")
            .file(file)
            .interval(interval)
            .requires(CHILD, up)
            .build()?;
        Ok(heartbeat)
    }

    fn run(plan: &Plan) -> Result<u8, BoxError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // Before anything is started: a signal that comes early is not lost.
            let mut signals = Signals::new()?;
            let supervisor = supervisor(plan)?;
            // Old ones of a supervisor that was killed would get in the way.
            if cfg!(target_os = "linux") {
                let sweep = OrphanSweep::new(supervisor.name().as_str());
                for (orphan, result) in sweep.kill().await? {
                    eprintln!("supervise: {orphan}: {}", result.as_str());
                }
            }
            supervisor.start()?;
            let heartbeat =
                plan.report.as_deref().map(|file| report(file, &supervisor)).transpose()?;
            if let Some(heartbeat) = &heartbeat {
                heartbeat.start()?;
            }
            let mut interrupts = 0;
            let ended = loop {
                let number = tokio::select! {
                    ended = supervisor.wait() => break ended,
                    number = signals.next() => number,
                };
                match number {
                    libc::SIGTERM => supervisor.request_stop(None),
                    libc::SIGINT => {
                        interrupts += 1;
                        supervisor.request_stop((interrupts > 1).then_some(Duration::ZERO));
                    }
                    // One that is just being restarted misses it.
                    number => drop(supervisor.signal(CHILD, number)),
                }
            };
            if let Some(heartbeat) = &heartbeat {
                heartbeat.stop();
            }
            Ok(code(&supervisor, &ended))
        })
    }

    /// The program's own code if it ended by itself, as a shell gives it.
    fn code(supervisor: &ProcessSupervisor, report: &SupervisorReport) -> u8 {
        match (report.end, supervisor.status()[0].last_exit) {
            (SupervisorEnd::Stopped, _) => 0,
            (SupervisorEnd::Finished, Some(Exit::Code(code))) => u8::try_from(code).unwrap_or(1),
            (SupervisorEnd::Finished, Some(Exit::Signal { number, .. })) => {
                u8::try_from(128 + number).unwrap_or(1)
            }
            (SupervisorEnd::Finished, Some(Exit::NotStarted(_))) => 127,
            (SupervisorEnd::Escalated { .. }, _) => TOO_MANY,
            _ => 1,
        }
    }

    struct Signals([(i32, Signal); 5]);

    impl Signals {
        fn new() -> std::io::Result<Self> {
            let one = |number| -> std::io::Result<_> {
                Ok((number, signal(SignalKind::from_raw(number))?))
            };
            Ok(Self([
                one(libc::SIGTERM)?,
                one(libc::SIGINT)?,
                one(libc::SIGHUP)?,
                one(libc::SIGUSR1)?,
                one(libc::SIGUSR2)?,
            ]))
        }

        async fn next(&mut self) -> i32 {
            std::future::poll_fn(|cx| {
                for (number, signal) in &mut self.0 {
                    if signal.poll_recv(cx).is_ready() {
                        return std::task::Poll::Ready(*number);
                    }
                }
                std::task::Poll::Pending
            })
            .await
        }
    }

    fn is_alive(args: Vec<String>) -> Result<u8, BoxError> {
        let (mut file, mut max_age) = (None, Duration::from_secs(30));
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--max-age" => max_age = time(&args.next().ok_or("--max-age needs a value")?)?,
                _ if file.is_none() => file = Some(arg),
                _ => return Err(format!("{arg}: one file is enough").into()),
            }
        }
        let verdict = Heartbeat::verdict(file.ok_or("no file; see --help")?, max_age);
        println!("{}", verdict.as_str());
        Ok(u8::from(!verdict.is_alive()))
    }

    fn orphans(args: Vec<String>) -> Result<u8, BoxError> {
        let kill = args.iter().any(|arg| arg == "--kill");
        let name = args.into_iter().find(|arg| arg != "--kill").ok_or("no name; see --help")?;
        let sweep = OrphanSweep::new(name);
        if !kill {
            for orphan in sweep.find()?.orphans {
                println!("{orphan}");
            }
            return Ok(0);
        }
        let mut left = false;
        for (orphan, result) in sweep.kill_blocking()? {
            println!("{orphan}: {}", result.as_str());
            left |= !result.is_gone();
        }
        Ok(u8::from(left))
    }

    fn beat(args: &[String]) -> Result<u8, BoxError> {
        let file = args.first().ok_or("no file")?;
        let heartbeat =
            Heartbeat::builder("worker").file(file).interval(Duration::from_secs(1)).build()?;
        heartbeat.start()?;
        loop {
            std::thread::park();
        }
    }

    /// This program as its own child: it is frozen, restarted, and stopped.
    fn smoke() -> Result<u8, BoxError> {
        let file = std::env::temp_dir().join(format!("buttress-smoke-{}.json", std::process::id()));
        let file = file.to_str().ok_or("a temporary directory that is not UTF-8")?.to_owned();
        let own = std::env::current_exe()?.to_string_lossy().into_owned();
        let plan = parse(
            ["--name", "smoke", "--heartbeat", &file, "--max-age", "3s", &own, "beat", &file]
                .map(String::from)
                .to_vec(),
        )?;
        let supervisor = supervisor(&plan)?;
        supervisor.start()?;
        assert!(supervisor.ready_blocking(Duration::from_secs(30)), "the worker beats");
        assert_eq!(is_alive(vec![file.clone()])?, 0);
        supervisor.signal(CHILD, libc::SIGSTOP)?;
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        while supervisor.status()[0].runs < 2 || !supervisor.ready_blocking(Duration::from_secs(1))
        {
            assert!(tokio::time::Instant::now() < until, "{:?}", supervisor.status());
        }
        assert_eq!(supervisor.stats().freezes, 1);
        assert_eq!(supervisor.stop_blocking(None).end, SupervisorEnd::Stopped);
        assert_eq!(is_alive(vec![file.clone()])?, 1, "its process is gone");
        std::fs::remove_file(&file)?;
        println!("restarted when frozen, and stopped");
        Ok(0)
    }
}
