//! `GET /v1/self/bundles/{digest}`: a bundle's list, or its difference from one that the agent has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Held};
use rusqlite::Connection;
use serde::Deserialize;
use shared::api::v1::want::BundleAnswer;
use shared::{Bundle, BundleDigest};

use crate::catalog::{self, bundles, desired};
use crate::serve::State;
use crate::serve::error::Refusal;
use crate::serve::identity::Caller;

/// Most entries (files) of cached lists.
const CACHE_ENTRIES: usize = 400_000;

/// Decoded lists: a fleet asks for the same ones at the same time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache(Arc<Mutex<HashMap<BundleDigest, Arc<Bundle>>>>);

impl Cache {
    /// The list, from memory or from the catalog.
    pub(crate) fn get(&self, connection: &Connection, digest: &BundleDigest) -> catalog::Result<Option<Arc<Bundle>>> {
        if let Some(bundle) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(Some(bundle.clone()));
        }
        let Some(bundle) = bundles::get(connection, digest)?.map(Arc::new) else { return Ok(None) };
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entries: usize = cached.values().map(|bundle| bundle.entries().len()).sum();
        if entries + bundle.entries().len() > CACHE_ENTRIES {
            cached.clear();
        }
        cached.insert(*digest, bundle.clone());
        Ok(Some(bundle))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    base: Option<BundleDigest>,
}

pub(super) async fn bundle(
    Held(state): Held<Arc<State>>,
    Caller { worker, .. }: Caller,
    digest: Result<Path<BundleDigest>, PathRejection>,
    ask: Result<Query<Ask>, QueryRejection>,
) -> Result<Json<BundleAnswer>, Refusal> {
    // What is no digest does not exist either.
    let Path(digest) = digest.map_err(|_| Refusal::not_found())?;
    let Query(ask) = ask.map_err(|error| Refusal::bad(error.body_text()))?;
    let cache = state.bundles.clone();
    let found = state
        .database
        .read(move |connection| {
            let own = desired::bundles(connection, worker)?;
            if !own.contains(&digest) {
                return Ok(None);
            }
            let bundle = cache.get(connection, &digest)?;
            // An agent may have a base that is not its own any more; then it gets the whole list.
            let base = match ask.base.filter(|base| own.contains(base)) {
                Some(base) => cache.get(connection, &base)?.map(|list| (base, list)),
                None => None,
            };
            Ok(bundle.map(|bundle| (bundle, base)))
        })
        .await?;
    let Some((bundle, base)) = found else {
        return Err(Refusal::not_found().why(format!("bundle {digest} is not in its desired state")));
    };
    Ok(Json(match base {
        Some((base, list)) => BundleAnswer::Diff { base, diff: bundle.diff(&list) },
        None => BundleAnswer::Full((*bundle).clone()),
    }))
}
