//! Templates: what they see, what is said when one is wrong, and that none takes more than it may, whoever wrote it.

use std::process::Command;

use controller::render::Rendered;
use controller::renderer::{Limits, Renderer};
use harness::rendering::{self, SECRET};
use rustix::process::{Resource, Rlimit, setrlimit};
use shared::Diagnostic;

fn render(text: &str) -> Result<String, String> {
    rendering::by(env!("CARGO_BIN_EXE_maand-dup"));
    shown(rendering::render(text))
}

fn shown(result: Result<Rendered, Vec<Diagnostic>>) -> Result<String, String> {
    let shown = |file: Rendered| {
        let mark = if file.private { "[private]" } else { "" };
        format!("{}{mark}", String::from_utf8(file.content).unwrap())
    };
    result.map(shown).map_err(|problems| problems[0].to_string())
}

#[test]
fn names_functions_and_values() {
    assert_eq!(render("{{ worker_ip }} {{ new_version }} {{ labels | join(',') }}\n").unwrap(), "w1 1.2.0 web\n");
    assert_eq!(render("{{ get('vars/job/api', 'db_name') }}{{ get_optional('vars/job/api', 'no') }}").unwrap(), "x");
    assert_eq!(
        render("{{ keys('vars/job/api') | join }} {{ max(int('2'), 3) + 1 }} {{ join(split('a,b', ','), '-') }}")
            .unwrap(),
        "db_name 4 a-b"
    );
    assert_eq!(render("{{ get('vars/job/db', 'port') }}").unwrap(), "5432", "of a job that is demanded");
    assert_eq!(render("{{ get_secret('password') }}").unwrap(), "hush-4711-hush[private]");
    assert_eq!(render("{{ get('secrets/job/api', 'password') | upper }}").unwrap(), "HUSH-4711-HUSH[private]");
    assert_eq!(render("{{ keys('secrets/job/api') | join }}").unwrap(), "password", "a name is no secret");
    assert_eq!(render("{{ '<&>' }}").unwrap(), "<&>", "nothing is escaped");
}

#[test]
fn errors_say_where_why_and_what_to_do() {
    assert_eq!(
        render("a\nb\n{{ get('vars/job/api', 'db_host') }}").unwrap_err(),
        "error[MD0042]: template reads a key that does not exist: \"db_host\" in vars/job/api\n\
         \x20 at workspace/jobs/api/conf/a.j2:3\n\
         \x20 keys there: db_name\n\
         \x20 for api on w1\n\
         \x20 do: add it to vars.toml, write it in a pre_deploy hook, or read it with get_optional"
    );
    for (text, code) in [
        ("{{ nowhere }}", "MD0041"),
        ("{{ nothing() }}", "MD0041"),
        ("{{ get('vars/job/other', 'k') }}", "MD0043"),
        ("{{ keys('maand/worker/w2') }}", "MD0043"),
        ("{% if %}", "MD0040"),
        ("{{ int('x') }}", "MD0044"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "MD0044"),
    ] {
        let said = render(text).unwrap_err();
        assert!(said.contains(code) && said.contains("conf/a.j2"), "{text}: {said}");
    }
}

#[test]
fn an_error_repeats_no_secret() {
    for text in [
        "{{ int(get_secret('password')) }}",
        "{% set s = get_secret('password') %}{{ s.nothing.at.all }}",
        "{{ get_secret('password') | abs }}",
        "{{ get('vars/job/api', get_secret('password')) }}",
        "{{ get(get_secret('password'), 'x') }}",
    ] {
        let said = render(text).unwrap_err();
        assert!(!said.contains("hush"), "{text}: {said}");
    }
}

