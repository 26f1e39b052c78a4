//! `cargo xtask completions|man`: what shells complete and `man` shows, made of the same command lines that the
//! programs parse, so that the three cannot differ.

use std::path::Path;

use clap_complete::Shell;

/// Shells that completions are made for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn programs() -> [clap::Command; 2] {
    [controller::cli::command(), agent::cli::command()]
}

fn program(name: &str) -> std::io::Result<clap::Command> {
    let found = programs().into_iter().find(|program| program.get_name() == name);
    found.ok_or_else(|| std::io::Error::other(format!("there is no program {name}")))
}

/// What `shell` (`bash`, `zsh`, `fish`) completes of a program, and how the shell wants that file called.
pub fn completion(name: &str, shell: &str) -> std::io::Result<(String, Vec<u8>)> {
    let mut program = program(name)?;
    let shell: Shell = shell.parse().map_err(std::io::Error::other)?;
    let mut content = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut content);
    let file = match shell {
        // bash looks for the command's own name.
        Shell::Bash => name.to_owned(),
        _ => clap_complete::Generator::file_name(&shell, name),
    };
    Ok((file, content))
}

/// Every man page of a program: `maand.1`, `maand-deploy.1`, …
pub fn manual(name: &str) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    fn pages(command: clap::Command, into: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()).cloned() {
            pages(below, into)?;
        }
        let man = clap_mangen::Man::new(command);
        let mut content = Vec::new();
        man.render(&mut content)?;
        into.push((man.get_filename(), content));
        Ok(())
    }
    let mut all = Vec::new();
    let mut program = program(name)?.disable_help_subcommand(true);
    program.build();
    pages(program, &mut all)?;
    if name == "maand" {
        apart(&mut all);
    }
    Ok(all)
}

/// `maand agent` would have the page of the program `maand-agent`.
fn apart(pages: &mut [(String, Vec<u8>)]) {
    const TAKEN: &str = "maand-agent.1";
    const FREE: &str = "maand-agent-commands.1";
    for (file, content) in pages {
        match file.as_str() {
            TAKEN => FREE.clone_into(file),
            "maand.1" => {
                let text = String::from_utf8_lossy(content);
                *content = text.replace("maand\\-agent(1)", "maand\\-agent\\-commands(1)").into_bytes();
            }
            _ => {}
        }
    }
}

/// Writes completions of both programs into `dir`, a directory for each shell.
pub fn completions(dir: &Path) -> std::io::Result<()> {
    for shell in SHELLS {
        let below = dir.join(shell.to_string());
        std::fs::create_dir_all(&below)?;
        for program in programs() {
            let (file, content) = completion(program.get_name(), &shell.to_string())?;
            std::fs::write(below.join(file), content)?;
        }
    }
    Ok(())
}

/// Writes a page for each command of both programs into `dir`.
pub fn man(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for program in programs() {
        for (file, content) in manual(program.get_name())? {
            std::fs::write(dir.join(file), content)?;
        }
    }
    Ok(())
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
        for file in ["bash/maand", "zsh/_maand", "fish/maand.fish"] {
            let text = read(file);
            assert!(text.contains("explain") && text.contains("dry-run"), "{file}");
        }
        assert!(read("bash/maand-agent").contains("logs"));
        for program in programs() {
            let mut names = Vec::new();
            words(&program, program.get_name(), &mut names);
            for name in names {
                // The program has that page.
                let taken = program.get_name() == "maand" && name == "maand-agent";
                let name = if taken { "maand-agent-commands".to_owned() } else { name };
                assert!(read(&format!("{name}.1")).contains(".SH SYNOPSIS"), "{name}");
            }
        }
        assert!(read("maand-agent.1").contains("leave"), "the program's own");
        assert!(read("maand-agent-commands.1").contains("token"));
        assert!(read("maand.1").contains("maand\\-agent\\-commands(1)"));
        let deploy = read("maand-deploy.1");
        assert!(deploy.contains("Ctrl\\-C pauses"), "with its examples: {deploy}");
    }
}
