//! Which points there are, how many of them are gone through, and what came of it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;

use super::Rig;
use super::ground::{Cut, Ground};
use super::point::{Hit, Seen};
use super::scenario::{self, Scenario};

/// How many states are applied beside a neighbour.
const APPLIES: usize = 1000;

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL at a mutating system call.
    Kill,
    /// SIGKILL at a named point.
    Failpoints,
    /// The power is cut.
    Power,
    /// The disk is full.
    Full,
    /// The disk becomes read-only.
    Readonly,
    /// A call fails once.
    Errors,
    /// Another user is at work in the job's tree.
    Neighbour,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Kill, Self::Failpoints, Self::Power, Self::Full, Self::Readonly, Self::Errors, Self::Neighbour];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Failpoints => "failpoints",
            Self::Power => "power",
            Self::Full => "full",
            Self::Readonly => "readonly",
            Self::Errors => "errors",
            Self::Neighbour => "neighbour",
        }
    }

    fn needs_image(self) -> bool {
        matches!(self, Self::Power | Self::Full | Self::Readonly)
    }
}

/// How much of it is done.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Most points of a kind and scenario; all of them without.
    pub points: Option<usize>,
    /// Longest time for a kind.
    pub limit: Option<Duration>,
    /// Only this point, as a reproducer names it.
    pub only: Option<String>,
    /// Only these scenarios.
    pub scenarios: Vec<String>,
}

/// What came of a kind.
#[derive(Debug, Default)]
pub struct Tally {
    /// Its word.
    pub kind: &'static str,
    /// Points that were reached.
    pub points: usize,
    /// Those that a bound left out.
    pub left_out: usize,
    /// What was wrong, each with how to do it again.
    pub violations: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// What else there is to say.
    pub note: Option<String>,
    /// Why it was not done at all.
    pub skipped: Option<String>,
}

/// Goes through the points of `kinds`. `say` is told of each that went wrong, at once.
pub fn sweep(program: &Path, kinds: &[Kind], bounds: &Bounds, mut say: impl FnMut(&str)) -> Result<Vec<Tally>, String> {
    let (ground, without) = match Ground::image() {
        Ok(ground) => (ground, None),
        Err(why) => (Ground::plain(), Some(why)),
    };
    let mut rig = Rig::new(program, ground)?;
    let mut tallies = Vec::new();
    for kind in kinds {
        let mut tally = Tally { kind: kind.word(), ..Tally::default() };
        let began = Instant::now();
        match &without {
            Some(why) if kind.needs_image() => tally.skipped = Some(why.clone()),
            _ if *kind == Kind::Failpoints && !cfg!(feature = "failpoints") => {
                tally.skipped = Some("built without --features failpoints".to_owned());
            }
            _ if *kind == Kind::Neighbour => {
                let most = bounds.points.map_or(APPLIES, |points| points * 10);
                rig.neighbour(most, bounds.limit, &mut tally)?;
                tally.violations.iter().for_each(|violation| say(violation));
            }
            _ => each_scenario(&mut rig, *kind, bounds, &mut tally, &mut say)?,
        }
        tally.took = began.elapsed();
        tallies.push(tally);
    }
    Ok(tallies)
}

