//! Fits the long help of every command to a terminal of 80 columns: prose is broken between words, a
//! row of a list goes on below its second column.

use clap::Command;

/// Columns that every terminal has.
const WIDTH: usize = 80;

/// `command` and everything below it, fitted.
pub fn fitted(command: Command) -> Command {
    let text = command.get_after_long_help().map(|text| fit(&text.to_string()));
    let command = match text {
        Some(text) => command.after_long_help(text),
        None => command,
    };
    command.mut_subcommands(fitted)
}

fn fit(text: &str) -> String {
    text.lines().map(fit_line).collect::<Vec<_>>().join("\n")
}

/// The column in which what a row says begins; where prose goes on for other lines.
fn hang(line: &str) -> usize {
    let indent = line.len() - line.trim_start().len();
    match line[indent..].find("  ") {
        Some(at) if indent > 0 => {
            let gap = indent + at;
            gap + line[gap..].len() - line[gap..].trim_start().len()
        }
        _ => indent,
    }
}

fn fit_line(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let hang = hang(line);
    let (head, rest) = line.split_at(hang);
    let mut lines = vec![head.to_owned()];
    for word in rest.split(' ') {
        let open = lines.last().map_or(0, |line| line.chars().count());
        let begins = lines.last().is_none_or(|line| line.chars().count() == hang);
        if !begins && open + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{}{word}", " ".repeat(hang)));
        } else if let Some(line) = lines.last_mut() {
            if !begins {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_between_words_and_rows_below_what_they_say() {
        let prose = "word ".repeat(20);
        let fitted = fit(prose.trim_end());
        assert!(fitted.lines().all(|line| line.len() <= WIDTH) && fitted.lines().count() == 2, "{fitted}");
        assert_eq!(fitted.split_whitespace().count(), 20);
        let row = format!("  maand gc -n    {}", "what it says ".repeat(8).trim_end());
        let fitted = fit(&row);
        assert!(fitted.lines().nth(1).unwrap().starts_with("                 "), "{fitted}");
        assert!(fitted.lines().all(|line| line.len() <= WIDTH), "{fitted}");
        assert_eq!(fit("  short    row\n\nprose"), "  short    row\n\nprose");
    }
}
