use std::fs;

use redb::{Database, ReadableTable, TableDefinition};

use super::super::tables::META;
use super::*;

/// The error, and that the file is as it was.
fn refused(scratch: &Scratch) -> OpenError {
    let before = fs::read(scratch).unwrap();
    for verify in [false, true] {
        let error = FileStore::builder().verify(verify).open(scratch).unwrap_err();
        assert_eq!(error.path(), scratch.as_ref());
        assert!(error.to_string().contains(&scratch.as_ref().display().to_string()), "{error}");
        assert!(fs::read(scratch).unwrap() == before, "the file was changed: {error}");
    }
    FileStore::open(scratch).unwrap_err()
}

/// A store with some records.
async fn filled(scratch: &Scratch) {
    let store = FileStore::open(scratch).unwrap();
    let claims: Vec<_> = (0..200).map(|n| (id(n), claim())).collect();
    let all = claims.iter().map(|(id, claim)| store.begin(id, claim));
    futures_util::future::join_all(all).await.into_iter().for_each(|begun| drop(begun.unwrap()));
    store.close().await.unwrap();
}

#[test]
fn what_is_no_store_is_foreign() {
    for text in ["x".to_owned(), "SQLite format 3\0".repeat(1_000), "redb".to_owned()] {
        let scratch = Scratch::new();
        fs::write(&scratch, text).unwrap();
        assert_eq!(refused(&scratch).kind(), OpenErrorKind::Foreign);
    }
    // Zeros at the beginning do not make it empty.
    let scratch = Scratch::new();
    let mut bytes = vec![0; 100_000];
    bytes[99_999] = 1;
    fs::write(&scratch, bytes).unwrap();
    assert_eq!(refused(&scratch).kind(), OpenErrorKind::Foreign);
}

#[test]
fn a_database_of_another_program_is_foreign() {
    const OTHER: TableDefinition<'static, u64, u64> = TableDefinition::new("customers");
    let scratch = Scratch::new();
    let database = Database::create(&scratch).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(OTHER).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refused(&scratch);
    assert_eq!(error.kind(), OpenErrorKind::Foreign);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "it holds customers");
}

#[tokio::test]
async fn a_store_of_a_later_version_is_refused() {
    let scratch = Scratch::new();
    filled(&scratch).await;
    let database = Database::create(&scratch).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("version", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refused(&scratch);
    assert_eq!(error.kind(), OpenErrorKind::Version);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "version 2, expected 1");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let scratch = Scratch::new();
    filled(&scratch).await;
    let whole = fs::read(&scratch).unwrap();
    for length in [1, 8, 9, 100, 319, 320, 512, 4_095, 4_096, 4_097, 20_000, whole.len() - 1] {
        fs::write(&scratch, &whole[..length]).unwrap();
        let kind = refused(&scratch).kind();
        assert!(
            matches!(kind, OpenErrorKind::Corrupt | OpenErrorKind::Foreign),
            "{length}: {kind:?}"
        );
    }
    fs::write(&scratch, whole).unwrap();
    assert_eq!(FileStore::open(&scratch).unwrap().count().await.unwrap(), 200);
}

