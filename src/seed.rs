//! The seed of a random test.

/// `BUTTRESS_SEED` replays a run.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("BUTTRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("BUTTRESS_SEED={seed}");
    seed
}
