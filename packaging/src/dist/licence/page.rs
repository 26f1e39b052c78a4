//! The page with all of it: each crate with its licence, and each text once.

use std::fmt::Write as _;

use super::{Linked, NATIVE};

/// A text without the marks of who wrote it down where: line ends, spaces at their ends, empty lines around it.
pub fn plain(text: &str) -> String {
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().map(str::trim_end).collect();
    let text = lines.join("\n");
    match text.trim_matches('\n') {
        "" => String::new(),
        text => format!("{text}\n"),
    }
}

/// What is linked into `program`, and on what terms; `own` is the text of this project's own licence.
pub fn page(program: &str, linked: &[Linked], own: &str) -> String {
    // A text, and where it was found first.
    let mut texts = vec![(plain(own), "LICENSE of maand".to_owned())];
    let mut list = String::new();
    for one in linked {
        let mut numbers = Vec::new();
        for (name, text) in one.texts.iter().filter(|(_, text)| !text.is_empty()) {
            let at = texts.iter().position(|(known, _)| known == text).unwrap_or_else(|| {
                texts.push((text.clone(), format!("{name} of {} {}", one.name, one.version)));
                texts.len() - 1
            });
            numbers.push((name, at + 1));
        }
        let mentioned = |names: &[&str]| {
            let of = |(name, number): &(&String, usize)| {
                let native = NATIVE.iter().any(|native| native.texts.contains(&name.as_str()));
                let own = names.is_empty() && !native;
                (own || names.contains(&name.as_str())).then(|| format!("[{number}]"))
            };
            numbers.iter().filter_map(of).collect::<Vec<_>>().join(" ")
        };
        let _ = writeln!(list, "{} {}: {} {}", one.name, one.version, one.licence, mentioned(&[]));
        for native in NATIVE.iter().filter(|native| native.of == one.name) {
            let said = format!(
                "{} {}",
                native.licence,
                if native.texts.is_empty() { String::new() } else { mentioned(native.texts) }
            );
            let _ = writeln!(
                list,
                "    with it {}{}{}",
                native.name,
                if said.trim().is_empty() { "" } else { ": " },
                said.trim()
            );
        }
    }
    let mut page = format!(
        "What is linked into {program} beside its own code, and on what terms. Each line is a crate as published\n\
         under that name and version, its licence as an SPDX expression, and the numbers of the texts below.\n\
         Rust's own standard library is linked in as well: MIT OR Apache-2.0 [1]\n\n{list}"
    );
    for (number, (text, place)) in texts.iter().enumerate() {
        let _ = write!(page, "\n{}\n[{}] {place}\n\n{text}", "=".repeat(100), number + 1);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_there_once() {
        let one = |name: &str, texts: &[(&str, &str)]| Linked {
            name: name.into(),
            version: "1.0.0".into(),
            licence: "MIT".into(),
            texts: texts.iter().map(|(name, text)| ((*name).to_owned(), plain(text))).collect(),
            native: false,
        };
        let linked = [
            one("a", &[("LICENSE", "You may.\r\n"), ("NOTICE", "By A.")]),
            one("b", &[("COPYING", "\nYou may.  \n\n")]),
            one("libsqlite3-sys", &[("LICENSE", "You may")]),
            one("zstd-sys", &[("LICENSE", "By Z."), ("zstd/LICENSE", "You may.")]),
        ];
        let page = page("maand", &linked, "Own.");
        for line in [
            "a 1.0.0: MIT [2] [3]\n",
            "b 1.0.0: MIT [2]\n",
            "[1] LICENSE of maand\n\nOwn.\n",
            "[2] LICENSE of a 1.0.0\n\nYou may.\n",
            "    with it SQLite (C), dedicated to the public domain",
            "zstd-sys 1.0.0: MIT [5]\n    with it Zstandard (C), of its two licences under this one: BSD-3-Clause [2]\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        assert_eq!(page.matches("You may.").count(), 1);
    }
}
