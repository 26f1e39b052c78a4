//! Amounts as operators write them: `512`, `"512 mb"`, `"2.4 ghz"` (`spec/behaviour.md` 2.3).

/// Not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitError;

/// Memory in MiB; without a unit MiB; empty is 0.
pub fn memory_mb(text: &str) -> Result<f64, UnitError> {
    amount(text, &[("mb", 1.0), ("gb", 1024.0), ("tb", 1024.0 * 1024.0)])
}

/// Processor capacity in MHz; without a unit MHz; empty is 0.
pub fn cpu_mhz(text: &str) -> Result<f64, UnitError> {
    amount(text, &[("mhz", 1.0), ("ghz", 1000.0), ("thz", 1_000_000.0)])
}

fn amount(text: &str, units: &[(&str, f64)]) -> Result<f64, UnitError> {
    let text = text.trim().to_lowercase();
    if text.is_empty() {
        return Ok(0.0);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "" => 1.0,
        unit => units.iter().find(|(name, _)| *name == unit).ok_or(UnitError)?.1,
    };
    let number: f64 = number.parse().map_err(|_| UnitError)?;
    Ok(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(memory_mb("512"), Ok(512.0));
        assert_eq!(memory_mb(" 1.5 GB "), Ok(1536.0));
        assert_eq!(memory_mb("2tb"), Ok(2_097_152.0));
        assert_eq!(cpu_mhz("2.4 ghz"), Ok(2400.0));
        assert_eq!(cpu_mhz(""), Ok(0.0));
        for bad in ["x", "1 kb", "-1", "1.2.3", "1 mib"] {
            assert_eq!(memory_mb(bad), Err(UnitError), "{bad}");
        }
    }
}
