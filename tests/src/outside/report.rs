//! A report, into a catalog and out of it again.

use std::cell::RefCell;

use ::controller::catalog::{Catalog, Error, agents, observed, operations};
use shared::api::v1::report::{MAX_PATHS, MAX_TAIL, Report};

thread_local! {
    static FIXTURE: RefCell<Option<Fixture>> = const { RefCell::new(None) };
}

struct Fixture {
    _dir: tempfile::TempDir,
    catalog: Catalog,
}

/// A catalog that knows the worker, an allocation of it and one of another.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::create(&dir.path().join("maand.db")).unwrap();
    let bucket = "INSERT INTO bucket (id, bucket_id, epoch, update_seq) VALUES (1, ?1, 1, 3)";
    catalog.connection().execute(bucket, [super::wire::bucket().to_string()]).unwrap();
    for (alloc, worker) in [(5_u128, 2_u128), (6, 3)] {
        let id = |n: u128| uuid::Uuid::from_u128(n).to_string();
        let row = "INSERT INTO desired_allocation (alloc_id, worker_id, job, state, disabled, current_version, new_version) \
             VALUES (?1, ?2, 'api', 'running', 0, '0.0.0', '1.0.0')";
        catalog.connection().execute(row, [id(alloc), id(worker)]).unwrap();
    }
    Fixture { _dir: dir, catalog }
}

/// Takes it in as serve does, reads what commands show, and takes it back.
pub(super) fn report(bytes: &[u8]) {
    let Some(mut report) = super::wire::json::<Report>(bytes) else { return };
    if report.bound().is_err() {
        return;
    }
    let worker = super::wire::worker();
    for allocation in &report.allocations {
        assert!(allocation.drift.len() <= MAX_PATHS && allocation.unmanaged.len() <= MAX_PATHS);
        let small = serde_json::to_string(allocation).unwrap();
        assert!(small.len() < 8 * MAX_TAIL + 2 * MAX_PATHS * 600, "{} bytes are left", small.len());
    }
    FIXTURE.with_borrow_mut(|held| {
        let fixture = held.get_or_insert_with(fixture);
        let undone: Result<(), Error> = fixture.catalog.write(|tx| {
            for now_ms in [0, 1_900_000_000_000] {
                match observed::accept(tx, worker, &report, now_ms) {
                    Ok(_) => {}
                    // A number that no column holds is refused as a whole.
                    Err(Error::Sql { .. }) => break,
                    Err(other) => panic!("{other}"),
                }
                let known = observed::allocations(tx)?;
                assert!(known.keys().all(|id| *id == shared::AllocId::from_uuid(uuid::Uuid::from_u128(5))));
                for observed in known.values() {
                    drop(observed::difference(None, Some(observed)));
                }
                observed::agents(tx)?;
                observed::facts(tx)?;
                observed::accepted(tx)?;
                agents::token(tx, "x")?;
                operations::own(tx, worker, shared::OperationId::from_uuid(uuid::Uuid::from_u128(1)))?;
            }
            Err(Error::Foreign)
        });
        assert!(matches!(undone, Err(Error::Foreign)), "{undone:?}");
    });
}
