//! Papers of a package: its licence and those of what is linked into it, and what has changed.

use std::io::{self, Write as _};

use super::elf::Machine;
use super::package::Package;
use super::tree::Tree;
use super::{Input, Release, licence};

/// Who answers for the packages.
pub const MAINTAINER: &str = "The maand maintainers <maintainers@maand.invalid>";

/// Compressed, without a name or a time in it.
pub fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}

/// Papers that every format has: of the package `name`, whose program is the workspace's package `krate`.
pub fn common(tree: &mut Tree, name: &str, krate: &str, input: &Input, machine: Machine) -> io::Result<()> {
    let place = format!("usr/share/doc/{name}");
    tree.file(format!("{place}/copyright"), 0o644, copyright(name, input.time)?);
    let changes = std::fs::read(input.workspace.join("CHANGELOG.md"))?;
    tree.file(format!("{place}/CHANGELOG.md.gz"), 0o644, gzip(&changes)?);
    let own = std::fs::read_to_string(input.workspace.join("LICENSE"))?;
    let linked = licence::linked(&input.workspace, krate, machine.name())?;
    tree.file(format!("{place}/THIRD-PARTY.gz"), 0o644, gzip(licence::page(name, &linked, &own).as_bytes())?);
    Ok(())
}

/// Debian's own list of changes: of the package, not of the program.
pub fn debian(tree: &mut Tree, package: &Package, release: Release<'_>) -> io::Result<()> {
    let time = i64::try_from(release.time).map_err(io::Error::other)?;
    let (name, version) = (package.name, release.version);
    let date = rfc2822(time);
    let text = format!(
        "{name} ({version}) unstable; urgency=medium\n\n  * Version {version}; see CHANGELOG.md.gz.\n\n -- {MAINTAINER}  {date}\n"
    );
    tree.file(format!("usr/share/doc/{name}/changelog.gz"), 0o644, gzip(text.as_bytes())?);
    Ok(())
}

/// In UTC, as mail writes it.
fn rfc2822(time: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, seconds) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    // Days since 1 March of the year 0, in eras of 400 years, so that a leap day is a year's last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let from_january = (month + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(from_january < 2);
    let at = |index: i64, names: &[&'static str]| usize::try_from(index).ok().and_then(|i| names.get(i).copied());
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} +0000",
        at(days.rem_euclid(7), &DAYS).unwrap_or_default(),
        at(from_january, &MONTHS).unwrap_or_default(),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The licence, in Debian's form; those of what is linked in are on a page of their own.
fn copyright(name: &str, time: u64) -> io::Result<String> {
    let date = rfc2822(i64::try_from(time).map_err(io::Error::other)?);
    let year = date.split(' ').nth(3).unwrap_or_default();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: maand\n\
         Upstream-Contact: {MAINTAINER}\nComment:\n What else is linked into {name}, on what terms, and the texts of all of these licences:\n \
         /usr/share/doc/{name}/THIRD-PARTY.gz\n\
         \nFiles: *\nCopyright: {year} the maand maintainers\nLicense: Apache-2.0\n\nLicense: Apache-2.0\n \
        On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0;\n \
        elsewhere it is the first one in THIRD-PARTY.gz.\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_as_mail_writes_it() {
        assert_eq!(rfc2822(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc2822(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(rfc2822(1_795_547_367), "Tue, 24 Nov 2026 19:09:27 +0000");
    }
}
