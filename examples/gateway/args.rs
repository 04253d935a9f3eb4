//! The command line, parsed by hand: four options do not need a library.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::Uri;

pub(crate) const HELP: &str = "\
A reverse proxy that keeps serving while its backend fails.

usage:
  gateway [--seed N] [--seconds N] [--svg PATH] [--admin ADDR]
        live through a scripted incident on loopback and report on it
  gateway --backend URL [--listen ADDR] [--admin ADDR]
        stand in front of a real service until Ctrl-C, then drain

options:
  --seed N        draws the script, the load and the coins   (default 7)
  --seconds N     length of the incident, 20 to 3600         (default 40)
  --svg PATH      where the chart goes                       (default: the temporary directory)
  --backend URL   the service to protect, http://host[:port]
  --listen ADDR   address to serve on                        (default 127.0.0.1:8080)
  --admin ADDR    a status page on this address of the loopback interface (with the feature `admin`)
  --help          this text

environment:
  BUTTRESS_ADMIN_TOKEN   who knows it may command the policies on the status page (at least 16 characters)
  BUTTRESS_SMOKE=1   an incident of 5 seconds, for continuous integration
";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Incident { seed: u64, seconds: u64, svg: PathBuf, admin: Option<SocketAddr> },
    Proxy { backend: Uri, listen: SocketAddr, admin: Option<SocketAddr> },
}

/// Each error is one line that says what was given and what was expected.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    smoke: bool,
) -> Result<Command, String> {
    let (mut seed, mut seconds, mut svg) = (None, None, None);
    let (mut backend, mut listen, mut admin) = (None, None, None);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else {
            return Err(format!("{arg:?} is not valid UTF-8"));
        };
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, None),
        };
        // What each option expects, in the words of its error message.
        let expected = match name {
            "--help" | "-h" => return Ok(Command::Help),
            "--seed" => "a whole number from 0 to 18446744073709551615",
            "--seconds" => "a whole number from 20 to 3600",
            "--svg" => "the path of the file to write",
            "--backend" => "an address of the form http://host[:port], without a path",
            "--listen" | "--admin" => "an address of the form IP:PORT, such as 127.0.0.1:8080",
            _ => {
                return Err(format!(
                    "unknown argument {text:?}, expected --seed, --seconds, --svg, --backend, \
                     --listen, --admin or --help"
                ));
            }
        };
        let Some(value) = inline.or_else(|| args.next()).filter(|value| !value.is_empty()) else {
            return Err(format!("{name} has no value, expected {expected}"));
        };
        let fits = match (name, value.to_str()) {
            ("--svg", _) => set(&mut svg, Some(PathBuf::from(&value))),
            ("--seed", Some(text)) => set(&mut seed, text.parse::<u64>().ok()),
            ("--seconds", Some(text)) => {
                set(&mut seconds, text.parse::<u64>().ok().filter(|n| (20..=3600).contains(n)))
            }
            ("--backend", Some(text)) => set(&mut backend, text.parse::<Uri>().ok().filter(origin)),
            ("--listen", Some(text)) => set(&mut listen, text.parse::<SocketAddr>().ok()),
            ("--admin", Some(text)) => set(&mut admin, text.parse::<SocketAddr>().ok()),
            _ => Set::Unfit,
        };
        match fits {
            Set::Done => {}
            Set::Twice => return Err(format!("{name} is given twice, expected it once")),
            Set::Unfit => return Err(format!("{name} is {value:?}, expected {expected}")),
        }
    }
    match backend {
        Some(backend) => {
            let stray = [
                ("--seed", seed.is_some()),
                ("--seconds", seconds.is_some()),
                ("--svg", svg.is_some()),
            ];
            if let Some((name, _)) = stray.iter().find(|(_, given)| *given) {
                return Err(format!("{name} belongs to the incident, expected no --backend"));
            }
            let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
            Ok(Command::Proxy { backend, listen, admin })
        }
        None if listen.is_some() => {
            Err("--listen without a service to protect, expected --backend URL too".into())
        }
        None => Ok(Command::Incident {
            seed: seed.unwrap_or(7),
            seconds: seconds.unwrap_or(if smoke { 5 } else { 40 }),
            svg: svg.unwrap_or_else(|| std::env::temp_dir().join("buttress-gateway.svg")),
            admin,
        }),
    }
}

