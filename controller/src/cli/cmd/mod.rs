//! One command, one file: a clap `Args` struct whose doc comment is its help, and `run`.

pub mod agent;
pub mod backup;
pub mod build;
pub mod cat;
pub mod deploy;
pub mod dev;
pub mod drive;
pub mod explain;
pub mod gc;
pub mod health_check;
pub mod hooks;
pub mod info;
pub mod init;
pub mod job;
pub mod logs;
pub mod recover;
pub mod rollout;
pub mod run_command;
pub mod serve;
pub mod stage;
pub mod why;
pub mod worker_facts;