/// Damage anywhere is found when it is looked for, and when it is not, the store answers all the same.
#[tokio::test]
async fn damage_is_found_when_it_is_looked_for_and_never_hangs_or_kills() {
    let scratch = Scratch::new();
    filled(&scratch).await;
    let whole = fs::read(&scratch).unwrap();
    let seed = std::env::var("BUTTRESS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7_u64);
    println!("BUTTRESS_SEED={seed}");
    let mut random: disk::Random = rand::SeedableRng::seed_from_u64(seed);
    let (mut refused, mut verified) = (0, 0);
    for round in 0..60 {
        use rand::RngExt;
        let mut damaged = whole.clone();
        let at = random.random_range(0..whole.len());
        let length = random.random_range(1..600).min(whole.len() - at);
        random.fill(&mut damaged[at..at + length]);
        fs::write(&scratch, &damaged).unwrap();
        match FileStore::builder().verify(true).open(&scratch) {
            Err(_) => {
                verified += 1;
                assert!(fs::read(&scratch).unwrap() == damaged, "round {round}");
            }
            // Where nothing is.
            Ok(store) => {
                for n in 0..200 {
                    assert!(store.get(&id(n)).await.unwrap().is_some(), "round {round}");
                }
            }
        }
        fs::write(&scratch, &damaged).unwrap();
        let Ok(store) = FileStore::open(&scratch) else {
            refused += 1;
            assert!(fs::read(&scratch).unwrap() == damaged, "round {round}");
            continue;
        };
        for n in 0..200 {
            let _ = store.get(&id(n)).await;
        }
        // Whatever is there, it answers.
        let _ = store.begin(&id(300), &claim()).await;
    }
    println!("{refused} of 60 refused at once, {verified} when checked");
    assert!(verified >= 8 && verified > refused, "{verified}, {refused}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error_and_stays() {
    let scratch = Scratch::new();
    filled(&scratch).await;
    let database = Database::create(&scratch).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut records = transaction.open_table(super::super::tables::RECORDS).unwrap();
        let bytes = records.get(id(0).as_bytes()).unwrap().unwrap().value().to_vec();
        // A line that says it is due, and a later version; half of one; nothing.
        let mut later = bytes.clone();
        later[16] = 9;
        records.insert(id(0).as_bytes(), &later[..]).unwrap();
        records.insert(id(1).as_bytes(), &bytes[..60]).unwrap();
        records.insert(id(2).as_bytes(), &[][..]).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let day = Duration::from_secs(25 * 60 * 60);
    let times = Arc::new(clock::Fake::at(u64::try_from(day.as_micros()).unwrap()));
    let store = FileStore::builder().times(times.clone()).open(&scratch).unwrap();
    for pass in [Duration::ZERO, day, day] {
        times.pass(pass);
        for n in 0..3 {
            let error = store.get(&id(n)).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
            let claim = claim();
            let error = store.begin(&id(n), &claim).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
            let error = store.complete(&id(n), claim.attempt, &outcome(""), day).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        }
        store.get(&id(3)).await.unwrap();
        store.purge(usize::MAX).await.unwrap();
    }
    assert_eq!(store.count().await.unwrap(), 3, "the others have expired");
}

#[test]
fn a_second_store_on_the_same_file_is_refused() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch).unwrap();
    let before = fs::read(&scratch).unwrap();
    assert_eq!(FileStore::open(&scratch).unwrap_err().kind(), OpenErrorKind::Locked);
    assert!(fs::read(&scratch).unwrap() == before);
    drop(store);
    FileStore::open(&scratch).unwrap();
}

#[test]
fn places_where_no_file_can_be_are_refused() {
    let directory = std::env::temp_dir();
    assert_eq!(FileStore::open(&directory).unwrap_err().kind(), OpenErrorKind::NotAFile);
    let nowhere = directory.join("buttress-no-such-directory").join("file");
    let error = FileStore::open(&nowhere).unwrap_err();
    assert_eq!((error.kind(), error.path()), (OpenErrorKind::Io, &*nowhere));
    if cfg!(unix) {
        let device = FileStore::open("/dev/null").unwrap_err();
        assert_eq!(device.kind(), OpenErrorKind::NotAFile);
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    drop(FileStore::open(&scratch).unwrap());
    assert_eq!(fs::metadata(&scratch).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_empty_file_and_one_of_zeros_become_stores() {
    for length in [0, 1, 512, 73_728] {
        let scratch = Scratch::new();
        fs::write(&scratch, vec![0; length]).unwrap();
        drop(FileStore::open(&scratch).unwrap());
        drop(FileStore::open(&scratch).unwrap());
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let scratch = Scratch::new();
    let source = |builder: FileStoreBuilder| {
        let error = builder.open(&scratch).unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Config);
        std::error::Error::source(&error).unwrap().to_string()
    };
    let builder = FileStore::builder;
    assert_eq!(
        source(builder().cache_bytes(7)),
        "invalid cache_bytes: 7, expected 1048576 bytes or more"
    );
    assert_eq!(source(builder().queue(0)), "invalid queue: 0, expected 1 to 1048576");
    assert_eq!(
        source(builder().timeout(Duration::ZERO)),
        "invalid timeout: 0ns, expected 10 ms to 10 min"
    );
    assert!(!scratch.as_ref().exists());
}
