//! `--smoke`: the stores do what is measured, and one caller of many executes.

use std::path::Path;

use buttress::store::{Attempt, Begun, FileStore, Finish, Store};

use super::file::Folder;
use super::{claim, id, outcome, runtime, servers};

type Failure = Box<dyn std::error::Error>;

/// What is wrong with the named stores. One whose server is missing is wrong, too: nothing was checked.
pub fn wrong(names: &[&str], parent: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in names {
        let checked = runtime().block_on(async {
            match *name {
                "stores/file" => file(parent).await,
                "stores/redis" => redis().await,
                _ => postgres().await,
            }
        });
        match checked {
            Ok(lines) => wrong.extend(lines.into_iter().map(|line| format!("{name}: {line}"))),
            Err(error) => wrong.push(format!("{name}: not checked: {error}")),
        }
    }
    wrong
}

async fn file(parent: &Path) -> Result<Vec<String>, Failure> {
    let folder = Folder::within(parent)?;
    let path = folder.0.join("check.redb");
    let store = FileStore::open(&path)?;
    let mut wrong = check(&store).await;
    store.close().await?;
    drop(store);
    let store = FileStore::open(&path)?;
    if !is_recorded(&store).await {
        wrong.push("the record is gone after the file was opened again".to_owned());
    }
    Ok(wrong)
}

async fn redis() -> Result<Vec<String>, Failure> {
    if let Some(why) = servers::redis_missing() {
        return Err(why.into());
    }
    let server = servers::redis_server().await;
    Ok(check(&servers::redis_store(&server)?).await)
}

async fn postgres() -> Result<Vec<String>, Failure> {
    if let Some(why) = servers::postgres_missing() {
        return Err(why.into());
    }
    let server = servers::postgres_server().await;
    Ok(check(&servers::postgres_store(&server).await?).await)
}

/// Whether the record of number 0 is read as it was written.
async fn is_recorded(store: &impl Store) -> bool {
    let begun = store.begin(&id(0), &claim(Attempt::new())).await;
    matches!(begun, Ok(Begun::Done(record)) if record.state.outcome() == Some(&outcome()))
}

async fn check<S: Store + Clone>(store: &S) -> Vec<String> {
    const CALLERS: usize = 64;
    let mut wrong = Vec::new();
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let claim = claim(Attempt::new());
                (claim, store.begin(&id(0), &claim).await)
            })
        })
        .collect();
    let (mut owners, mut busy) = (Vec::new(), 0);
    for task in tasks {
        match task.await {
            Ok((claim, Ok(Begun::Run { .. }))) => owners.push(claim),
            Ok((_, Ok(Begun::Busy { .. }))) => busy += 1,
            other => wrong.push(format!("a claim came to {other:?}")),
        }
    }
    if owners.len() != 1 || busy != CALLERS - 1 {
        wrong.push(format!("{} of {CALLERS} callers may run, {busy} wait", owners.len()));
        return wrong;
    }
    for owner in owners {
        let done = store.complete(&id(0), owner.attempt, &outcome(), owner.retention).await;
        if !matches!(done, Ok(Finish::Applied)) {
            wrong.push(format!("completing came to {done:?}"));
        }
    }
    if !is_recorded(store).await {
        wrong.push("the record is not read as it was written".to_owned());
    }
    wrong
}
