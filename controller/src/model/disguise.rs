//! The forms in which programs write a value without meaning to hide it: what [`Redactor`](super::Redactor) looks for
//! beside the value itself.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// Characters that no shell needs quoted.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c)
}

/// Every form of `value` but itself.
pub fn forms(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let mut forms = vec![
        HEXLOWER.encode(bytes),
        HEXUPPER.encode(bytes),
        BASE64.encode(bytes),
        BASE64_NOPAD.encode(bytes),
        BASE64URL.encode(bytes),
        BASE64URL_NOPAD.encode(bytes),
        json(value, false),
        json(value, true),
        json(value, false).replace('/', "\\/"),
        percent(bytes, "-_.~", false),
        percent(bytes, "-_.~", true),
        percent(bytes, "-_.~/", false),
        percent(bytes, "-_.*", false).replace("%20", "+"),
        percent(bytes, "-_.!~*'()", false),
        percent(bytes, "-_.!~*'();/?:@&=+$,#", false),
        value.replace('\'', r"'\''"),
        value.replace('\'', r#"'"'"'"#),
        value.chars().map(|c| if "\"\\$`".contains(c) { format!("\\{c}") } else { c.to_string() }).collect(),
        value.chars().map(|c| if is_plain(c) || !c.is_ascii() { c.to_string() } else { format!("\\{c}") }).collect(),
    ];
    // In the middle of something longer: all groups of three bytes that are the value's own, wherever it begins.
    for skip in 0..3 {
        let whole = bytes.get(skip..).unwrap_or_default();
        let whole = whole.get(..whole.len() / 3 * 3).unwrap_or_default();
        forms.extend([BASE64_NOPAD.encode(whole), BASE64URL_NOPAD.encode(whole)]);
    }
    forms.retain(|form| form != value);
    forms.sort();
    forms.dedup();
    forms
}

/// As in a text of JSON, without the quotes around it.
fn json(value: &str, ascii: bool) -> String {
    let mut out = String::new();
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if ascii && !c.is_ascii() => {
                out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    out
}

/// As in an address: all but letters, digits and `plain` by number.
fn percent(bytes: &[u8], plain: &str, lower: bool) -> String {
    let one = |byte: &u8| match byte {
        byte if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(byte) => char::from(*byte).to_string(),
        byte if lower => format!("%{byte:02x}"),
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_is_promised_is_among_them() {
        let forms = forms("p/ss w'rd\"é$&+");
        for form in [
            "702f7373207727726422c3a924262b",
            "702F7373207727726422C3A924262B",
            "cC9zcyB3J3JkIsOpJCYr",
            "p/ss w'rd\\\"é$&+",
            "p/ss w'rd\\\"\\u00e9$&+",
            "p%2Fss%20w%27rd%22%C3%A9%24%26%2B",
            "p%2fss%20w%27rd%22%c3%a9%24%26%2b",
            "p%2Fss+w%27rd%22%C3%A9%24%26%2B",
            "p/ss w'\\''rd\"é$&+",
            "p/ss w'\"'\"'rd\"é$&+",
            "p/ss w'rd\\\"é\\$&+",
            "p/ss\\ w\\'rd\\\"é\\$\\&+",
        ] {
            assert!(forms.iter().any(|found| found == form), "{form} is not in {forms:#?}");
        }
    }

    #[test]
    fn a_plain_value_has_few_forms() {
        let forms = forms("abcdefgh");
        assert!(forms.len() <= 10 && !forms.contains(&"abcdefgh".to_owned()), "{forms:#?}");
    }
}
