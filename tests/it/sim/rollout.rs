//! Many seeds, and mutants of the machine that the world must notice.

use super::world::{Mutant, run};

const SEEDS: u64 = 20_000;

#[test]
fn nothing_that_must_not_happen_happens() {
    let one = std::env::var("MAAND_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        if let Err(why) = run(seed, Mutant::None) {
            panic!("seed {seed}: {why}\nagain: MAAND_SEED={seed} cargo test -p tests --test it -- sim::rollout");
        }
    }
}

#[test]
fn every_mutant_is_noticed() {
    // An invariant counts only once a mutant has died of it.
    for mutant in Mutant::ALL {
        let died = (0..SEEDS).find(|seed| run(*seed, mutant).is_err());
        assert!(died.is_some(), "{mutant:?} lives");
    }
}
