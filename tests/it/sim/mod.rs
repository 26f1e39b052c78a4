//! The rollout machine in a seeded world that loses, repeats, reorders, fails and forgets.

mod rollout;
mod world;
