//! The planner and the rollout machine in a seeded world that loses, repeats, reorders, fails and forgets.

mod agents;
mod catalog;
mod mutants;
mod random;
mod rollout;
mod rules;
mod seen;
mod world;
