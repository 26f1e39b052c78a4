//! Licence expressions, as far as crates use them: names, WITH, AND, OR (and the older slash), parentheses.

use std::collections::BTreeSet;
use std::io;

/// The licences that deny.toml allows: one list for whoever looks.
pub fn allowed(deny: &str) -> io::Result<BTreeSet<String>> {
    let parsed: toml::Table = toml::from_str(deny).map_err(io::Error::other)?;
    let list = parsed.get("licenses").and_then(|table| table.get("allow")).and_then(toml::Value::as_array);
    let list = list.ok_or_else(|| io::Error::other("deny.toml allows no licence"))?;
    Ok(list.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

/// Whether an expression can be met with allowed licences alone; else which it is about.
pub fn within(expression: &str, allowed: &BTreeSet<String>) -> Result<(), String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = Reader { words: &words, allowed };
    let met = at.either();
    match met {
        Some(true) if at.words.is_empty() => Ok(()),
        Some(false) if at.words.is_empty() => {
            Err(format!("{expression} is not among the licences that deny.toml allows"))
        }
        _ => Err(format!("{expression:?} is no licence expression")),
    }
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((first, rest)) if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    /// AND binds closer than OR.
    fn either(&mut self) -> Option<bool> {
        let mut met = self.both()?;
        while self.take("OR") {
            met |= self.both()?;
        }
        Some(met)
    }

    fn both(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.take("AND") {
            met &= self.one()?;
        }
        Some(met)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let met = self.either()?;
            return self.take(")").then_some(met);
        }
        let name = self.name()?;
        let name = if self.take("WITH") { format!("{name} WITH {}", self.name()?) } else { name.to_owned() };
        Some(self.allowed.contains(&name))
    }

    fn name(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        let sign = matches!(*first, "(" | ")" | "AND" | "OR" | "WITH");
        self.words = rest;
        (!sign).then_some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_or_not() {
        let allowed = allowed("[licenses]\nallow = [\"MIT\", \"ISC\", \"Apache-2.0 WITH LLVM-exception\"]").unwrap();
        for good in [
            "MIT",
            "GPL-2.0 OR MIT",
            "MIT/GPL-2.0",
            "ISC AND (GPL-2.0 OR MIT)",
            "Apache-2.0 WITH LLVM-exception",
            "MIT OR ISC AND GPL-2.0",
        ] {
            assert_eq!(within(good, &allowed), Ok(()), "{good}");
        }
        for bad in ["GPL-2.0", "MIT AND GPL-2.0", "(MIT OR ISC) AND GPL-2.0", "Apache-2.0"] {
            assert!(within(bad, &allowed).unwrap_err().contains("deny.toml"), "{bad}");
        }
        for broken in ["", "MIT OR", "(MIT", "MIT ISC", "AND", "MIT)"] {
            assert!(within(broken, &allowed).unwrap_err().contains("no licence expression"), "{broken}");
        }
    }
}
