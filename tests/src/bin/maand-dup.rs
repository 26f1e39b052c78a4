//! `maand`, built with the tests: `cargo test` builds the programs of the package under test only.

fn main() -> std::process::ExitCode {
    controller::main()
}
