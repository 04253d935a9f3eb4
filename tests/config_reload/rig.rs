//! A file, what is made of it, and a service in a stack.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buttress::BoxError;
use buttress::config::{LoadError, Loader, Reloaded, Reloader, Stacks, Watch};
use buttress::control::{ObjectStatus, Registry};
use tower::util::BoxCloneSyncService;

/// Around a stack: type-checking tests over seven layers, one in the other, takes gigabytes.
pub(crate) type Boxed = BoxCloneSyncService<u32, u32, BoxError>;
/// Inside of one.
pub(crate) type Inner = BoxCloneSyncService<u32, u32, io::Error>;

pub(crate) struct Rig {
    file: PathBuf,
    pub(crate) registry: Registry,
    pub(crate) stacks: Stacks,
    reloader: Reloader,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Rig {
    pub(crate) fn new(text: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-live-{}-{number}.yml", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).unwrap();
        let loader = Loader::empty().file(&file);
        let registry = Registry::new();
        let stacks = loader.load().unwrap().stacks().register_in(&registry);
        let reloader = Reloader::new(loader, &stacks);
        Self { file, registry, stacks, reloader }
    }

    pub(crate) fn try_reload(&self, text: &str) -> Result<Reloaded, LoadError> {
        std::fs::write(&self.file, text).unwrap();
        self.reloader.reload()
    }

    /// Until the result is dropped, what is written is read by itself.
    pub(crate) fn watch(&self) -> Watch {
        self.reloader.watch_every(Duration::from_millis(1)).unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    /// All of it must be live.
    pub(crate) fn reload(&self, text: &str) {
        let done = self.try_reload(text).unwrap();
        assert!(done.waiting().is_empty(), "{done}");
        assert!(!done.applied().is_empty(), "{done}");
    }

    /// What the registry shows, in order.
    pub(crate) fn shown(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.registry.status().objects.into_iter().map(|it| it.id).collect();
        ids.sort();
        ids
    }

    pub(crate) fn row(&self, id: &str) -> ObjectStatus {
        self.registry.status().objects.into_iter().find(|row| row.id == id).unwrap()
    }
}
