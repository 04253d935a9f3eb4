use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn outcome(text: &str) -> Arc<Outcome> {
    Arc::new(Outcome::new(200, &b"head"[..], text.as_bytes()))
}

fn claim() -> Claim {
    Claim::new(Fingerprint::of(b"a"), Attempt::new())
}

fn id(number: u32) -> RecordId {
    RecordId::of(b"", &number.to_le_bytes())
}

/// Entries of every state, with and without bytes.
fn entries() -> Vec<Entry> {
    let now = StoreTime::from_micros(1 << 40);
    let claimed = Entry::claimed(&claim(), now, 7);
    let mut all = vec![claimed.clone()];
    for outcome in [
        Outcome::new(200, &b"content-type: text/plain"[..], &b"paid"[..]),
        Outcome::new(0, vec![], vec![]),
        Outcome::not_retained(u16::MAX, vec![0; 300]),
    ] {
        let mut entry = claimed.clone();
        entry.complete(entry.attempt, outcome.into(), SECOND, now);
        all.push(entry);
    }
    let mut interrupted = claimed;
    interrupted.interrupt(interrupted.attempt, SECOND, now);
    all.push(interrupted);
    all
}

#[test]
fn every_entry_survives_its_encoding() {
    for entry in entries() {
        assert_eq!(Entry::decode(&entry.encode().unwrap()).unwrap(), entry);
    }
}

#[test]
fn an_entry_cut_off_anywhere_or_extended_is_corrupt() {
    for entry in entries() {
        let bytes = entry.encode().unwrap();
        for end in 0..bytes.len() {
            let error = Entry::decode(&bytes[..end]).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{entry:?} cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Entry::decode(&longer).unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
}

#[test]
fn an_entry_with_any_bit_flipped_is_corrupt() {
    for entry in entries() {
        let mut bytes = entry.encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&bytes).is_err(), "{entry:?}, bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// The checksum hides the fields behind it from a test that changes bytes at random: set it right again.
#[test]
fn fields_out_of_range_are_corrupt_whatever_the_checksum_says() {
    use sha2::{Digest, Sha256};
    for entry in entries() {
        let bytes = entry.encode().unwrap();
        for at in 0..bytes.len() - 4 {
            for value in [0, 1, 2, 3, 4, 0x7f, 0xff] {
                let mut changed = bytes[..bytes.len() - 4].to_vec();
                changed[at] = value;
                let sum = Sha256::digest(&changed);
                changed.extend_from_slice(&sum[..4]);
                // Either it is refused or it is what it says.
                match Entry::decode(&changed) {
                    Ok(entry) => assert_eq!(entry.encode().unwrap(), changed),
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::Corrupt),
                }
            }
        }
    }
}

#[test]
fn an_entry_of_another_version_says_so() {
    let mut bytes = entries()[0].encode().unwrap();
    bytes[0] = 2;
    let error = Entry::decode(&bytes).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "a record of version 2, expected 1");
}

/// Kept by stores that outlive the program that wrote it: it must not change without a new version.
#[test]
fn the_encoding_is_what_it_was() {
    let mut entry = Entry::claimed(
        &Claim::new(Fingerprint::from_bytes([0xfe; 32]), Attempt::from_bytes([0xaa; 16])),
        StoreTime::from_micros(0x0102),
        9,
    );
    entry.complete(
        entry.attempt,
        Outcome::new(201, &b"h"[..], &b"bo"[..]).into(),
        SECOND,
        StoreTime::from_micros(0x0203),
    );
    let bytes = entry.encode().unwrap();
    let fixed = [
        &[1, 1, 1, 0][..],
        &[9, 0, 0, 0, 0, 0, 0, 0],
        &[3, 2, 0, 0, 0, 0, 0, 0],
        &[0x43, 0x44, 0x0f, 0, 0, 0, 0, 0],
        &[2, 1, 0, 0, 0, 0, 0, 0],
        &[0xfe; 32],
        &[0xaa; 16],
        &[201, 0, 1, 0, 0, 0, b'h', 2, 0, 0, 0, b'b', b'o'],
    ]
    .concat();
    assert_eq!(bytes[..bytes.len() - 4], fixed);
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        let _ = Entry::decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        let _ = Entry::decode(&bytes);
    }
}

