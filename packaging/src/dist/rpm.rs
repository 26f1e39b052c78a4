//! A .rpm of the same tree, made by the crate `rpm`: a format of tagged tables that is better not written twice.

use std::io;

use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder, Scriptlet};

use super::Release;
use super::doc;
use super::elf::Machine;
use super::package::Package;
use super::script;
use super::tree::Entry;

/// The package's bytes.
pub fn make(package: &Package, machine: Machine, release: Release<'_>) -> io::Result<Vec<u8>> {
    let failed = |error: rpm::Error| io::Error::other(format!("{}: {error}", package.name));
    let time = u32::try_from(release.time).map_err(io::Error::other)?;
    let config = BuildConfig::v4().source_date(time).compression(CompressionWithLevel::Xz(release.level));
    let mut builder = PackageBuilder::new(package.name, release.version, "Apache-2.0", machine.name(), package.summary);
    builder
        .using_config(config)
        .release("1")
        .build_host("localhost")
        .description(package.description)
        .packager(doc::MAINTAINER);
    let mut requires = package.needs.rpm();
    requires.extend(package.rpm.depends.iter().map(|&name| name.to_owned()));
    for name in requires {
        builder.requires(Dependency::any(name));
    }
    for name in package.rpm.recommends {
        builder.recommends(Dependency::any(*name));
    }
    // zsh of these distributions looks elsewhere than Debian's.
    let tree = package.tree.renamed(|path| path.replace("zsh/vendor-completions", "zsh/site-functions"));
    for (path, content, mode) in tree.files() {
        let mut options = FileOptions::new(format!("/{path}"))
            .permissions(u16::try_from(mode).unwrap_or(0o644))
            .user("root")
            .group("root");
        if package.conffiles.contains(&path) {
            options = options.config().noreplace();
        } else if path.ends_with("/copyright") || path.ends_with("/THIRD-PARTY.gz") {
            options = options.license();
        } else if path.starts_with("usr/share/doc/") {
            options = options.doc();
        }
        builder.with_file_contents(content, options).map_err(failed)?;
    }
    // Directories that are this package's alone, so that they go with it; all others are the distribution's.
    for (path, entry) in tree.entries() {
        if *entry == Entry::Dir && path.split('/').any(|part| part == "maand" || part == package.name) {
            let options = FileOptions::dir(format!("/{path}")).permissions(0o755).user("root").group("root");
            builder.with_dir_entry(options).map_err(failed)?;
        }
    }
    for hook in script::RPM {
        let text = Scriptlet::new(package.script.text(hook, "systemctl")).prog(vec!["/bin/sh"]);
        match hook.0 {
            "pre" => builder.pre_install_script(text),
            "post" => builder.post_install_script(text),
            "preun" => builder.pre_uninstall_script(text),
            "postun" => builder.post_uninstall_script(text),
            _ => builder.post_trans_script(text),
        };
    }
    let built = builder.build().map_err(failed)?;
    let mut bytes = Vec::new();
    built.write(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
