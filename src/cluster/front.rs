//! Where a request comes in: answered here, passed on, or held until somebody is active.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select};
use log::debug;
use serde_json::json;

use super::Standby;
use super::forward::{self, Forwarding};
use super::framing::NOT_DONE;
use super::member::{Member, Peer, Tenancy, View, Watch};
use super::upstream::{Relayed, Upstream};
use crate::doors::{Introduction, Service};
use crate::http::connection::{Exchange, Next};
use crate::http::departures::Client;
use crate::http::{Problem, Request, Response, Status};

/// A response that takes longer is waited for with an eye on the client.
const AT_ONCE: Duration = Duration::from_millis(20);

/// How soon a server that could not be reached is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a server that is about to end holds requests.
const FAREWELL: Duration = Duration::from_millis(700);

/// What became of a request.
pub enum Answered {
    /// This is the response.
    Response(Response),
    /// The first is the response, instead of the other one, which must not be given.
    Instead(Response, Response),
    /// The response has been sent.
    Passed(Next),
    /// The client has gone.
    Gone,
}

/// What became of a request that was sent to the active server.
#[derive(Debug)]
enum Sent {
    Passed(Next),
    /// The active server has done nothing.
    NotDone,
    /// It may have done it, or not.
    Unanswered,
    Gone,
}

impl Member {
    /// Answers a request, or has the active server do it. `forwarding` belongs to the client's
    /// connection.
    pub fn answer(
        &self,
        exchange: &Exchange<'_>,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> Answered {
        let Exchange { request, client, .. } = exchange;
        if is_health(request) {
            return Answered::Response(self.health(request));
        }
        if is_own(request) {
            return Answered::Response(service.answer(request, *client).wait());
        }
        let from_server = forward::forwarded(request);
        let came = Instant::now();
        let mut known = None;
        loop {
            let (view, watch) = self.watch();
            let peer = match view {
                View::Active(tenancy) => {
                    drop(watch);
                    let field = from_server.as_deref();
                    match self.answer_as_active(&tenancy, exchange, field, service) {
                        Some(answered) => return answered,
                        None => continue,
                    }
                }
                View::Refusing(_) => {
                    return Answered::Response(match from_server {
                        Some(_) => refusing().header(NOT_DONE, "1"),
                        None => refusing(),
                    });
                }
                View::Standby(_) if from_server.is_some() => {
                    return Answered::Response(not_active().header(NOT_DONE, "1"));
                }
                View::Standby(peer) => peer,
            };
            if self.standby == Standby::Redirect
                && let Some(peer) = &peer
            {
                let refusal = service.answer_to_head(request, *client);
                return Answered::Response(refusal.unwrap_or_else(|| redirect(peer, request)));
            }
            let introduction = match introduced(&mut known, exchange, service) {
                Ok(introduction) => introduction,
                Err(refusal) => return Answered::Response(refusal),
            };
            if let Some(peer) = &peer {
                match self.forward(peer, exchange, introduction, forwarding) {
                    Sent::Passed(next) => return Answered::Passed(next),
                    Sent::Gone => return Answered::Gone,
                    Sent::Unanswered if !may_be_repeated(request) => {
                        return Answered::Response(unknown());
                    }
                    sent => {
                        debug!("{} {}: {sent:?} by {}", request.method, request.target, peer.url)
                    }
                }
            }
            match self.hold(&watch, came, peer.is_some(), *client) {
                Held::Again => {}
                Held::TooLong if peer.is_some() => return Answered::Response(unreachable()),
                Held::TooLong => return Answered::Response(nobody()),
                Held::Gone => return Answered::Gone,
            }
        }
    }

