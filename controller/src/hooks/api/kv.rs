//! `/kv`, `/kv/keys`, `/kv/secret`, `/demands` (`spec/behaviour.md` 6.2, 6.3). The order of the checks is
//! part of the interface: fields, namespace, the guard of secrets, the guard of health checks, the store.

use std::collections::BTreeMap;

use axum::http::StatusCode;

use super::answer::{Answer, Refusal, empty, json};
use super::body::{Demanded, Entry, Listed, Place, Which};
use super::{Caller, Demanding, blocking};
use crate::hooks::values::Error;
use crate::model::HookEvent;
use crate::model::kv::{Change, DEPLOY_ORDER, Namespace, ROLLOUT_ORDER};

/// Longest key, bytes.
const MAX_KEY: usize = 256;

/// A failure behind the request.
fn fault(error: &Error) -> Refusal {
    match error {
        Error::Full => Refusal::bad(error.to_string()),
        Error::Catalog(_) | Error::Secrets(_) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn missing(namespace: &Namespace, key: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no key {key:?} in {namespace}"))
}

/// The namespace and key of a request, as far as they are any.
pub(super) fn place(namespace: &str, key: &str) -> Result<(Namespace, String), Refusal> {
    let (namespace, key) = (namespace.trim(), key.trim());
    for (field, value) in [("namespace", namespace), ("key", key)] {
        if value.is_empty() {
            return Err(Refusal::bad(format!("{field} is missing or blank")));
        }
    }
    if key.len() > MAX_KEY || key.chars().any(char::is_control) {
        return Err(Refusal::bad(format!("key is longer than {MAX_KEY} bytes, or has control characters")));
    }
    let parsed: Namespace = namespace.parse().map_err(|_| {
        Refusal::bad(format!("there is no namespace {namespace:?}: such as vars/job/<job> or maand/worker/<host>"))
    })?;
    // Its older name.
    let key = if matches!(parsed, Namespace::Job(_)) && key == DEPLOY_ORDER { ROLLOUT_ORDER } else { key };
    Ok((parsed, key.to_owned()))
}

/// GET /kv.
pub(super) async fn get(caller: Caller, asked: Place) -> Answer {
    let (namespace, key) = place(&asked.namespace, &asked.key)?;
    if !caller.invocation.access().may_read(&namespace) {
        let job = &caller.invocation.job;
        return Err(Refusal::bad(format!("{namespace} may not be read by a hook of job {job} on this worker")));
    }
    blocking(move || {
        let found = caller.values().get(caller.overlay(), &namespace, &key).map_err(|error| fault(&error))?;
        match found {
            None => Err(missing(&namespace, &key)),
            Some(value) => json(&Entry { namespace: namespace.to_string(), key, value: value.to_string() }),
        }
    })
    .await
}

/// Whether a hook may do this; the message says what it may.
fn permit(caller: &Caller, namespace: &Namespace, key: &str, change: Change) -> Result<(), Refusal> {
    let (job, event) = (&caller.invocation.job, caller.invocation.event);
    let secret = matches!(namespace, Namespace::JobSecrets(of) if of == job);
    match change {
        Change::Put | Change::Delete if secret => {
            return Err(Refusal::bad(format!("{namespace} is written by /kv/secret, so that it is stored encrypted")));
        }
        Change::Secret if !secret => {
            return Err(Refusal::bad(format!("/kv/secret writes secrets/job/{job} and nothing else")));
        }
        _ => {}
    }
    if caller.invocation.access().may_write(namespace, key, change, event) {
        return Ok(());
    }
    let own = match namespace {
        Namespace::JobVars(of) | Namespace::JobSecrets(of) => of == job,
        Namespace::Job(of) => of == job && key == ROLLOUT_ORDER && change == Change::Put,
        _ => false,
    };
    Err(Refusal::bad(match own {
        true if event == HookEvent::HealthCheck => "a health check changes no key-values".to_owned(),
        true => format!("{ROLLOUT_ORDER} is written at the events pre_deploy and cli, not at {}", event.word()),
        false => format!(
            "a hook of job {job} writes vars/job/{job}, and at some events {ROLLOUT_ORDER}: not {namespace} {key}"
        ),
    }))
}

fn value_of(value: &str) -> Result<(), Refusal> {
    if value.trim().is_empty() { Err(Refusal::bad("value is missing or blank")) } else { Ok(()) }
}

/// PUT /kv.
pub(super) async fn put(caller: Caller, entry: Entry) -> Answer {
    let (namespace, key) = place(&entry.namespace, &entry.key)?;
    value_of(&entry.value)?;
    permit(&caller, &namespace, &key, Change::Put)?;
    let value = entry.value.trim().to_owned();
    blocking(move || {
        caller.values().put(caller.overlay(), namespace, key, value).map_err(|error| fault(&error))?;
        empty()
    })
    .await
}

/// DELETE /kv.
pub(super) async fn delete(caller: Caller, asked: Place) -> Answer {
    remove(caller, asked, Change::Delete).await
}

/// PUT /kv/secret.
pub(super) async fn put_secret(caller: Caller, entry: Entry) -> Answer {
    let (namespace, key) = place(&entry.namespace, &entry.key)?;
    value_of(&entry.value)?;
    permit(&caller, &namespace, &key, Change::Secret)?;
    let value = zeroize::Zeroizing::new(entry.value);
    blocking(move || {
        caller.values().put_secret(caller.overlay(), namespace, key, &value).map_err(|error| fault(&error))?;
        empty()
    })
    .await
}

/// DELETE /kv/secret.
pub(super) async fn delete_secret(caller: Caller, asked: Place) -> Answer {
    remove(caller, asked, Change::Secret).await
}

async fn remove(caller: Caller, asked: Place, change: Change) -> Answer {
    let (namespace, key) = place(&asked.namespace, &asked.key)?;
    permit(&caller, &namespace, &key, change)?;
    blocking(move || {
        let there = caller.values().delete(caller.overlay(), namespace.clone(), key.clone());
        if there.map_err(|error| fault(&error))? { empty() } else { Err(missing(&namespace, &key)) }
    })
    .await
}

/// GET /kv/keys.
pub(super) async fn keys(caller: Caller, asked: Which) -> Answer {
    let job = caller.invocation.job.clone();
    let own = [Namespace::JobVars(job.clone()), Namespace::JobSecrets(job.clone())];
    let chosen = match asked.namespace.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        None => own.to_vec(),
        Some(text) => match own.iter().find(|namespace| namespace.to_string() == text) {
            Some(namespace) => vec![namespace.clone()],
            None => {
                return Err(Refusal::bad(format!(
                    "keys are listed of vars/job/{job} and secrets/job/{job}, not {text:?}"
                )));
            }
        },
    };
    blocking(move || {
        let mut namespaces = BTreeMap::new();
        for namespace in chosen {
            let keys = caller.values().keys(caller.overlay(), &namespace).map_err(|error| fault(&error))?;
            namespaces.insert(namespace.to_string(), keys.into_iter().collect());
        }
        json(&Listed { namespaces })
    })
    .await
}

/// GET /demands.
pub(super) fn demands(caller: &Caller) -> Answer {
    let demanded = |demanding: &Demanding| Demanded {
        job: demanding.job.to_string(),
        hook: demanding.hook.to_string(),
        command: demanding.hook.to_string(),
        demand_config: demanding.config.clone(),
    };
    json(&caller.invocation.demands.iter().map(demanded).collect::<Vec<_>>())
}
