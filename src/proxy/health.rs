//! The health of one of several servers.

use serde_json::{Map, Value, json};

use crate::cluster::role::{Role, View};
use crate::doors::not_writable;
use crate::http::{Problem, Request, Response, Status};

/// `GET /health`: this server's role, and the URL of the active one. 503 if requests about locks
/// would be refused here; with `?role=active`, by every other server, too.
pub(super) fn health(role: &Role, request: &Request<'_>) -> Response {
    let response = match checked(role, request) {
        Ok(body) => Response::new(Status::Ok)
            .body("application/json", (Value::Object(body).to_string() + "\n").into_bytes()),
        Err(problem) => problem.into(),
    };
    response.header("Cache-Control", "no-store")
}

fn checked(role: &Role, request: &Request<'_>) -> Result<Map<String, Value>, Problem> {
    if role.leaving_since().is_some() {
        return Err(Problem::new(Status::ServiceUnavailable, "the server is shutting down"));
    }
    let wanted = request.target.query().only("role")?;
    let (name, active) = match role.view() {
        View::Active(active) if active.term.may_answer() => ("active", Some(role.url.clone())),
        View::Active(_) => ("unconfirmed", None),
        View::Standby(peer) => ("standby", peer.map(|peer| peer.url.clone())),
        View::DuplicateUrl | View::Halted(_) => ("standby", None),
    };
    let shown = [("role", json!(name)), ("active", json!(active))];
    let shown: Map<_, _> = shown.into_iter().map(|(name, value)| (name.into(), value)).collect();
    let not_active = |detail| {
        let problem = Problem::new(Status::ServiceUnavailable, detail).because("not_active");
        problem.with_members(shown.clone())
    };
    role.serves().map_err(&not_active)?;
    role.writable().map_err(|why| not_writable(&why).with_members(shown.clone()))?;
    if wanted.as_deref() == Some("active") && name != "active" {
        return Err(not_active("this server is not the active one".into()));
    }
    let mut body = shown;
    body.insert("status".into(), "ok".into());
    Ok(body)
}
