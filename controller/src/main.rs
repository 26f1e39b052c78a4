//! `maand`: see `controller::main`.

fn main() -> std::process::ExitCode {
    controller::main()
}
