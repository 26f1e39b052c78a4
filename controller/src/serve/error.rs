//! How a request is refused: a status, a stable word, a message for outside, and one for our log.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use shared::api::v1::error::ErrorBody;

use super::database::Unavailable;

/// A refusal. What is internal goes to the log under the request's id, never outside.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: &'static str,
    pub(crate) message: String,
    pub(crate) internal: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into(), internal: None }
    }

    /// Not there, or not the caller's: nobody can tell which.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is no such thing here")
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        let mut refusal = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the controller could not do this; its log says why",
        );
        refusal.internal = Some(shared::diagnostic::chain(error));
        refusal
    }

    #[must_use]
    pub(crate) fn why(mut self, internal: impl Into<String>) -> Self {
        self.internal = Some(internal.into());
        self
    }

    /// The answer, once the request has its id.
    pub(crate) fn answer(self, request_id: &str) -> Response {
        let body = ErrorBody { error: self.error.into(), message: self.message, request_id: request_id.into() };
        let mut response = (self.status, Json(body)).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // `v1::observe` finds the refusal there, gives it the request's id and writes the log.
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        match &error {
            Unavailable::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the controller is busy, come back")
            }
            Unavailable::Catalog(_) => Self::internal(&error),
        }
    }
}
