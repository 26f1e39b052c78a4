//! The agent of one worker: pulls its desired state, puts files in place, runs make, reports.
//!
//! `reconcile` is pure and decides; everything else carries out. Two kinds of threads: the first
//! speaks to the controller, and each allocation that has work gets one until it is done.
//!
//! ```text
//!  poll ──accept──► ledger ──► worker (a thread per allocation): fetch ► activate ► run ──► ledger
//!    ▲                                                                                   │
//!    └──────── controller ◄────────────────────────── report ◄───────────────────────────┘
//! ```

pub mod alone;
pub mod apply;
pub mod by_hand;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod facts;
pub mod failpoint;
pub mod fetch;
pub mod health;
pub mod heard;
pub mod identity;
pub mod job_logs;
pub mod join;
pub mod leave;
pub mod local;
pub mod logs;
pub mod machine;
pub mod operations;
pub mod poll;
mod receive;
pub mod reconcile;
pub mod renew;
pub mod report;
pub mod run;
pub mod service;
pub mod state;
pub mod tls;
pub mod unit;
pub mod work;

pub use cli::main;
