//! What the two packages are: names, words, dependencies, files.

use std::io;
use std::path::Path;

use super::Input;
use super::doc;
use super::elf::{self, Needs};
use super::script::Script;
use super::tree::Tree;
use crate::pages;

/// One package, whatever its format.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// A line.
    pub summary: &'static str,
    /// Some more; an empty line parts paragraphs.
    pub description: &'static str,
    /// Shared libraries of its program.
    pub needs: Needs,
    /// What else it needs, as Debian names it.
    pub debian: Others,
    /// The same for rpm.
    pub rpm: Others,
    /// Everything that it installs.
    pub tree: Tree,
    /// Files that belong to the operator once they are there.
    pub conffiles: &'static [&'static str],
    /// What is done around its files.
    pub script: Script,
}

/// Other packages.
#[derive(Debug, Clone, Copy)]
pub struct Others {
    /// Needed.
    pub depends: &'static [&'static str],
    /// Usually wanted.
    pub recommends: &'static [&'static str],
}

/// The page in the tar.zst.
pub const INSTALL: &str = "\
maand and maand-agent, the tree of the packages. As root, in this directory:

On the controller:
    cp -a --no-preserve=ownership usr /
    systemd-sysusers maand.conf && systemd-tmpfiles --create maand.conf && systemctl daemon-reload

On a worker:
    cp -a --no-preserve=ownership usr /
    cp -an --no-preserve=ownership etc /
    systemd-tmpfiles --create maand-agent.conf && systemctl daemon-reload

Then as in usr/share/doc/maand/start/. Without systemd run the programs as you run other daemons: `maand serve`,
`maand drive`, `maand-agent run`. Jobs then end with the agent if whatever supervises it ends its whole group.
";

/// `maand`.
pub fn maand(input: &Input) -> io::Result<Package> {
    let mut tree = base(input, "maand", "controller", &input.maand)?;
    for below in ["start", "guides", "reference", "api", "errors"] {
        tree.copy(&format!("usr/share/doc/maand/{below}/"), &input.workspace.join("docs").join(below))?;
    }
    for example in ["hello", "cluster"] {
        let place = format!("usr/share/doc/maand/examples/{example}/");
        tree.copy(&place, &input.workspace.join("examples").join(example))?;
    }
    let schema = controller::catalog::schema::CURRENT;
    let values = [("VERSION", input.version.clone()), ("CATALOG_SCHEMA", schema.to_string())];
    Ok(Package {
        name: "maand",
        summary: "deploys services to a pool of Linux machines that pull",
        description: "maand keeps a bucket: a directory with workers, jobs and a catalog. It works\n\
            out what goes where and rolls it out in batches, promotes what works and stops\n\
            at what does not.\n\n\
            Nothing ever connects to a worker: maand-agent on it dials this controller\n\
            over one TCP port.",
        needs: Needs::of(&input.maand)?,
        debian: Others { depends: &["systemd | systemd-standalone-sysusers"], recommends: &["python3", "systemd"] },
        rpm: Others { depends: &["systemd"], recommends: &["python3"] },
        tree,
        conffiles: &[],
        script: Script::load(&input.workspace, "maand", &values)?,
    })
}

/// `maand-agent`.
pub fn agent(input: &Input) -> io::Result<Package> {
    let tree = base(input, "maand-agent", "agent", &input.agent)?;
    let schema = agent::state::ledger::SCHEMA;
    let values = [("VERSION", input.version.clone()), ("LEDGER_SCHEMA", schema.to_string())];
    Ok(Package {
        name: "maand-agent",
        summary: "runs on a worker what its maand controller asks for",
        description: "maand-agent dials its controller, fetches what this machine should run,\n\
            verifies it, puts it in place without touching a job's data, and runs make\n\
            start or make restart. It keeps running what runs when the controller is away,\n\
            and starts it again after a boot.\n\n\
            Nothing connects to it, and it listens on no port.",
        needs: Needs::of(&input.agent)?,
        debian: Others { depends: &["make"], recommends: &["systemd"] },
        rpm: Others { depends: &["make"], recommends: &["systemd"] },
        tree,
        conffiles: &["etc/maand/agent.toml"],
        script: Script::load(&input.workspace, "maand-agent", &values)?,
    })
}

/// What is the same for both: the program, the mirrored files, completions, man pages, the licence.
fn base(input: &Input, name: &str, krate: &str, program: &Path) -> io::Result<Tree> {
    let mut tree = Tree::default();
    tree.copy("", &input.workspace.join("packaging/dist").join(name))?;
    tree.file(format!("usr/bin/{name}"), 0o755, elf::stripped(program)?);
    let completions = [
        ("bash-completion/completions", "bash"),
        ("zsh/vendor-completions", "zsh"),
        ("fish/vendor_completions.d", "fish"),
    ];
    for (place, shell) in completions {
        let (file, content) = pages::completion(name, shell)?;
        tree.file(format!("usr/share/{place}/{file}"), 0o644, content);
    }
    for (file, content) in pages::manual(name)? {
        tree.file(format!("usr/share/man/man1/{file}.gz"), 0o644, doc::gzip(&content)?);
    }
    let machine = elf::Machine::of(&std::fs::read(program)?)?;
    doc::common(&mut tree, name, krate, input, machine)?;
    Ok(tree)
}
