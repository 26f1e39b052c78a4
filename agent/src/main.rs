//! `maand-agent`: see `agent::main`.

fn main() -> std::process::ExitCode {
    agent::main()
}
