//! The published document, OpenAPI 3.1, made of the same table as the router.

use serde_json::{Map, Value, json};

use super::routes::ROUTES;

/// `docs/api/hooks.json`.
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for route in ROUTES {
        let mut operation = json!({ "summary": route.about, "operationId": format!("{:?}", route.endpoint) });
        let mut statuses = [&[400, 401, 405, 500], route.statuses].concat();
        if let Some((name, schema)) = route.takes {
            statuses.extend([408, 413]);
            let content = json!({ "application/json": { "schema": reference(name) } });
            let in_query = matches!(route.method, "GET" | "DELETE");
            // Both are taken there; a client that is made of this sends the query.
            if in_query {
                operation["parameters"] = parameters(&schema());
            }
            operation["requestBody"] = json!({ "required": !in_query, "content": content });
            schemas.insert(name.to_owned(), schema());
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
        statuses.sort_unstable();
        statuses.dedup();
        for status in statuses {
            let said = if status == 405 { json!({}) } else { json!({ "text/plain": {} }) };
            responses.insert(status.to_string(), json!({ "description": meaning(status), "content": said }));
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

/// The fields of a schema, as a query has them.
fn parameters(schema: &Value) -> Value {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let one = |(name, field): (&String, &Value)| {
        let mut field = field.clone();
        let about = field.as_object_mut().and_then(|field| field.remove("description")).unwrap_or_default();
        let required = required.iter().any(|needed| needed == name);
        json!({ "name": name, "in": "query", "required": required, "description": about, "schema": field })
    };
    schema["properties"].as_object().into_iter().flatten().map(one).collect()
}

/// What a status means, wherever it is answered.
const fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong: a field is missing or blank, the namespace or key is not permitted at this event",
        401 => "The token is missing or unknown, or a header does not agree with it",
        404 => "There is no such key",
        405 => "Another method; the body is empty",
        408 => "A semaphore was not free in time, or the body took longer than 10 s",
        409 => "The semaphore has another capacity, or is not held; or the worker refused",
        413 => "The body is longer than 1 MiB",
        501 => "This command cannot run anything on workers",
        503 => "The worker's agent is offline",
        _ => "A fault of the controller",
    }
}