    /// An answer is worked out first, and given if nobody else can have become active until then.
    /// `None`: another server has to be asked.
    fn answer_as_active(
        &self,
        tenancy: &Arc<Tenancy>,
        exchange: &Exchange<'_>,
        forwarded: Option<&str>,
        service: &Service,
    ) -> Option<Answered> {
        let Exchange { request, client, .. } = exchange;
        let introduction = match forwarded {
            Some(field) => match forward::believed(field, tenancy.secret()) {
                Some(introduction) => Some(introduction),
                // Of an earlier tenure, or of nobody that is known.
                None => return Some(Answered::Response(not_active().header(NOT_DONE, "1"))),
            },
            None => None,
        };
        let response = service.answer_for(request, *client, introduction.as_ref()).wait();
        if tenancy.tenure.may_show() {
            // A stream is made while it is sent.
            let tenure = Arc::clone(&tenancy.tenure);
            return Some(Answered::Response(response.only_if(move || tenure.may_show())));
        }
        let done = !is_look(request) && (200..300).contains(&response.status.code());
        if response.unknown || done && tenancy.may_answer() {
            return Some(Answered::Response(response));
        }
        if done {
            return Some(Answered::Instead(unknown(), response));
        }
        if is_look(request) && forwarded.is_none() && !matches!(self.view(), View::Active(_)) {
            return None;
        }
        let refusal = not_active();
        Some(Answered::Response(match forwarded {
            Some(_) => refusal.header(NOT_DONE, "1"),
            None => refusal,
        }))
    }

    fn forward(
        &self,
        peer: &Arc<Peer>,
        exchange: &Exchange<'_>,
        introduction: &Introduction,
        forwarding: &mut Forwarding,
    ) -> Sent {
        let Exchange { request, client, .. } = exchange;
        let open = forwarding.0.take().filter(|kept| kept.url == peer.url && kept.is_open());
        let Some(mut upstream) = open.or_else(|| self.connect(peer)) else { return Sent::NotDone };
        let (Ok(for_change), Ok(for_departure)) = (upstream.handle(), upstream.handle()) else {
            return Sent::NotDone;
        };
        let Some(_asking) = self.ask(peer, for_change) else { return Sent::NotDone };
        let bytes = forward::bytes(request, &peer.secret, introduction);
        if upstream.send(&bytes).is_err() {
            return Sent::Unanswered;
        }
        let _watch = if upstream.wait(AT_ONCE) {
            None
        } else {
            client.watch(move || for_departure.end()).ok().flatten()
        };
        let to_head = request.method == "HEAD";
        let is_stream = path(request) == "/events";
        let pass = |bytes: &[u8]| {
            // Who may see less than before has to ask again.
            if is_stream && !introduction.is_current() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            exchange.pass(bytes)
        };
        match upstream.relay(to_head, pass) {
            Relayed::Passed { close: true } => Sent::Passed(Next::Close),
            Relayed::Passed { close: false } => {
                forwarding.0 = Some(upstream);
                let next = if request.keep_alive { Next::Request } else { Next::Close };
                Sent::Passed(next)
            }
            // The rest of that response would be taken for the next one.
            Relayed::NotDone => Sent::NotDone,
            Relayed::NoResponse if client.has_left() => Sent::Gone,
            Relayed::NoResponse => Sent::Unanswered,
            Relayed::Broken => Sent::Gone,
        }
    }

    fn connect(&self, peer: &Peer) -> Option<Upstream> {
        let connected = Upstream::connect(&peer.url, self.trust.as_ref());
        match &connected {
            Ok(_) => self.note_reached(&peer.url),
            Err(error) => self.note_unreachable(&peer.url, error),
        }
        connected.ok()
    }

    /// Waits until another server may be asked, or the same one again.
    fn hold(&self, watch: &Watch<'_>, came: Instant, retry: bool, client: Client<'_>) -> Held {
        let mut until = came + self.pace.hold();
        if let Some(leaving_since) = self.leaving_since() {
            until = until.min(leaving_since + FAREWELL);
        }
        let now = Instant::now();
        if now >= until {
            return Held::TooLong;
        }
        let waker = watch.waker();
        let _departure = client.watch(move || {
            if let Some(waker) = waker {
                // One who has a message is awake.
                let _ = waker.try_send(());
            }
        });
        let pause = if retry { AGAIN.min(until - now) } else { until - now };
        select! {
            recv(watch.changed) -> _ => {}
            recv(after(pause)) -> _ => {}
        }
        if client.has_left() { Held::Gone } else { Held::Again }
    }

