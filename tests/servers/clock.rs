//! A wall clock of processes that a test can set while they run.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::Folder;

/// Whoever is started with its environment has it.
pub struct WallClock {
    library: PathBuf,
    ahead: File,
    folder: Folder,
}

impl WallClock {
    pub fn new() -> Self {
        let folder = Folder::new("clock");
        let (library, path) = (folder.0.join("clock.so"), folder.0.join("ahead"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/clock.c");
        // What links this test compiles it, too.
        let made = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let clock = Self { library, ahead: File::create(path).unwrap(), folder };
        clock.set_ahead(0);
        clock
    }

    /// Of what the system says, from now on.
    pub fn set_ahead(&self, seconds: i64) {
        self.ahead.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    pub fn env(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("BUTTRESS_CLOCK".to_owned(), text(&self.folder.0.join("ahead"))),
        ]
    }

    /// To put before a command.
    pub(super) fn words(&self) -> Vec<String> {
        let set = self.env().into_iter().map(|(name, value)| format!("{name}={value}"));
        ["env".to_owned()].into_iter().chain(set).collect()
    }
}
