//! The marks in a child's environment by which it is found when its supervisor is gone.

use crate::supervise::ProcessIdentity;

/// `<boot id>:<pid>:<start>:<namespace of the pid>` of the supervisor's process; the last may be missing.
pub(super) const OWNER: &str = "BUTTRESS_OWNER";
/// The supervisor's name.
pub(super) const APP: &str = "BUTTRESS_APP";
/// Which of the supervisors of that process.
pub(super) const SUPERVISOR: &str = "BUTTRESS_SUPERVISOR";
/// The number of the descriptor to look at: see `Lifeline`.
pub(super) const LIFELINE: &str = "BUTTRESS_LIFELINE";

/// Who started a marked process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) boot_id: String,
    pub(super) pid: u32,
    pub(super) started: u64,
    /// In which `pid` is a number.
    pub(super) namespace: Option<u64>,
}

impl Owner {
    /// `None` where a process cannot be told from a later one with its number.
    pub(super) fn of(identity: &ProcessIdentity) -> Option<Self> {
        let boot_id = identity.boot_id.clone()?;
        let (pid, namespace) = (identity.pid, identity.pid_namespace);
        Some(Self { boot_id, pid, started: identity.started?, namespace })
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let boot_id = parts.next().filter(|id| !id.is_empty())?.to_owned();
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        let namespace = match parts.next() {
            None => None,
            Some(number) => Some(number.parse().ok()?),
        };
        parts.next().is_none().then_some(Self { boot_id, pid, started, namespace })
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.boot_id, self.pid, self.started)?;
        self.namespace.map_or(Ok(()), |namespace| write!(f, ":{namespace}"))
    }
}

/// A variable in the bytes of `/proc/PID/environ`. The first counts, as it does for `getenv`.
pub(super) fn variable<'a>(environ: &'a [u8], name: &str) -> Option<&'a str> {
    environ.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_reads_as_it_was_written_and_anything_else_is_none() {
        for namespace in [None, Some(4_026_531_836)] {
            let owner = Owner { boot_id: "59d7-2764".into(), pid: 7, started: 99, namespace };
            assert_eq!(Owner::parse(&owner.to_string()), Some(owner));
        }
        for text in
            ["", "a:7", "a:7:99:", "a:7:99:1:2", ":7:99", "a:-7:99", "a:7:x", "a:99999999999:1"]
        {
            assert_eq!(Owner::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_variable_is_found_whole() {
        let environ = b"XBUTTRESS_APP=no\0BUTTRESS_APPS=no\0BUTTRESS_APP=a\0BUTTRESS_APP=b\0";
        assert_eq!(variable(environ, APP), Some("a"));
        assert_eq!(variable(b"BUTTRESS_APP=\xff\0", APP), None);
    }
}
