//! Everything that parses bytes from outside (`harness::outside`), with the seeds of `tests/fuzz`, with those
//! slightly damaged, and with any bytes. The fuzzer goes on from there: `cargo xtask fuzz`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::outside::{TARGETS, feed};
use harness::rendering;
use proptest::prelude::*;

use seeds::{Seeds, made};

mod seeds;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

/// Runs a target. Templates are rendered as the product does it.
fn fed(target: &str, bytes: &[u8]) {
    rendering::by(env!("CARGO_BIN_EXE_maand-dup"));
    feed(target, bytes);
}

/// The committed seeds, by target.
fn committed() -> Seeds {
    let mut all: Seeds = TARGETS.iter().map(|(target, _)| (*target, BTreeMap::new())).collect();
    for (target, seeds) in &mut all {
        let listed = std::fs::read_dir(dir().join(target)).unwrap_or_else(|error| panic!("seeds of {target}: {error}"));
        for file in listed {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            seeds.insert(name, std::fs::read(&path).unwrap());
        }
    }
    all
}

/// `MAAND_BLESS=1` writes them. Certificates and requests have keys of chance: they are made once.
#[test]
fn the_seeds_are_those_that_are_made() {
    let made = made();
    if std::env::var_os("MAAND_BLESS").is_some() {
        for (target, seeds) in &made {
            std::fs::create_dir_all(dir().join(target)).unwrap();
            for (name, bytes) in seeds {
                let path = dir().join(target).join(name);
                if !(name.ends_with(".der") && path.exists()) {
                    std::fs::write(path, bytes).unwrap();
                }
            }
        }
    }
    let committed = committed();
    for (target, seeds) in &made {
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        for (name, bytes) in seeds.iter().filter(|(name, _)| !name.ends_with(".der")) {
            assert_eq!(committed[target].get(name), Some(bytes), "seeds/{target}/{name}: bless with MAAND_BLESS=1");
        }
    }
}

#[test]
fn seeds_are_read() {
    for (target, seeds) in committed() {
        for bytes in seeds.values() {
            fed(target, bytes);
        }
    }
}

/// A target of `tests/fuzz` for each, which does nothing else.
#[test]
fn every_reader_has_a_fuzz_target() {
    let fuzz = dir().parent().unwrap().to_owned();
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        let text = std::fs::read_to_string(fuzz.join(format!("targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("harness::outside::feed(\"{target}\", bytes)")), "{target}: {text}");
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target} is not in its Cargo.toml");
    }
    let files = std::fs::read_dir(fuzz.join("targets")).unwrap().count();
    assert_eq!(files, TARGETS.len());
}

/// One small damage.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Set(usize, u8),
    Cut(usize, usize),
    Twice(usize, usize),
    Word(usize, &'static str),
    Foreign(usize, usize),
}

/// What parsers stumble over.
const WORDS: &[&str] = &[
    "\0",
    "\u{202e}",
    "\"",
    "\\",
    "\\u0000",
    "{",
    "[[[[[[[[",
    "}",
    "null",
    "-1",
    "0",
    "1e999",
    "18446744073709551615",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "../",
    "/",
    "{{",
    "{%",
    "\n",
    "\r\n",
    "\u{1b}[2J",
    "ü",
    "\u{feff}",
    "true",
    "[]",
    "{}",
];

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>;
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), at()).prop_map(|(at, len)| Damage::Cut(at, len)),
        (at(), at()).prop_map(|(at, len)| Damage::Twice(at, len)),
        (at(), prop::sample::select(WORDS)).prop_map(|(at, word)| Damage::Word(at, word)),
        (at(), at()).prop_map(|(at, from)| Damage::Foreign(at, from)),
    ]
}

fn damaged(mut bytes: Vec<u8>, other: &[u8], all: &[Damage]) -> Vec<u8> {
    for damage in all {
        let place = |at: usize| if bytes.is_empty() { 0 } else { at % bytes.len() };
        let stretch = |at: usize, len: usize| {
            let at = place(at);
            at..(at + len % 24).min(bytes.len())
        };
        match damage {
            Damage::Flip(at, bit) if !bytes.is_empty() => {
                let at = place(*at);
                bytes[at] ^= 1 << bit;
            }
            Damage::Set(at, byte) if !bytes.is_empty() => {
                let at = place(*at);
                bytes[at] = *byte;
            }
            Damage::Flip(..) | Damage::Set(..) => {}
            Damage::Cut(at, len) => drop(bytes.drain(stretch(*at, *len))),
            Damage::Twice(at, len) => {
                let stretch = stretch(*at, *len);
                let copy = bytes[stretch.clone()].to_vec();
                bytes.splice(stretch.start..stretch.start, copy);
            }
            Damage::Word(at, word) => {
                let at = place(*at);
                bytes.splice(at..at, word.bytes());
            }
            Damage::Foreign(at, from) => {
                let at = place(*at);
                let from = from % other.len().max(1);
                let piece = other[from..(from + 16).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// Each target by itself, so that one that fails says which it is.
fn property(target: &'static str, cases: u32) {
    let seeds: Vec<Vec<u8>> = committed().remove(target).unwrap().into_values().collect();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let count = seeds.len();
    proptest!(config, |(
        at in 0..count,
        other in 0..count,
        damage in prop::collection::vec(damage(), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..200),
        random in 0u8..8,
    )| {
        let bytes = if random == 0 { noise } else { damaged(seeds[at].clone(), &seeds[other], &damage) };
        fed(target, &bytes);
    });
}

macro_rules! properties {
    ($($target:ident $cases:literal;)*) => {
        $(#[test]
        fn $target() {
            property(stringify!($target), $cases);
        })*

        #[test]
        fn every_reader_has_a_property() {
            let tested = [$(stringify!($target)),*];
            assert_eq!(tested.to_vec(), TARGETS.iter().map(|(target, _)| *target).collect::<Vec<_>>());
        }
    };
}

properties! {
    bundle 600;
    certificate 600;
    desired 600;
    enrol 300;
    hook_api 600;
    log_lines 600;
    logs 600;
    mountinfo 600;
    pack 300;
    report 300;
    settings 300;
    template 200;
    token 600;
    want 600;
    words 600;
    workspace 400;
}
