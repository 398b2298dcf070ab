//! The health of one of several servers.

use serde_json::json;

use crate::cluster::role::{Role, View};
use crate::http::{Problem, Request, Response, Status};

/// `GET /health`: this server's role, and the URL of the active one. With `?role=active`, every other
/// server answers 503.
pub(super) fn health(role: &Role, request: &Request<'_>) -> Response {
    if role.leaving_since().is_some() {
        return Problem::new(Status::ServiceUnavailable, "the server is shutting down").into();
    }
    let (name, active) = match role.view() {
        View::Active(active) if active.term.may_answer() => ("active", Some(role.url.clone())),
        View::Active(_) => ("unconfirmed", None),
        View::Standby(peer) => ("standby", peer.map(|peer| peer.url.clone())),
        View::DuplicateUrl => ("standby", None),
        View::Halted(reason) => {
            let problem = Problem::new(Status::ServiceUnavailable, reason.detail.clone());
            return problem.because("not_active").into();
        }
    };
    let wanted = match request.target.query().only("role") {
        Ok(wanted) => wanted,
        Err(problem) => return problem.into(),
    };
    if wanted.as_deref() == Some("active") && name != "active" {
        let detail = "this server is not the active one";
        return Problem::new(Status::ServiceUnavailable, detail).because("not_active").into();
    }
    let body = json!({ "status": "ok", "role": name, "active": active }).to_string() + "\n";
    let response = Response::new(Status::Ok).body("application/json", body.into_bytes());
    response.header("Cache-Control", "no-store")
}