    /// `GET /health`: of this server, and who is active. `?role=active`: whether it is this one.
    fn health(&self, request: &Request<'_>) -> Response {
        if self.leaving_since().is_some() {
            return Problem::new(Status::ServiceUnavailable, "the server is shutting down").into();
        }
        let (role, active) = match self.view() {
            View::Active(tenancy) if tenancy.may_answer() => ("active", Some(self.url.clone())),
            View::Active(_) => ("unconfirmed", None),
            View::Standby(peer) => ("standby", peer.map(|peer| peer.url.clone())),
            View::Refusing(refused) => {
                let problem = Problem::new(Status::ServiceUnavailable, refused.detail.clone());
                return problem.because("not_active").into();
            }
        };
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        if query.split('&').any(|pair| pair == "role=active") && role != "active" {
            let detail = "this server is not the active one";
            return Problem::new(Status::ServiceUnavailable, detail).because("not_active").into();
        }
        let body = json!({ "status": "ok", "role": role, "active": active }).to_string() + "\n";
        let response = Response::new(Status::Ok).body("application/json", body.into_bytes());
        response.header("Cache-Control", "no-store")
    }
}

enum Held {
    Again,
    TooLong,
    Gone,
}

/// Who the client is, which is asked once.
fn introduced<'k>(
    known: &'k mut Option<Introduction>,
    exchange: &Exchange<'_>,
    service: &Service,
) -> Result<&'k Introduction, Response> {
    let introduction = match known.take() {
        Some(introduction) => introduction,
        None => service.introduce(&exchange.request, exchange.client)?,
    };
    Ok(known.insert(introduction))
}

fn path<'r>(request: &Request<'r>) -> &'r str {
    request.target.split(['?', '#']).next().unwrap_or_default()
}

fn is_look(request: &Request<'_>) -> bool {
    matches!(request.method, "GET" | "HEAD")
}

fn is_health(request: &Request<'_>) -> bool {
    is_look(request) && path(request) == "/health"
}

/// About this server rather than its locks, or a mistake whoever answers it.
fn is_own(request: &Request<'_>) -> bool {
    let own = ["/", "/metrics", "/openapi.json", "/health"].contains(&path(request));
    own || request.method == "OPTIONS"
}

/// Whether it does no harm if it was done before: it says which request it is, or which node or run
/// of Terraform sends it, or what a lock is to be like.
fn may_be_repeated(request: &Request<'_>) -> bool {
    let has_key = request.headers.all("Idempotency-Key").next().is_some();
    let is_known = match request.method {
        "POST" => has_key || path(request).starts_with("/v1/"),
        "LOCK" | "PATCH" => true,
        _ => false,
    };
    is_look(request) || is_known
}

fn redirect(peer: &Peer, request: &Request<'_>) -> Response {
    let path = request.target.find('/').map_or("/", |at| match request.target.find("://") {
        // A target with a scheme and a host.
        Some(scheme) => {
            let rest = &request.target[scheme + 3..];
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        None => &request.target[at..],
    });
    Response::new(Status::TemporaryRedirect)
        .header("Location", format!("{}{path}", peer.url))
        .header("Cache-Control", "no-store")
}

fn not_active() -> Response {
    refusal("this server is not the active one for now, and nothing was done").into()
}

fn unreachable() -> Response {
    refusal("the active server cannot be reached from this one, and nothing was done").into()
}

fn nobody() -> Response {
    refusal("there is no active server for now, and nothing was done").into()
}

fn refusing() -> Response {
    refusal(
        "no lock is granted until an operator has acted, and nothing was done: /health says why",
    )
    .into()
}

fn refusal(detail: &'static str) -> Problem {
    let problem = Problem::new(Status::ServiceUnavailable, detail).because("not_active");
    problem.with_header("Retry-After", "1")
}

fn unknown() -> Response {
    let detail = "the active server is gone, and it is not known whether this was done: look, or \
                  send it again with its Idempotency-Key";
    let problem = Problem::new(Status::ServiceUnavailable, detail).because("outcome_unknown");
    problem.with_header("Retry-After", "1").unknown().into()
}
