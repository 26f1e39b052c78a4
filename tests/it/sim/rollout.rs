//! Many seeds, and mutants of the machine that the world must notice.

use super::mutants::Mutant;
use super::world::run;

const SEEDS: u64 = 100_000;

/// Parts that run side by side.
const PARTS: u64 = 4;

fn seeds(part: u64) {
    if let Some(seed) = std::env::var("MAAND_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed, Mutant::None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    for seed in (part..SEEDS).step_by(PARTS as usize) {
        if let Err(why) = run(seed, Mutant::None) {
            panic!("seed {seed}: {why}\nagain: MAAND_SEED={seed} cargo test -p tests --test it -- sim::rollout");
        }
    }
}

#[test]
fn nothing_that_must_not_happen_happens_1() {
    seeds(0);
}

#[test]
fn nothing_that_must_not_happen_happens_2() {
    seeds(1);
}

#[test]
fn nothing_that_must_not_happen_happens_3() {
    seeds(2);
}

#[test]
fn nothing_that_must_not_happen_happens_4() {
    seeds(3);
}

#[test]
fn every_mutant_is_noticed() {
    // An invariant counts only once a mutant has died of it.
    let lives = |mutant: &&Mutant| (0..SEEDS / 20).all(|seed| run(seed, **mutant).is_ok());
    let alive: Vec<&Mutant> = Mutant::ALL.iter().filter(lives).collect();
    assert!(alive.is_empty(), "alive: {alive:?}");
}
