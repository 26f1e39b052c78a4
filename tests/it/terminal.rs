//! What is drawn on a terminal, and what is not when nobody is at one.

use std::process::Command;

use harness::bucket::Bucket;
use harness::poll;
use harness::process::Running;

use crate::support::bucket;

/// `maand WORDS` at a terminal of its own, which python makes; what it draws goes to the log.
fn at_a_terminal(bucket: &Bucket, words: &[&str], variables: &[(&str, &str)]) -> Running {
    let inner = bucket.command(words);
    let spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = Command::new("python3");
    command.args(["-c", spawn]).arg(inner.get_program()).args(inner.get_args()).current_dir(bucket.path(""));
    command.env_clear().envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.env("TERM", "xterm").envs(variables.iter().copied());
    Running::start("terminal", command, &bucket.dir().join("terminal.log"))
}

/// A bucket with something to build, and a connection that holds up whoever writes its catalog.
fn held_up() -> (Bucket, rusqlite::Connection) {
    let bucket = bucket();
    bucket.workers(&["10.0.0.1".to_owned()], &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.execute_batch("BEGIN IMMEDIATE").unwrap();
    (bucket, catalog)
}

#[test]
fn what_takes_longer_than_a_second_shows_how_far_it_is_and_clears_it() {
    let (bucket, catalog) = held_up();
    let mut build = at_a_terminal(&bucket, &["build"], &[]);
    poll::until("progress", poll::LONG, || {
        let printed = build.printed();
        if printed.contains("writing the catalog") { Ok(()) } else { Err(printed) }
    });
    catalog.execute_batch("COMMIT").unwrap();
    assert!(build.wait(poll::LONG).success(), "{}", build.printed());
    let printed = build.printed();
    // The line is cleared before the last word.
    let (drawn, last) = printed.rsplit_once("\u{1b}[2K").expect("it was cleared");
    assert!(drawn.contains("writing the catalog"), "{printed:?}");
    assert!(last.contains("built 1 job on 1 worker") && !last.contains("writing"), "{printed:?}");
}

#[test]
fn what_is_quick_piped_for_programs_or_at_a_dumb_terminal_draws_nothing() {
    let (bucket, catalog) = held_up();
    catalog.execute_batch("COMMIT").unwrap();
    let mut quick = at_a_terminal(&bucket, &["build"], &[("NO_COLOR", "1")]);
    assert!(quick.wait(poll::LONG).success(), "{}", quick.printed());
    assert!(!quick.printed().contains('\u{1b}'), "{:?}", quick.printed());

    for (words, variables, terminal) in [
        (&["build"][..], &[("TERM", "dumb"), ("NO_COLOR", "1")][..], true),
        (&["build", "--json"], &[], true),
        (&["build"], &[], false),
    ] {
        catalog.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut build = match terminal {
            true => at_a_terminal(&bucket, words, variables),
            false => bucket.start("piped", words),
        };
        // As long as a bar would have been there.
        let begin = std::time::Instant::now();
        poll::until("it to be held up", poll::LONG, || {
            assert!(build.ended().is_none(), "{}", build.printed());
            if begin.elapsed() > std::time::Duration::from_millis(1600) { Ok(()) } else { Err("not yet") }
        });
        catalog.execute_batch("COMMIT").unwrap();
        assert!(build.wait(poll::LONG).success(), "{}", build.printed());
        let drawn = build.printed();
        assert!(!drawn.contains('\u{1b}') && !drawn.contains("writing the catalog"), "{words:?}: {drawn:?}");
    }
}