enum Set {
    Done,
    Twice,
    Unfit,
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> Set {
    match value {
        None => Set::Unfit,
        Some(_) if place.is_some() => Set::Twice,
        Some(value) => {
            *place = Some(value);
            Set::Done
        }
    }
}

/// Plain HTTP to a host: the proxy keeps the path of each request, so the origin must not bring one.
fn origin(uri: &Uri) -> bool {
    uri.scheme_str() == Some("http")
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && matches!(uri.path_and_query().map_or("/", |path| path.as_str()), "/" | "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from), false)
    }

    #[test]
    fn no_arguments_run_the_incident() {
        let Ok(Command::Incident { seed: 7, seconds: 40, svg, admin: None }) = parsed("") else {
            panic!("{:?}", parsed(""));
        };
        assert!(svg.ends_with("buttress-gateway.svg"));
    }

    #[test]
    fn smoke_mode_shortens_the_day_unless_told_otherwise() {
        let day = |line: &str| match parse(line.split_whitespace().map(OsString::from), true) {
            Ok(Command::Incident { seconds, .. }) => seconds,
            other => panic!("{other:?}"),
        };
        assert_eq!(day(""), 5);
        assert_eq!(day("--seconds 60"), 60);
    }

    #[test]
    fn values_may_follow_a_space_or_an_equals_sign() {
        let wanted =
            Command::Incident { seed: 1, seconds: 30, svg: "/tmp/a.svg".into(), admin: None };
        assert_eq!(parsed("--seed 1 --seconds=30 --svg /tmp/a.svg").as_ref(), Ok(&wanted));
        assert_eq!(parsed("--svg=/tmp/a.svg --seconds 30 --seed=1").as_ref(), Ok(&wanted));
    }

    #[test]
    fn a_backend_makes_it_a_proxy() {
        let Ok(Command::Proxy { backend, listen, admin: None }) =
            parsed("--backend http://[::1]:9000")
        else {
            panic!("not a proxy");
        };
        assert_eq!(backend.authority().map(|a| a.as_str()), Some("[::1]:9000"));
        assert_eq!(listen.port(), 8080);
        assert!(parsed("--backend http://db.internal --listen [::]:80").is_ok());
    }

    #[test]
    fn both_can_have_a_status_page() {
        let page = Some(SocketAddr::from(([127, 0, 0, 1], 9090)));
        for line in ["--admin 127.0.0.1:9090", "--backend http://a --admin=127.0.0.1:9090"] {
            match parsed(line) {
                Ok(Command::Incident { admin, .. } | Command::Proxy { admin, .. }) => {
                    assert_eq!(admin, page, "{line}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_wins() {
        assert_eq!(parsed("--seed 3 --help"), Ok(Command::Help));
        assert_eq!(parsed("-h"), Ok(Command::Help));
    }

    #[test]
    fn every_error_says_what_was_expected_in_one_line() {
        for line in [
            "--seed",
            "--seed=",
            "--seed -1",
            "--seed 1.5",
            "--seed 18446744073709551616",
            "--seed 1 --seed 2",
            "--seconds 19",
            "--seconds 3601",
            "--seconds NaN",
            "--svg",
            "--backend",
            "--backend localhost:80",
            "--backend https://a",
            "--backend http://",
            "--backend http://a/path",
            "--backend http://a/?q=1",
            "--backend http://user@a",
            "--backend ftp://a",
            "--listen 127.0.0.1:80",
            "--backend http://a --listen 80",
            "--backend http://a --listen localhost:80",
            "--backend http://a --listen 127.0.0.1:65536",
            "--backend http://a --seed 3",
            "--backend http://a --svg x",
            "--admin 9090",
            "--frobnicate",
            "backend",
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains("expected "), "{line}: {error}");
            assert!(!error.contains('\n'), "{line}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_not_text_is_an_error_and_not_a_panic() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'-', 0xff]);
        assert!(parse([odd.clone()], false).is_err());
        assert!(parse(["--seed".into(), odd.clone()], false).is_err());
        assert!(parse(["--svg".into(), odd], false).is_ok(), "a path need not be text");
    }
}
