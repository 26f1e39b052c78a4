//! What packages run when they come and go: the functions of `packaging/dist/scripts/`, and below them each format's
//! own way of asking for one.

use std::io;
use std::path::Path;

/// The functions of one package, ready to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    common: String,
    own: String,
}

/// A moment, and what the format runs then.
pub type Hook = (&'static str, &'static str);

/// Debian's: file of the control archive, and what it does.
pub const DEBIAN: [Hook; 4] = [
    ("preinst", "case \"$1\" in\ninstall|upgrade) refuse_older ;;\nesac\n"),
    (
        "postinst",
        "case \"$1\" in\nconfigure)\n    if [ -n \"$2\" ]; then after_upgrade; else after_install; fi\n    ;;\nesac\n",
    ),
    ("prerm", "case \"$1\" in\nremove) before_removal ;;\nesac\n"),
    ("postrm", "case \"$1\" in\nremove) after_removal ;;\npurge) after_removal; purge ;;\nesac\n"),
];

/// rpm's. Its number says how many versions there will be; of the restart's moment it is past counting.
pub const RPM: [Hook; 5] = [
    ("pre", "refuse_older\n"),
    ("post", "after_install\n"),
    ("preun", "if [ \"$1\" = 0 ]; then before_removal; fi\n"),
    ("postun", "if [ \"$1\" = 0 ]; then after_removal; fi\n"),
    ("posttrans", "after_upgrade\n"),
];

impl Script {
    /// Reads the functions of `name` and fills in what they have to know.
    pub fn load(workspace: &Path, name: &str, values: &[(&str, String)]) -> io::Result<Self> {
        let read = |name: &str| {
            let path = workspace.join("packaging/dist/scripts").join(name);
            std::fs::read_to_string(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let (common, mut own) = (read("common.sh")?, read(&format!("{name}.sh"))?);
        for (key, value) in values {
            own = own.replace(&format!("@{key}@"), value);
        }
        Ok(Self { common, own })
    }

    /// The whole script of one moment. `invoke` starts and stops units, as the distribution wants it done.
    pub fn text(&self, hook: Hook, invoke: &str) -> String {
        let called = self.called(hook.1);
        format!("#!/bin/sh\nset -e\n\n{}\n{}", called.replace("@INVOKE@", invoke), hook.1)
    }

    /// The functions that `dispatch` needs, and those that they need: a script has no more than it runs.
    fn called(&self, dispatch: &str) -> String {
        let functions: Vec<(&str, String)> =
            [&self.common, &self.own].into_iter().flat_map(|text| functions(text)).collect();
        let mut wanted = vec![dispatch.to_owned()];
        let mut names = Vec::new();
        while let Some(text) = wanted.pop() {
            for (name, body) in &functions {
                let calls = text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *name);
                if calls && !names.contains(name) {
                    names.push(*name);
                    wanted.push(body.clone());
                }
            }
        }
        functions.iter().filter(|(name, _)| names.contains(name)).map(|(_, body)| format!("{body}\n")).collect()
    }
}

/// The functions of a script, each with the comment above it.
fn functions(text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let (mut comment, mut open): (String, Option<(&str, String)>) = (String::new(), None);
    for line in text.lines() {
        match &mut open {
            Some((_, body)) => {
                *body += &format!("{line}\n");
                if line == "}" {
                    found.extend(open.take());
                }
            }
            None => match line.strip_suffix("() {") {
                Some(name) => open = Some((name, format!("{}{line}\n", std::mem::take(&mut comment)))),
                None if line.starts_with('#') => comment += &format!("{line}\n"),
                None => comment.clear(),
            },
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_what_it_calls_and_no_more() {
        let own = "# Of all.\n\n# Why.\na() {\n    b @N@\n}\n\nunused() {\n    b\n}\n";
        let script = Script { common: "b() {\n    @INVOKE@ x\n}\n".to_owned(), own: own.to_owned() };
        let text = script.text(("preinst", "a\n"), "systemctl");
        assert_eq!(text, "#!/bin/sh\nset -e\n\nb() {\n    systemctl x\n}\n\n# Why.\na() {\n    b @N@\n}\n\n\na\n");
    }
}