/// What would take all there is, and what is said of it.
const GREEDY: &[(&str, &str)] = &[
    ("a text", "{{ 'x' * 1000000000 }}"),
    ("a text of a number that is not known before", "{% set n = 1000000000 %}{{ 'x' * n }}"),
    ("a list", "{{ [1] * 1000000000 }}"),
    ("a range", "{% for i in range(10 ** 9) %}x{% endfor %}"),
    ("a power", "{{ 10 ** 1000000000 }}"),
    ("nested loops", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
    ("doubling", "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}"),
    ("output", "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}"),
    ("output of lists", "{% set l = ['x' * 100000] * 1000 %}{{ [l] * 1000 }}"),
    ("replace", "{% set s = 'x' * 1000000 %}{{ s | replace('x', s) }}"),
    ("the filter join", "{% set s = 'x' * 1000000 %}{{ ([s] * 99999) | join }}"),
    ("join with a long separator", "{% set s = 'x' * 1000000 %}{{ ([1] * 99999) | join(s) }}"),
    ("join of lists", "{% set l = ['x' * 100000] * 1000 %}{{ ([l] * 1000) | join }}"),
    ("the function join", "{% set s = 'x' * 1000000 %}{{ join([s] * 99999, '') }}"),
    ("the function split", "{% set s = ',' * 20000000 %}{{ split(s, ',') | length }}"),
    ("the function upper", "{% set l = ['x' * 100000] * 1000 %}{{ upper([l] * 1000) }}"),
    ("a number of a list", "{% set l = ['x' * 100000] * 1000 %}{{ int([l] * 1000) }}"),
    ("letters", "{% set s = 'x' * 100000000 %}{{ s | list | length }}"),
    ("a width", "{{ '%1000000000d' | format(1) }}"),
    ("a precision", "{{ '%.1000000000f' | format(1.5) }}"),
    ("an indentation", "{{ ('a\\n' * 1000) | indent(1000000000) }}"),
    ("batches", "{{ [1] | batch(1000000000, 0) }}"),
    ("slices", "{{ [1] | slice(1000000000) | length }}"),
    ("a macro that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    ("one that does so twice", "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"),
    ("a loop in itself", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
    ("an include of itself", "{% include 'conf/a.j2' %}"),
];

const CHILD: &str = "MAAND_TEST_GREEDY";
/// Most memory of a process that renders, MiB; what it has before is about 30.
const MEMORY: u64 = 512;

/// What the engine does not count, and what is said of it by the process that it had to itself.
const UNCOUNTED: &[(&str, &str, &str)] = &[
    (
        "a namespace that holds itself",
        "{% set n = namespace() %}{% set n.n = n %}{{ n ~ '' }}",
        "this template is nested too deeply",
    ),
    (
        "a list that is long when it is written out",
        "{% set s = 'x' * 1000000 %}{{ ([[s] * 1000] * 1000 ~ '') | length }}",
        "this template takes more than 256 MiB of memory",
    ),
    (
        "one that is written out for a filter",
        "{% set s = 'x' * 1000000 %}{{ (([[s] * 1000] * 1000) | upper) | length }}",
        "this template takes more than 256 MiB of memory",
    ),
    (
        "work without end",
        "{% set a = [[1] * 1000] * 1000 %}{% for i in range(9999) %}{% if a == [[1] * 1000] * 1000 %}{% endif %}{% endfor %}",
        "this template takes more than 1 s of CPU time",
    ),
];

#[test]
fn what_takes_all_that_its_process_may_have_is_refused_by_its_place_and_the_next_one_is_rendered() {
    let limits = Limits { cpu_s: 1, memory_mb: 256, ..Limits::default() };
    let mut renderer = Renderer::new(env!("CARGO_BIN_EXE_maand-dup").into(), limits);
    let chain = format!("{{{{ 1{} }}}}", " + 1".repeat(1_000_000));
    let long = [("a chain of operators", chain.as_str(), "this template is nested too deeply")];
    for (what, text, expected) in UNCOUNTED.iter().copied().chain(long) {
        let said = shown(rendering::render_by(&mut renderer, text, SECRET)).expect_err(what);
        let (first, rest) = said.split_once('\n').unwrap();
        assert_eq!(first, format!("error[MD0044]: {expected}"), "{what}: {said}");
        assert!(rest.starts_with("  at workspace/jobs/api/conf/a.j2\n"), "{what}: {said}");
        assert!(rest.contains("  do: "), "{what}: {said}");
        let next = shown(rendering::render_by(&mut renderer, "{{ get_secret('password') }}", SECRET));
        assert_eq!(next.unwrap(), "hush-4711-hush[private]", "after {what}");
    }
}

/// In a process of its own, which could not take more: the peak of one that runs other tests says nothing.
#[test]
fn none_takes_more_than_it_may_and_each_is_refused_by_its_place() {
    if std::env::var_os(CHILD).is_some() {
        return greedy();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "templates::none_takes_more_than_it_may_and_each_is_refused_by_its_place"]);
    let output = child.args(["--nocapture", "--test-threads=1"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errs = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{errs}", output.status);
    assert_eq!(said.matches("refused: ").count(), GREEDY.len() + 2, "{said}");
}

fn greedy() {
    let limit = Rlimit { current: Some((2 * MEMORY) << 20), maximum: Some((2 * MEMORY) << 20) };
    setrlimit(Resource::Data, limit).unwrap();
    let deep = [
        ("parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))),
        ("loops", format!("{}{}", "{% for i in [1] %}".repeat(10_000), "{% endfor %}".repeat(10_000))),
    ];
    let all = GREEDY.iter().map(|(what, text)| (*what, (*text).to_owned())).chain(deep);
    for (what, text) in all {
        let said = shown(rendering::here(&text, SECRET)).expect_err(what);
        let (first, rest) = said.split_once('\n').unwrap();
        // Output has come from everywhere: the line that was one too many is not the one to blame.
        let line = if first.contains("16 MiB") { "" } else { ":1" };
        assert!(rest.starts_with(&format!("  at workspace/jobs/api/conf/a.j2{line}\n")), "{what}: {said}");
        assert!(said.contains("MD0044") || said.contains("MD0040"), "{what}: {said}");
        assert!(said.contains("  do: "), "{what}: {said}");
        assert!(said.len() < 2000, "{what}: {} bytes", said.len());
        println!("refused: {what}: {first}");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak: {} MiB", peak >> 10);
    assert!(peak >> 10 <= MEMORY, "{} MiB", peak >> 10);
}