#[test]
fn hashes_are_what_they_were() {
    // Stored: they must not change. Computed with Python's hashlib from the fields as documented.
    assert_eq!(
        RecordId::of(b"tenant-7", b"order-1").to_string(),
        "8f47411f0e3bffa9fa565fa70920cf1fc5590cdb3767b70613779b5730031ad1"
    );
    let fingerprint = Fingerprint::builder().field(b"POST").chunk(b"10 ").chunk(b"EUR").finish();
    assert_eq!(
        Hex(fingerprint.as_bytes()).to_string(),
        "4505a8003219679c73d984e9628f43bff0d3e1e34247e7000d901b7ce5f0ac98"
    );
}

#[test]
fn no_two_lists_of_fields_share_a_fingerprint() {
    let of = |fields: &[&[u8]], chunks: &[&[u8]]| {
        let builder = fields.iter().fold(Fingerprint::builder(), |b, field| b.field(field));
        chunks.iter().fold(builder, |b, chunk| b.chunk(chunk)).finish()
    };
    let all = [
        of(&[], &[]),
        of(&[b""], &[]),
        of(&[b"", b""], &[]),
        of(&[b"ab"], &[]),
        of(&[b"a", b"b"], &[]),
        of(&[b"b", b"a"], &[]),
        of(&[b"a"], &[b"b"]),
        of(&[b"ab"], &[b""]),
        of(&[], &[b"ab"]),
        of(&[], &[b""]),
    ];
    for (i, one) in all.iter().enumerate() {
        assert!(!all[..i].contains(one), "{i}");
    }
    assert_eq!(of(&[], &[b"a", b"", b"b"]), of(&[], &[b"ab"]));
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_new_keys_and_gives_up_none() {
    let store = MemoryStore::builder().capacity(3).build().unwrap();
    let claims: Vec<_> = (0..3).map(|_| claim().retention(9 * SECOND).lease(SECOND)).collect();
    for (n, claim) in (0..).zip(&claims) {
        store.begin(&id(n), claim).await.unwrap();
    }
    assert_eq!(
        store.complete(&id(0), claims[0].attempt, &outcome("x"), 20 * SECOND).await.unwrap(),
        Finish::Applied
    );
    for n in 10..200 {
        let error = store.begin(&id(n), &claim()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Full);
    }
    assert_eq!(store.len(), 3);
    // Known keys are answered.
    assert!(matches!(store.begin(&id(0), &claim()).await.unwrap(), Begun::Done(_)));
    assert!(matches!(store.begin(&id(1), &claim()).await.unwrap(), Begun::Busy { .. }));
    // Released is room.
    store.release(&id(1), claims[1].attempt).await.unwrap();
    assert!(matches!(store.begin(&id(10), &claim()).await.unwrap(), Begun::Run { .. }));
    assert!(store.begin(&id(11), &claim()).await.is_err());
    // Expired is room, wherever the record is.
    advance(10 * SECOND).await;
    assert!(matches!(store.begin(&id(11), &claim()).await.unwrap(), Begun::Run { .. }));
    assert!(store.begin(&id(12), &claim()).await.is_err());
    assert_eq!(store.len(), 3);
}

/// A full store does not look for room before the first record can expire: it has to notice when one comes to
/// expire sooner.
#[tokio::test(start_paused = true)]
async fn a_full_store_notices_what_expires_sooner_than_it_did() {
    let store = MemoryStore::builder().capacity(2).build().unwrap();
    let claims = [claim(), claim()];
    store.begin(&id(0), &claims[0]).await.unwrap();
    store.begin(&id(1), &claims[1]).await.unwrap();
    let short = || claim().lease(SECOND).retention(2 * SECOND);
    let full = async || store.begin(&id(2), &short()).await.is_err();
    assert!(full().await);
    store.complete(&id(0), claims[0].attempt, &outcome("x"), SECOND).await.unwrap();
    assert!(full().await);
    advance(SECOND).await;
    assert!(!full().await, "the first was to expire in a day, and does so now");
    // The one that was let in expires before the other, too.
    assert!(store.begin(&id(3), &claim()).await.is_err());
    advance(3 * SECOND).await;
    assert!(store.begin(&id(3), &claim()).await.is_ok());
}

/// Our own transitions never make such an entry; a store that fills one from its columns may.
#[test]
fn an_entry_whose_lease_holds_has_not_expired_whatever_it_says() {
    let now = StoreTime::from_micros(1 << 40);
    let mut entry = Entry::claimed(&claim().lease(SECOND), now, 1);
    entry.expires_at = now;
    assert!(!entry.is_expired(now));
    assert!(entry.is_expired(now.after(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_record_is_not_forgotten_while_its_lease_is_renewed() {
    let store = MemoryStore::builder().capacity(1).build().unwrap();
    let claim = claim().lease(10 * SECOND).retention(SECOND);
    store.begin(&id(0), &claim).await.unwrap();
    for _ in 0..10 {
        advance(9 * SECOND).await;
        assert_eq!(store.purge(10).await.unwrap(), 0);
        assert!(store.begin(&id(1), &self::claim()).await.is_err());
        let renewed = store.renew(&id(0), claim.attempt, claim.lease, claim.retention).await;
        assert_eq!(renewed.unwrap(), Renewed::Held);
    }
    advance(11 * SECOND).await;
    assert_eq!(store.purge(10).await.unwrap(), 1);
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bodies_beyond_the_bound_are_left_out_and_counted_right() {
    let store = MemoryStore::builder().max_bytes(20).build().unwrap();
    let claims: Vec<_> = (0..4).map(|_| claim().retention(SECOND)).collect();
    let mut answers = vec![];
    for (n, claim) in (0..).zip(&claims) {
        store.begin(&id(n), claim).await.unwrap();
        // 4 bytes of head and 4 of body.
        let (id, outcome) = (id(n), outcome("body"));
        let finish = store.complete(&id, claim.attempt, &outcome, SECOND).await;
        answers.push(finish.unwrap());
    }
    use Finish::{Applied, Trimmed};
    assert_eq!(answers, [Applied, Applied, Trimmed, Trimmed]);
    assert_eq!(store.bytes(), 8 + 8 + 4, "heads count, too");
    for (n, expected) in [(2, outcome("body").without_body()), (3, outcome("").status_only())] {
        let kept = store.get(&id(n)).await.unwrap().unwrap();
        assert_eq!(**kept.state.outcome().unwrap(), expected);
    }
    // Refused changes reserve nothing.
    let again = store.complete(&id(0), claims[0].attempt, &outcome(""), SECOND).await.unwrap();
    assert_eq!(again, Finish::Already);
    assert_eq!(store.bytes(), 20);
    advance(SECOND).await;
    // One is claimed again, which drops what it held; the rest is purged.
    store.begin(&id(0), &claim()).await.unwrap();
    assert_eq!(store.bytes(), 12);
    assert_eq!(store.purge(100).await.unwrap(), 3);
    assert_eq!((store.bytes(), store.len()), (0, 1));
}

/// What is counted late can be removed, and subtracted, by somebody else before it is added.
#[test]
fn bytes_are_never_more_than_the_bound_whoever_looks() {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use futures_util::FutureExt;
    use tokio::time::Instant;

    for (bound, text) in [(16, "twelve bytes"), (3, "")] {
        let store = MemoryStore::builder().max_bytes(bound).build().unwrap();
        let end = Instant::now() + Duration::from_millis(200);
        let newest = AtomicU64::new(0);
        let forget = async || store.resolve(&id(0), newest.load(Relaxed), Resolution::Forget).await;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while Instant::now() < end {
                    let (id, claim, outcome) = (id(0), claim(), outcome(text));
                    let begun = store.begin(&id, &claim).now_or_never().unwrap();
                    if let Begun::Run { generation, .. } = begun.unwrap() {
                        newest.store(generation, Relaxed);
                        let done = store.complete(&id, claim.attempt, &outcome, SECOND);
                        done.now_or_never().unwrap().unwrap();
                    }
                }
            });
            scope.spawn(|| {
                while Instant::now() < end {
                    forget().now_or_never().unwrap().unwrap();
                }
            });
            while Instant::now() < end {
                assert!(store.bytes() <= bound, "{}", store.bytes());
            }
        });
        forget().now_or_never().unwrap().unwrap();
        assert_eq!((store.bytes(), store.len()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn keys_claimed_and_released_over_and_over_do_not_pile_up() {
    let store = MemoryStore::default();
    for _ in 0..10_000 {
        let claim = claim();
        assert!(matches!(store.begin(&id(0), &claim).await.unwrap(), Begun::Run { .. }));
        assert_eq!(store.release(&id(0), claim.attempt).await.unwrap(), Finish::Applied);
    }
    assert!(store.is_empty());
    assert!(store.expiry_entries() < 200, "{}", store.expiry_entries());
}

#[tokio::test(start_paused = true)]
async fn generations_grow_though_the_clock_stands_and_the_record_was_forgotten() {
    let store = MemoryStore::default();
    let mut last = 0;
    for _ in 0..100 {
        let claim = claim();
        let Begun::Run { generation, runs } = store.begin(&id(0), &claim).await.unwrap() else {
            panic!("nobody else is there")
        };
        assert!(generation > last);
        assert_eq!(runs, 1);
        last = generation;
        store.release(&id(0), claim.attempt).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_change_is_told_of_each() {
    for change in ["complete", "release", "interrupt", "nothing"] {
        let store = MemoryStore::default();
        let claim = claim();
        store.begin(&id(0), &claim).await.unwrap();
        let generation = store.get(&id(0)).await.unwrap().unwrap().generation;
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let store = store.clone();
                #[expect(clippy::disallowed_methods, reason = "a test")]
                tokio::spawn(async move { store.changed(&id(0), generation).await })
            })
            .collect();
        tokio::task::yield_now().await;
        match change {
            "complete" => drop(store.complete(&id(0), claim.attempt, &outcome("x"), SECOND).await),
            "release" => drop(store.release(&id(0), claim.attempt).await),
            "interrupt" => drop(store.interrupt(&id(0), claim.attempt, SECOND).await),
            _ => {
                drop(store.renew(&id(0), claim.attempt, SECOND, SECOND).await);
                tokio::task::yield_now().await;
                assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
                waiting.iter().for_each(tokio::task::JoinHandle::abort);
                continue;
            }
        }
        for waiting in waiting {
            waiting.await.unwrap();
        }
        // Who comes late does not wait at all.
        store.changed(&id(0), generation).await;
    }
}

#[tokio::test]
async fn within_a_table_the_bits_by_which_its_buckets_are_told_apart_differ() {
    let store = MemoryStore::default();
    let bits = store.bits_of_a_table((0..4_000).map(id));
    // Sixteen to a group, of which a look-up compares those with the same seven bits: were they the same for
    // all, it would read every record of the group.
    assert!(bits.len() > 25, "{bits:?}");
    let mut counts: Vec<_> = bits.values().collect();
    counts.sort_unstable();
    assert!(**counts.last().unwrap() < 12, "{bits:?}");
}
