//! `maand explain CODE`: the page of an error code, which the program has with it (docs/errors/).

use shared::text::closest;
use shared::{Code, Diagnostic};

use crate::cli::Context;
use crate::cli::table::Table;
use crate::failure::{Exit, Failure};

/// Explain an error code
///
/// What it means, how it comes about and what to do. Without a code, all of them in a table.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  maand explain MD0012\n  maand explain 12\n  maand explain")]
pub struct Args {
    /// The code, as in error[MD0012], or its number
    code: Option<String>,
}

macro_rules! page {
    ($number:literal) => {
        (concat!("MD", $number), include_str!(concat!("../../../../docs/errors/MD", $number, ".md")))
    };
}

/// Every page, by code.
const PAGES: &[(&str, &str)] = &[
    page!("0001"),
    page!("0002"),
    page!("0003"),
    page!("0004"),
    page!("0005"),
    page!("0006"),
    page!("0007"),
    page!("0008"),
    page!("0009"),
    page!("0010"),
    page!("0011"),
    page!("0012"),
    page!("0020"),
    page!("0021"),
    page!("0022"),
    page!("0023"),
    page!("0024"),
    page!("0025"),
    page!("0026"),
    page!("0027"),
    page!("0028"),
    page!("0029"),
    page!("0030"),
    page!("0031"),
    page!("0032"),
    page!("0033"),
    page!("0034"),
    page!("0035"),
    page!("0036"),
    page!("0037"),
    page!("0040"),
    page!("0041"),
    page!("0042"),
    page!("0043"),
    page!("0044"),
    page!("0060"),
    page!("0061"),
    page!("0062"),
    page!("0063"),
    page!("0064"),
    page!("0065"),
    page!("0066"),
    page!("0067"),
    page!("0068"),
    page!("0069"),
    page!("0070"),
    page!("0071"),
    page!("0076"),
    page!("0077"),
    page!("0080"),
    page!("0081"),
    page!("0082"),
    page!("0083"),
    page!("0084"),
    page!("0085"),
    page!("0086"),
    page!("0087"),
    page!("0088"),
    page!("0089"),
    page!("0090"),
    page!("0091"),
    page!("0092"),
    page!("0093"),
    page!("0094"),
    page!("0095"),
    page!("0096"),
];

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let Some(asked) = &args.code else {
        let mut table = Table::new(&["code", "title"]);
        Code::ALL.iter().for_each(|code| table.row(vec![code.to_string().into(), code.title().into()]));
        table.print(&context.ui);
        return Ok(());
    };
    let digits = asked.trim().trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let wanted = digits.parse::<u16>().map_or_else(|_| asked.to_uppercase(), |number| format!("MD{number:04}"));
    let Some((code, page)) = PAGES.iter().find(|(code, _)| *code == wanted) else {
        let problem = Diagnostic::new(Code::UnknownName, format!("there is no error code {asked:?}"));
        let problem = match closest(&wanted, PAGES.iter().map(|(code, _)| *code)) {
            Some(close) => problem.note(format!("did you mean {close}?")),
            None => problem,
        };
        return Err(Failure::new(Exit::Usage, problem.remedy("maand explain lists all of them")));
    };
    if context.ui.wants_json() {
        let title = Code::ALL.iter().find(|known| known.to_string() == *code).map(|known| known.title());
        context.ui.out_json(&serde_json::json!({ "code": code, "title": title, "page": page }));
    } else {
        context.ui.out(page.trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_page() {
        let known: Vec<String> = Code::ALL.iter().map(ToString::to_string).collect();
        let described: Vec<&str> = PAGES.iter().map(|(code, _)| *code).collect();
        assert_eq!(described, known, "docs/errors/, and the list above");
        for (code, (_, page)) in Code::ALL.iter().zip(PAGES) {
            assert!(page.starts_with(&format!("# {code}: {}\n", code.title())), "{code}: its title");
            for part in ["\n## How it comes about\n\n- ", "\n## What to do\n\n- "] {
                assert!(page.contains(part), "{code}: {part:?}");
            }
            assert!(page.lines().all(|line| line.chars().count() <= 80), "{code}: wider than a terminal");
        }
    }
}
