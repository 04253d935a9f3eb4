//! Two processes and one file.

use std::fs;

use buttress::store::{FileStore, OpenErrorKind, Store};

use super::child::Process;
use super::{Scratch, id};

#[tokio::test]
async fn a_file_that_another_process_has_open_is_locked_until_that_is_gone() {
    let scratch = Scratch::new();
    let mut holder = Process::start("hold", scratch.as_ref(), 0);
    holder.wait_for("held");
    let before = fs::read(scratch.store()).unwrap();
    for _ in 0..3 {
        let error = FileStore::open(scratch.store()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (OpenErrorKind::Locked, &*scratch.store()));
        let mut other = Process::start("hold", scratch.as_ref(), 0);
        let said = other.hear().unwrap();
        assert!(said.starts_with("Locked cannot open the store "), "{said}");
        other.kill();
    }
    assert!(fs::read(scratch.store()).unwrap() == before, "the file was changed");
    holder.kill();
    let store = FileStore::open(scratch.store()).unwrap();
    assert!(store.get(&id(0)).await.unwrap().is_none());
    // The other way round.
    let mut other = Process::start("hold", scratch.as_ref(), 0);
    assert!(other.hear().unwrap().starts_with("Locked "));
    other.kill();
    drop(store);
    let mut other = Process::start("hold", scratch.as_ref(), 0);
    other.wait_for("held");
    other.kill();
}

#[cfg(unix)]
#[test]
fn a_file_of_somebody_else_is_denied() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;

    let scratch = Scratch::new();
    drop(FileStore::open(scratch.store()).unwrap());
    let before = fs::read(scratch.store()).unwrap();
    let root = fs::metadata(scratch.store()).unwrap().uid() == 0;
    if root {
        // Nothing is denied to root: let a process of nobody's try. It may not get at this binary.
        let program = scratch.0.join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Process::command(&program, "hold", scratch.as_ref(), 0);
        let mut nobody = Process::of(command.uid(65_534).gid(65_534).spawn().unwrap());
        let said = nobody.hear().unwrap();
        assert!(said.starts_with("Denied "), "{said}");
        nobody.kill();
    } else {
        fs::set_permissions(scratch.store(), fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(FileStore::open(scratch.store()).unwrap_err().kind(), OpenErrorKind::Denied);
    }
    assert!(fs::read(scratch.store()).unwrap() == before, "the file was changed");
}
