//! What is asked by those who watch the server or write clients for it.

use std::sync::atomic::Ordering;

use super::call::{Call, HandlerResult, PendingResult};
use super::door::{AnsweredBy, Door, Handler, OTHER, Operation, Path, at_once};
use super::refusals::not_writable;
use super::rights::Requirement;
use crate::http::accept::Accept;
use crate::http::{Problem, Response, Status};
use crate::metrics::Format;

pub(super) const DOOR: Door = Door::new(&[
    Path::new("/health", AnsweredBy::Role, &[get(NOTHING, |call| at_once(health(call)))]),
    Path::new("/metrics", AnsweredBy::Receiver, &[get(METRICS, |call| at_once(metrics(call)))]),
    Path::new("/openapi.json", AnsweredBy::Receiver, &[get(NOTHING, |_| at_once(openapi()))]),
]);

const NOTHING: Requirement = Requirement::Nothing;
const METRICS: Requirement = Requirement::METRICS;

const fn get(requires: Requirement, handler: fn(&Call<'_>) -> PendingResult) -> Operation {
    Operation::new("GET", requires, OTHER, Handler::Plain(handler))
}

/// What every request and answer looks like, in OpenAPI 3.1.
pub(super) const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// `GET /health`
fn health(call: &Call<'_>) -> HandlerResult {
    if call.context.shutting_down.load(Ordering::SeqCst) {
        let detail = "the server is shutting down";
        return Err(Problem::new(Status::ServiceUnavailable, detail).closing());
    }
    call.context.locks.writable().map_err(|why| not_writable(&why))?;
    Ok(Response::new(Status::Ok).body("application/json", b"{\"status\":\"ok\"}\n"))
}

/// `GET /metrics`
fn metrics(call: &Call<'_>) -> HandlerResult {
    let openmetrics = Accept::of(&call.request.headers).prefers_openmetrics();
    let format = if openmetrics { Format::OpenMetrics } else { Format::Prometheus };
    let text = call.context.metrics.to_text(&*call.context.locks, format).map_err(|error| {
        Problem::new(Status::InternalServerError, format!("cannot write them: {error}"))
    })?;
    let response = Response::new(Status::Ok).header("Vary", "Accept");
    Ok(response.body(format.content_type(), text.into_bytes()))
}

/// `GET /openapi.json`
fn openapi() -> HandlerResult {
    Ok(Response::new(Status::Ok).body("application/json", OPENAPI.as_bytes()))
}
