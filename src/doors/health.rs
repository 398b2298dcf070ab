//! What is asked by those who watch the server or write clients for it.

use std::sync::atomic::Ordering;

use super::{Answer, Call};
use crate::http::accept::Accept;
use crate::http::{Problem, Response, Status};
use crate::metrics::Format;

/// What every request and answer looks like, in OpenAPI 3.1.
pub(super) const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// `GET /health`
pub(super) fn health(call: &Call<'_>) -> Answer {
    if call.service.shutting_down.load(Ordering::SeqCst) {
        let detail = "the server is shutting down";
        return Err(Problem::new(Status::ServiceUnavailable, detail).closing());
    }
    call.service.locks.writable().map_err(|why| {
        let detail = format!("locks cannot be changed for now: {why}");
        Problem::new(Status::ServiceUnavailable, detail)
    })?;
    Ok(Response::new(Status::Ok).body("application/json", b"{\"status\":\"ok\"}\n"))
}

/// `GET /metrics`
pub(super) fn metrics(call: &Call<'_>) -> Answer {
    let openmetrics = Accept::of(&call.request.headers).prefers_openmetrics();
    let format = if openmetrics { Format::OpenMetrics } else { Format::Prometheus };
    let text = call.service.metrics.to_text(&*call.service.locks, format).map_err(|error| {
        Problem::new(Status::InternalServerError, format!("cannot write them: {error}"))
    })?;
    let response = Response::new(Status::Ok).header("Vary", "Accept");
    Ok(response.body(format.content_type(), text.into_bytes()))
}

/// `GET /openapi.json`
pub(super) fn openapi(_: &Call<'_>) -> Answer {
    Ok(Response::new(Status::Ok).body("application/json", OPENAPI.as_bytes()))
}
