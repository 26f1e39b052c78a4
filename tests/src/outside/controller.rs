//! What the controller reads from whoever connects, from hooks, and from its own logs.

use ::controller::telemetry::blocks;
use ::controller::telemetry::record::Record;
use data_encoding::BASE64;
use shared::api::v1::enrol::EnrolRequest;
use shared::api::v1::renew::{ProvenRequest, RenewRequest};

use super::wire;

/// A client's certificate, DER.
pub(super) fn certificate(bytes: &[u8]) {
    let of_another = shared::BucketId::from_uuid(uuid::Uuid::from_u128(9));
    if ::controller::serve::certified_worker(bytes, wire::bucket()).is_some() {
        assert_eq!(::controller::serve::certified_worker(bytes, of_another), None);
    }
    drop(::agent::tls::controller_name_of(bytes));
}

/// The body of an enrolment or a renewal, or the request for a certificate that is in it, DER.
pub(super) fn enrol(bytes: &[u8]) {
    drop((wire::json::<RenewRequest>(bytes), wire::json::<ProvenRequest>(bytes)));
    let csr = match wire::json::<EnrolRequest>(bytes) {
        Some(request) => BASE64.decode(request.csr.as_bytes()).unwrap_or_default(),
        None => bytes.to_vec(),
    };
    if let Ok(key) = ::controller::tls::issue::request_key(&csr) {
        assert!(key.len() == 91 || key.len() == 44, "neither P-256 nor Ed25519: {} bytes", key.len());
    }
}

/// A body of the hooks' API.
pub(super) fn hook_api(bytes: &[u8]) {
    ::controller::hooks::api::read_any_body(bytes);
}

/// Lines of the logs, as `maand logs show` reads them again.
pub(super) fn log_lines(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let records: Vec<Record> = text.lines().filter_map(Record::parse).collect();
    for record in &records {
        assert_eq!(Record::parse(&record.json()).as_ref(), Some(record));
        shown(&blocks::single(record));
    }
    let all = blocks::human(records.clone(), None);
    all.iter().for_each(|line| shown(line));
    assert!(blocks::human(records, Some(1)).len() <= all.len() + 1);
}

/// Nothing that a worker printed moves the operator's cursor.
#[track_caller]
fn shown(line: &str) {
    assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{line:?}");
}