fn each_scenario(
    rig: &mut Rig,
    kind: Kind,
    bounds: &Bounds,
    tally: &mut Tally,
    say: &mut impl FnMut(&str),
) -> Result<(), String> {
    let began = Instant::now();
    let scenarios: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|one| bounds.scenarios.is_empty() || bounds.scenarios.iter().any(|name| name == one.name))
        .collect();
    for (number, scenario) in scenarios.iter().enumerate() {
        let hits = hits(rig, kind, scenario, tally)?;
        let step = bounds.points.map_or(1, |most| hits.len().div_ceil(most.max(1))).max(1);
        // Another part of them for each scenario.
        let chosen: Vec<_> = hits.iter().skip(number % step).step_by(step).collect();
        tally.left_out += hits.len() - chosen.len();
        for (at, hit) in chosen.iter().enumerate() {
            let name = format!("{}:{}", scenario.name, name(hit));
            if bounds.only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let share = bounds.limit.map(|limit| {
                limit * u32::try_from(number + 1).unwrap_or(1) / u32::try_from(scenarios.len()).unwrap_or(1)
            });
            if share.is_some_and(|share| began.elapsed() > share) {
                tally.left_out += chosen.len() - at;
                break;
            }
            let seen = rig.point(scenario, hit)?;
            if !seen.reached {
                continue;
            }
            tally.points += 1;
            judge(kind, &name, &seen, tally, say);
        }
        // The whole of it takes hours.
        let (points, wrong, seconds) = (tally.points, tally.violations.len(), began.elapsed().as_secs());
        eprintln!("{} up to {}: {points} points, {wrong} violations, {seconds} s", kind.word(), scenario.name);
    }
    Ok(())
}

fn judge(kind: Kind, name: &str, seen: &Seen, tally: &mut Tally, say: &mut impl FnMut(&str)) {
    if seen.wrong.is_empty() {
        return;
    }
    let mut text = format!("rig-crash --only {} --point {name}", kind.word());
    if let Some(at) = &seen.at {
        let _written = write!(text, "    # {at}");
    }
    for wrong in &seen.wrong {
        let _written = write!(text, "\n    {wrong}");
    }
    say(&text);
    tally.violations.push(text);
}

/// Every point of a kind and a scenario.
fn hits(rig: &mut Rig, kind: Kind, scenario: &Scenario, tally: &mut Tally) -> Result<Vec<Hit>, String> {
    if kind == Kind::Failpoints {
        let points = agent::failpoint::FAILPOINTS.iter();
        let times = |name: &'static str| if name.starts_with("activate::between") { 40 } else { 3 };
        return Ok(points.flat_map(|name| (1..=times(name)).map(|n| Hit::Failpoint(name, n))).collect());
    }
    let counted = rig.point(scenario, &Hit::Nothing)?;
    let mut nothing = |text: &str| eprintln!("{text}");
    judge(kind, &format!("{}:nothing", scenario.name), &counted, tally, &mut nothing);
    // Threads take turns as they like: a few more, which are not reached more often than not.
    let calls = 1..=counted.calls + 3;
    Ok(match kind {
        Kind::Kill => calls.map(Hit::Kill).collect(),
        Kind::Power => calls.flat_map(|n| [Hit::Cut(n, Cut::Lost), Hit::Cut(n, Cut::Flushed)]).collect(),
        Kind::Readonly => calls.map(Hit::Readonly).collect(),
        Kind::Errors => {
            let errors = [libc::EIO, libc::ENOSPC, libc::EDQUOT];
            calls.flat_map(|n| errors.map(|error| Hit::Fail(n, error))).collect()
        }
        Kind::Full => {
            // Every step of the first 512 KiB, which is more than an apply of these writes outside of its reserve; then
            // about the border of the reserve.
            let steps = (0..128).chain(4096 - 4..4096 + 128).map(|step| Hit::Filled(step * 4096));
            calls.map(Hit::FullAt).chain(steps).collect()
        }
        Kind::Failpoints | Kind::Neighbour => Vec::new(),
    })
}

fn name(hit: &Hit) -> String {
    match hit {
        Hit::Nothing => "nothing".to_owned(),
        Hit::Kill(n) => format!("kill:{n}"),
        Hit::Fail(n, errno) => format!("fail:{n}:{errno}"),
        Hit::Cut(n, Cut::Lost) => format!("lost:{n}"),
        Hit::Cut(n, Cut::Flushed) => format!("flushed:{n}"),
        Hit::FullAt(n) => format!("full:{n}"),
        Hit::Readonly(n) => format!("readonly:{n}"),
        Hit::Failpoint(name, n) => format!("{name}:{n}"),
        Hit::Filled(left) => format!("left:{left}"),
    }
}
