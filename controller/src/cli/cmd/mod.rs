//! One command, one file: a clap `Args` struct whose doc comment is its help, and `run`.
