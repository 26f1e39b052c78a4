//! What the API answers.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use serde::Serialize;

/// A refusal: a status and one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn answer(&self) -> Response<Body> {
        with(self.status, "text/plain; charset=utf-8", format!("{}\n", self.message).into_bytes())
    }
}

/// An answer, or why there is none.
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// 200 with an empty body.
pub(super) fn empty() -> Answer {
    Ok(Response::new(Body::empty()))
}

/// 200 with JSON.
pub(super) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(with(StatusCode::OK, "application/json", bytes)),
        Err(error) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer is no JSON: {error}"))),
    }
}

fn with(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
