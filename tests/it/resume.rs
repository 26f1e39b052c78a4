//! Downloads over a link that breaks, and of a store with a bad byte in it: what has come is not fetched again, and
//! the worker is heard meanwhile.

use std::time::{Duration, Instant};

use harness::link::{Link, Way, noise};
use harness::poll;
use rusqlite::Connection;
use serde_json::json;
use shared::BlobDigest;

use crate::rollout::Fleet;

const MIB: usize = 1 << 20;
/// What may be on its way when the link is cut, with the handshakes and the questions after it.
const LOST: u64 = 192 << 10;

/// A worker behind a link, and a job of `count` files of `len` bytes, built and not deployed.
fn behind_a_link(count: u64, len: usize) -> (Fleet, Link) {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({"action_timeout_seconds": 300}));
    for n in 0..count {
        std::fs::write(fleet.bucket.path(&format!("workspace/jobs/api/file{n}")), noise(n + 1, len)).unwrap();
    }
    fleet.up();
    let link = Link::to(&fleet.bucket);
    fleet.agents[0].kill();
    link.carries(&fleet.agents[0]);
    fleet.agents[0].start();
    poll::until("the agent to speak over the link", poll::LONG, || match link.bytes(Way::Up) {
        0 => Err("nothing yet"),
        _ => Ok(()),
    });
    fleet.agents[0].wait_online(&fleet.bucket);
    (fleet, link)
}

#[test]
fn over_a_link_that_breaks_every_megabyte_a_pack_arrives_and_its_worker_is_heard_meanwhile() {
    let (count, len) = (12, MIB);
    let (fleet, link) = behind_a_link(count, len);
    let catalog = Connection::open(fleet.bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(poll::LONG).unwrap();
    let reports = || -> u64 { catalog.query_row("SELECT number FROM observed_worker", [], |row| row.get(0)).unwrap() };
    let (before, first) = (link.bytes(Way::Down), reports());
    link.at_most(2 * MIB as u64);
    link.cut_every(MIB as u64);
    let mut deploy = fleet.bucket.start("deploy", &["deploy"]);
    poll::until("the download to be under way", poll::LONG, || if link.cuts() > 1 { Ok(()) } else { Err(link.cuts()) });
    // Asked and answered over the same link, while it breaks and the files come; then it is quick again.
    link.at_most(MIB as u64 / 2);
    fleet.bucket.maand(&["agent", "ping", &fleet.hosts[0], "--timeout", "30"]).expect(0);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "", "it was answered before the download was over");
    link.at_most(0);
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    let (bytes, cuts) = (link.bytes(Way::Down) - before, link.cuts());
    let size = count * len as u64;
    println!("{size} bytes, {cuts} cuts, {bytes} bytes over the link, {} reports", reports() - first);
    assert!(cuts >= count - 1, "{cuts} cuts");
    assert!(bytes <= size + size / 50 + (cuts + 1) * LOST, "{bytes} bytes for {size}, with {cuts} cuts");
    assert!(reports() - first >= 3, "{} reports meanwhile", reports() - first);
    for n in 0..count {
        let here = std::fs::read(fleet.agents[0].job_path("api", &format!("file{n}"))).unwrap();
        assert!(here == noise(n + 1, len), "file{n}");
    }
    assert_eq!(fleet.words("api"), ["promoted"]);
}

#[test]
fn a_bad_byte_costs_one_blob() {
    let (count, len) = (16, MIB / 4);
    let (fleet, link) = behind_a_link(count, len);
    let digest = BlobDigest::of(&noise(5, len)).hex();
    let stored = fleet.bucket.path(&format!("data/store/blobs/{}/{digest}", &digest[..2]));
    let mut bytes = noise(5, len);
    bytes[1000] ^= 1;
    std::fs::write(&stored, &bytes).unwrap();
    let before = link.bytes(Way::Down);
    let mut deploy = fleet.bucket.start("deploy", &["deploy"]);
    poll::until("the agent to complain", poll::LONG, || {
        let said = fleet.bucket.cat("deployments")[0]["agent"].as_str().unwrap_or_default().to_owned();
        if said.contains("1 blobs of the pack have other content") { Ok(()) } else { Err((said, deploy.printed())) }
    });
    let serve = fleet.serve.as_ref().unwrap().printed();
    assert!(serve.contains("blob_damaged") && serve.contains(&digest), "{serve}");
    // The other fifteen are there, and the good one comes by itself once it is there to be had.
    let here = |n: u64| {
        let digest = BlobDigest::of(&noise(n + 1, len)).hex();
        fleet.agents[0].bucket_dir().join(format!(".maand/store/{}/{digest}", &digest[..2])).is_file()
    };
    assert_eq!((0..count).filter(|n| !here(*n)).collect::<Vec<_>>(), [4]);
    std::fs::write(&stored, noise(5, len)).unwrap();
    let begin = Instant::now();
    assert_eq!(deploy.wait(Duration::from_secs(60)).code(), Some(0), "{}", deploy.printed());
    let (bytes, size) = (link.bytes(Way::Down) - before, count * len as u64);
    println!("{size} bytes, {bytes} over the link; mended and done in {} ms", begin.elapsed().as_millis());
    assert!(bytes < 2 * size, "{bytes} bytes for {size}: it began anew");
    assert!(std::fs::read(fleet.agents[0].job_path("api", "file4")).unwrap() == noise(5, len));
}

#[test]
fn what_is_private_is_gone_on_with_too() {
    let (fleet, link) = behind_a_link(0, 0);
    crate::build::secret_of_a_hook(&fleet.bucket, "api", "password", "hush-hush");
    let text: String = noise(7, MIB).iter().map(|byte| format!("{byte:02x}")).collect();
    fleet.bucket.write("workspace/jobs/api/app.conf.j2", &format!("{{{{ get_secret('password') }}}} {text}\n"));
    fleet.bucket.maand(&["build"]).expect(0);
    // Of some 1.1 MB that travel.
    let (before, every) = (link.bytes(Way::Down), 256 << 10);
    link.cut_every(every);
    fleet.bucket.maand(&["deploy"]).expect(0);
    let (bytes, cuts) = (link.bytes(Way::Down) - before, link.cuts());
    println!("{cuts} cuts, {bytes} bytes over the link");
    assert!(cuts >= 4, "{cuts} cuts");
    assert!(bytes <= (MIB + MIB / 4) as u64 + (cuts + 1) * LOST, "{bytes} bytes, with {cuts} cuts");
    assert_eq!(fleet.agents[0].read("api", "app.conf"), format!("hush-hush {text}\n"));
}
