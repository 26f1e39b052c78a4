//! `cargo xtask completions|man`: what shells complete and `man` shows, made of the same command lines that the
//! programs parse, so that the three cannot differ.

use std::path::Path;

use clap_complete::Shell;

/// Shells that completions are made for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn programs() -> [clap::Command; 2] {
    [controller::cli::command(), agent::cli::command()]
}

/// Writes completions of both programs into `dir`, named as each shell looks for them.
pub fn completions(dir: &Path) -> std::io::Result<()> {
    for mut program in programs() {
        let name = program.get_name().to_owned();
        for shell in SHELLS {
            let below = dir.join(shell.to_string());
            std::fs::create_dir_all(&below)?;
            clap_complete::generate_to(shell, &mut program, &name, below)?;
        }
    }
    Ok(())
}

/// Writes a page for each command of both programs into `dir`: `maand.1`, `maand-deploy.1`, …
pub fn man(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    programs().into_iter().try_for_each(|program| clap_mangen::generate_to(program, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &clap::Command, name: &str, into: &mut Vec<String>) {
        into.push(name.to_owned());
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            words(below, &format!("{name}-{}", below.get_name()), into);
        }
    }

    #[test]
    fn each_command_has_its_page_and_each_shell_its_completions() {
        let dir = tempfile::tempdir().unwrap();
        completions(dir.path()).unwrap();
        man(dir.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        for file in ["bash/maand.bash", "zsh/_maand", "fish/maand.fish"] {
            let text = read(file);
            assert!(text.contains("explain") && text.contains("dry-run"), "{file}");
        }
        assert!(read("bash/maand-agent.bash").contains("logs"));
        for program in programs() {
            let mut names = Vec::new();
            words(&program, program.get_name(), &mut names);
            for name in names {
                assert!(read(&format!("{name}.1")).contains(".SH SYNOPSIS"), "{name}");
            }
        }
        let deploy = read("maand-deploy.1");
        assert!(deploy.contains("Ctrl\\-C pauses"), "with its examples: {deploy}");
    }
}
