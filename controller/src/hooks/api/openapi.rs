//! The published document, OpenAPI 3.1, made of the same table as the router.

use serde_json::{Map, Value, json};

use super::routes::ROUTES;

/// `docs/api/hooks.json`.
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for route in ROUTES {
        let mut operation = json!({ "summary": route.about, "operationId": format!("{:?}", route.endpoint) });
        if let Some((name, schema)) = route.takes {
            schemas.insert(name.to_owned(), schema());
            let content = json!({ "application/json": { "schema": reference(name) } });
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        let mut responses = Map::new();
        let done = match route.answers {
            None => json!({ "description": "Done" }),
            Some((name, schema)) => {
                schemas.insert(name.to_owned(), schema());
                let content = json!({ "application/json": { "schema": reference(name) } });
                json!({ "description": "Done", "content": content })
            }
        };
        responses.insert("200".to_owned(), done);
        let mut statuses = [&[400, 401, 405, 413, 500], route.statuses].concat();
        statuses.sort_unstable();
        for status in statuses {
            let description = json!({ "description": meaning(status), "content": { "text/plain": {} } });
            responses.insert(status.to_string(), description);
        }
        operation["responses"] = responses.into();
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.to_lowercase()] = operation;
    }
    schemas.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "maand hook API",
            "version": "1",
            "description": "What hooks may ask of the controller while they run. The base URL is in HOOK_API_URL, \
                the token in HOOK_API_TOKEN: it is of one run of one hook for one allocation, and ends with it. GET and \
                DELETE take their parameters as a JSON body, or as a query. Errors are one line of text. The older \
                headers X-ALLOCATION-ID, EVENT and COMMAND are accepted, and must agree with the token.",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas,
        },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// What a status means, wherever it is answered.
const fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong: a field is missing or blank, the namespace or key is not permitted at this event",
        401 => "The token is missing or unknown, or a header does not agree with it",
        404 => "There is no such key",
        405 => "Another method; the body is empty",
        408 => "The wait timed out",
        409 => "The semaphore has another capacity, or is not held; or the worker refused",
        413 => "The body is longer than 1 MiB",
        501 => "This command cannot run anything on workers",
        503 => "The worker's agent is offline",
        _ => "A fault of the controller",
    }
}
