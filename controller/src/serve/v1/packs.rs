//! `POST /v1/self/packs`: a want-list for a pack. A pack is a file, so `Range` and `ETag` work.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use shared::api::v1::want::WantList;
use shared::{BlobDigest, PackDigest, pack};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::reports::rejected;
use crate::bundle::packs::PRIVATE_CAP;
use crate::catalog::desired;
use crate::serve::State;
use crate::serve::download::{Download, Paced};
use crate::serve::error::Refusal;
use crate::serve::identity::Caller;

/// How long a pack of private content waits for room in memory.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn pack(
    Held(state): Held<Arc<State>>,
    Caller { worker, .. }: Caller,
    headers: HeaderMap,
    want: Result<Json<WantList>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(want) = want.map_err(rejected)?;
    if !want.is_ascending() {
        return Err(Refusal::bad("blobs: ascending, no repeats"));
    }
    let Some(mut download) = state.downloads.begin(worker) else {
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate", "too many packs at once for this worker"));
    };
    let cache = state.bundles.clone();
    let private = want.private;
    let count = want.blobs.len();
    let wants = state
        .database
        .read(move |connection| {
            let mut left: BTreeMap<BlobDigest, Option<u64>> = want.blobs.iter().map(|blob| (*blob, None)).collect();
            for digest in desired::bundles(connection, worker)? {
                let Some(bundle) = cache.get(connection, &digest)? else { continue };
                for entry in bundle.entries().iter().filter(|entry| entry.private == want.private) {
                    if let Some(len) = left.get_mut(&entry.blob) {
                        *len = Some(entry.len);
                    }
                }
            }
            Ok(left.into_iter().map(|(blob, len)| len.map(|len| (blob, len))).collect::<Option<BTreeMap<_, _>>>())
        })
        .await?;
    let Some(wants) = wants else {
        return Err(Refusal::not_found().why(format!("a blob among {count} is in none of its bundles")));
    };
    let held = state.clone();
    if private {
        let total = wants.values().fold(0u64, |total, len| total.saturating_add(*len));
        if !state.downloads.has_room(&mut download, total.min(PRIVATE_CAP), PATIENCE).await {
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the controller is busy, come back"));
        }
        // Made anew each time, of the same blobs the same bytes.
        let digest = pack::digest(wants.keys().copied());
        let made = tokio::task::spawn_blocking(move || held.packs.private_pack(&held.sealing, &wants)).await;
        let bytes = made.map_err(|error| Refusal::internal(&error))?.map_err(|error| Refusal::internal(&error))?;
        let part = Part::of(&headers, digest, bytes.len() as u64)?;
        let mut bytes = std::io::Cursor::new(bytes);
        bytes.set_position(part.start);
        let mut response = part.answer(Body::from_stream(ReaderStream::new(part.paced(bytes, download))));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let made = tokio::task::spawn_blocking(move || held.packs.open_pack(&wants)).await;
    let (digest, mut file, len) =
        made.map_err(|error| Refusal::internal(&error))?.map_err(|error| Refusal::internal(&error))?;
    let part = Part::of(&headers, digest, len)?;
    file.seek(SeekFrom::Start(part.start)).map_err(|error| Refusal::internal(&error))?;
    let file = tokio::fs::File::from_std(file).take(len - part.start);
    Ok(part.answer(Body::from_stream(ReaderStream::with_capacity(part.paced(file, download), 256 << 10))))
}

/// What of a pack is answered: from where on.
struct Part {
    digest: PackDigest,
    start: u64,
    len: u64,
}

impl Part {
    /// What is asked for of a pack of `len` bytes.
    fn of(headers: &HeaderMap, digest: PackDigest, len: u64) -> Result<Self, Refusal> {
        match range(headers, &digest).unwrap_or(0) {
            start if start > len => {
                Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", "the pack is not that long"))
            }
            start => Ok(Self { digest, start, len }),
        }
    }

    fn paced<R>(&self, bytes: R, download: Download) -> Paced<R> {
        Paced::new(bytes, self.len - self.start, download)
    }

    fn answer(&self, body: Body) -> Response {
        let Self { digest, start, len } = self;
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len - start));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Ok(tag) = HeaderValue::from_str(&etag(digest)) {
            headers.insert(header::ETAG, tag);
        }
        if *start > 0 {
            if let Ok(range) = HeaderValue::from_str(&format!("bytes {start}-{}/{len}", len.saturating_sub(1))) {
                headers.insert(header::CONTENT_RANGE, range);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

fn etag(digest: &PackDigest) -> String {
    format!("\"{}\"", digest.hex())
}

/// Where to go on, when the agent has the beginning of this very pack.
fn range(headers: &HeaderMap, digest: &PackDigest) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE)? != etag(digest) {
        return None;
    }
    text(header::RANGE)?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
