//! Where a request comes in: answered here, passed on, or held until somebody is active.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select};
use log::{debug, warn};
use serde_json::json;

use super::Standby;
use super::forward::{self, Believed, Forwarding};
use super::framing::{NOT_DONE, ResponseHead};
use super::member::{Member, Peer, Tenancy, View, Watch};
use super::refused::{NOT_THE_ACTIVE_ONE, Refused};
use super::upstream::Upstream;
use crate::doors::{AnsweredBy, Introduction, Service};
use crate::http::connection::{Exchange, Next};
use crate::http::departures::Client;
use crate::http::{Problem, Request, Response, Status, Target};

/// A response that takes longer is waited for with an eye on the client.
const AT_ONCE: Duration = Duration::from_millis(20);

/// How soon a server that could not be reached is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a server that is about to end holds requests.
const FAREWELL: Duration = Duration::from_millis(700);

/// How long the active server may take to take a lock back.
const TAKE_BACK: Duration = Duration::from_secs(5);

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
    /// It was not sent.
    NotReached,
    /// The server says that it is not the active one, and has done nothing.
    NotActive,
    /// It may have done it, or not.
    Unanswered,
    /// It has, and the client had left before it could be told.
    Departed,
    /// The response broke off, or the client did not take it.
    Broken,
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
        match service.handling(request).answered_by {
            AnsweredBy::Role if is_look(request) => {
                return Answered::Response(self.health(request));
            }
            AnsweredBy::Role | AnsweredBy::Receiver => {
                return Answered::Response(service.answer(request, *client).wait());
            }
            AnsweredBy::Active => {}
        }
        let answered = match forward::forwarded(request) {
            Some(field) => Ok(self.answer_server(&field, exchange, service)),
            None => self.answer_client(exchange, forwarding, service),
        };
        answered.unwrap_or_else(|Refused { reason, problem }| {
            service.count_refused(request, reason);
            Answered::Response(problem.into())
        })
    }

    /// Answers another server, which has passed the request on.
    fn answer_server(&self, field: &str, exchange: &Exchange<'_>, service: &Service) -> Answered {
        let not_done = || Answered::Response(not_active().header(NOT_DONE, "1"));
        let View::Active(tenancy) = self.view() else { return not_done() };
        match forward::believed(field, tenancy.secret()) {
            Some(Believed::Request(client)) => {
                let answered = self.answer_as_active(&tenancy, exchange, Some(&client), service);
                answered.unwrap_or_else(not_done)
            }
            Some(Believed::Undelivered) => {
                service.give_back(&exchange.request.target);
                match tenancy.may_answer() {
                    true => Answered::Response(Response::no_content()),
                    false => not_done(),
                }
            }
            // Of an earlier tenure, or of nobody that is known.
            None => not_done(),
        }
    }

    /// Answers a client here, or has the active server do it, as soon as there is one.
    fn answer_client(
        &self,
        exchange: &Exchange<'_>,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> Result<Answered, Refused> {
        let Exchange { request, client, .. } = exchange;
        let came = Instant::now();
        let (mut known, mut refused) = (None, Refused::nobody());
        let mut is_disowned = false;
        loop {
            let (view, watch) = self.watch();
            let peer = match view {
                View::Active(tenancy) => {
                    drop(watch);
                    match self.answer_as_active(&tenancy, exchange, None, service) {
                        Some(answered) => return Ok(answered),
                        None if is_look(request) && !matches!(self.view(), View::Active(_)) => {
                            continue;
                        }
                        None if refused.is_unknown() => return Err(refused),
                        None => return Ok(Answered::Response(not_active())),
                    }
                }
                View::Namesake => return Err(refused.or(Refused::namesake(&self.url))),
                View::Refusing(_) => return Err(refused.or(Refused::unusable())),
                View::Standby(peer) => peer,
            };
            if self.standby == Standby::Redirect
                && let Some(peer) = &peer
            {
                let refusal = service.answer_to_head(request, *client);
                return Ok(Answered::Response(refusal.unwrap_or_else(|| redirect(peer, request))));
            }
            let introduction = match introduced(&mut known, exchange, service) {
                Ok(introduction) => introduction,
                Err(refusal) => return Ok(Answered::Response(refusal)),
            };
            if let Some(peer) = &peer {
                let sent = self.forward(peer, exchange, introduction, forwarding, service);
                is_disowned = matches!(sent, Sent::NotActive);
                refused = match sent.settle(peer, request, service, refused) {
                    ControlFlow::Continue(refused) => refused,
                    ControlFlow::Break(answered) => return answered,
                };
            }
            match self.hold(&watch, came, peer.is_some(), *client) {
                Held::Again => {}
                Held::TooLong => {
                    if let Some(peer) = peer.filter(|_| is_disowned) {
                        self.note_unreachable(&peer.url, &NOT_THE_ACTIVE_ONE);
                    }
                    return Err(refused);
                }
                Held::Departed => return Err(refused.or(Refused::departed())),
            }
        }
    }

    /// An answer is worked out first, and given if nobody else can have become active until then.
    /// `None`: nothing was done, and another server has to be asked.
    fn answer_as_active(
        &self,
        tenancy: &Arc<Tenancy>,
        exchange: &Exchange<'_>,
        introduction: Option<&Introduction>,
        service: &Service,
    ) -> Option<Answered> {
        let Exchange { request, client, .. } = exchange;
        let response = service.answer_for(request, *client, introduction).wait();
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
            service.count_withheld(request);
            return Some(Answered::Instead(Refused::unknown().problem.into(), response));
        }
        // One that says that nothing was done says nothing about the locks either.
        let is_refused = response.status == Status::ServiceUnavailable && introduction.is_none();
        is_refused.then_some(Answered::Response(response))
    }

    fn forward(
        &self,
        peer: &Arc<Peer>,
        exchange: &Exchange<'_>,
        introduction: &Introduction,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> Sent {
        let Exchange { request, client, .. } = exchange;
        let open = forwarding.0.take().filter(|kept| kept.url == peer.url && kept.is_open());
        let Some(mut upstream) = open.or_else(|| self.connect(peer)) else {
            return Sent::NotReached;
        };
        let Some(asking) = self.ask(peer, upstream.handle()) else { return Sent::NotReached };
        let bytes = forward::bytes(request, &peer.secret, introduction);
        if upstream.send(&bytes).is_err() {
            return Sent::Unanswered;
        }
        let waits = !upstream.wait(AT_ONCE);
        let handle = upstream.handle();
        // The active server answers a client that has left, too: half of its connection may be open.
        let watch = waits.then(|| client.watch(move || handle.end_sending()));
        let Some(head) = upstream.response(request.method == "HEAD") else {
            return Sent::Unanswered;
        };
        if head.not_done {
            // The rest of that response would be taken for the next one.
            return Sent::NotActive;
        }
        self.note_reached(&peer.url);
        // As the active server looks for its own clients before it tells them of a lock.
        let handling = service.handling(request);
        let may_have_left = waits || handling.is_repeatable;
        let sent = if head.grant.is_some() && may_have_left && client.has_left() {
            Sent::Departed
        } else {
            relay(&mut upstream, &head, exchange, introduction, handling.is_stream)
        };
        let goes_on = matches!(sent, Sent::Passed(Next::Request));
        drop((watch, asking));
        // Or the active server has been told that this client has left.
        forwarding.0 = Some(upstream).filter(|_| goes_on && !(waits && client.has_left()));
        if let (Sent::Departed | Sent::Broken, Some(grant)) = (&sent, &head.grant) {
            self.give_back(&grant.lock, service);
        }
        match sent {
            Sent::Passed(_) if !request.keep_alive => Sent::Passed(Next::Close),
            sent => sent,
        }
    }

    /// Tells the active server, whichever that is by then, that the client does not know of its
    /// lock.
    fn give_back(&self, lock: &str, service: &Service) {
        let came = Instant::now();
        loop {
            let (view, watch) = self.watch();
            let is_told = match view {
                View::Active(_) => {
                    service.give_back(&Target::parse(lock));
                    true
                }
                View::Standby(Some(peer)) => self.tell_undelivered(&peer, lock),
                View::Standby(None) | View::Namesake | View::Refusing(_) => false,
            };
            if is_told {
                return;
            }
            if !self.pause(&watch, came, true) {
                return warn!("a client has left, and its lock could not be given back: {lock}");
            }
        }
    }

    /// Whether it need not be said again. Never twice: the second time could count for an answer
    /// that the client got when it asked once more.
    fn tell_undelivered(&self, peer: &Arc<Peer>, lock: &str) -> bool {
        let Some(mut upstream) = self.connect(peer) else { return false };
        let Some(_asking) = self.ask(peer, upstream.handle()) else { return false };
        if upstream.send(&forward::undelivered(lock, &peer.secret)).is_err() {
            return false;
        }
        let answered = upstream.wait(TAKE_BACK);
        !answered || upstream.response(false).is_none_or(|head| !head.not_done)
    }

    fn connect(&self, peer: &Peer) -> Option<Upstream> {
        let connected = Upstream::connect(&peer.url, &self.names, self.trust.as_ref());
        connected.inspect_err(|error| self.note_unreachable(&peer.url, error)).ok()
    }

    /// Waits until another server may be asked, or the same one again.
    fn hold(&self, watch: &Watch<'_>, came: Instant, retry: bool, client: Client<'_>) -> Held {
        let waker = watch.waker();
        let _departure = client.watch(move || {
            if let Some(waker) = waker {
                // One who has a message is awake.
                let _ = waker.try_send(());
            }
        });
        let in_time = self.pause(watch, came, retry);
        match client.has_left() {
            true => Held::Departed,
            false if in_time => Held::Again,
            false => Held::TooLong,
        }
    }

    /// Waits until another server is active, or for a while; `false`: a request that came then is
    /// held no longer.
    fn pause(&self, watch: &Watch<'_>, came: Instant, retry: bool) -> bool {
        let mut until = came + self.pace.hold();
        if let Some(leaving_since) = self.leaving_since() {
            until = until.min(leaving_since + FAREWELL);
        }
        let now = Instant::now();
        if now >= until {
            return false;
        }
        let pause = if retry { AGAIN.min(until - now) } else { until - now };
        select! {
            recv(watch.changed) -> _ => {}
            recv(after(pause)) -> _ => {}
        }
        true
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
            View::Namesake => ("standby", None),
            View::Refusing(refused) => {
                let problem = Problem::new(Status::ServiceUnavailable, refused.detail.clone());
                return problem.because("not_active").into();
            }
        };
        let wanted = match request.target.query().only("role") {
            Ok(wanted) => wanted,
            Err(problem) => return problem.into(),
        };
        if wanted.as_deref() == Some("active") && role != "active" {
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
    Departed,
}

/// Passes a response on.
fn relay(
    upstream: &mut Upstream,
    head: &ResponseHead,
    exchange: &Exchange<'_>,
    introduction: &Introduction,
    is_stream: bool,
) -> Sent {
    let relayed = upstream.relay(head, |bytes| {
        // Who may see less than before has to ask again.
        if is_stream && !introduction.is_current() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        exchange.pass(bytes)
    });
    relayed.map_or(Sent::Broken, Sent::Passed)
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

fn is_look(request: &Request<'_>) -> bool {
    matches!(request.method, "GET" | "HEAD")
}

fn redirect(peer: &Peer, request: &Request<'_>) -> Response {
    Response::new(Status::TemporaryRedirect)
        .header("Location", format!("{}{}", peer.url, request.target.origin_form()))
        .header("Cache-Control", "no-store")
}

impl Sent {
    /// The answer, or why the request is held. `before`: why it was, until it was sent.
    fn settle(
        self,
        peer: &Peer,
        request: &Request<'_>,
        service: &Service,
        before: Refused,
    ) -> ControlFlow<Result<Answered, Refused>, Refused> {
        let refused = match self {
            Self::Passed(next) => return ControlFlow::Break(Ok(Answered::Passed(next))),
            Self::Departed => {
                // The active server has counted it as granted.
                let response = Refused::departed().problem.into();
                return ControlFlow::Break(Ok(Answered::Response(response)));
            }
            Self::Broken => return ControlFlow::Break(Ok(Answered::Gone)),
            Self::Unanswered if !service.handling(request).is_repeatable => {
                return ControlFlow::Break(Err(Refused::unknown()));
            }
            Self::Unanswered => Refused::unknown(),
            Self::NotReached => Refused::not_reached(peer),
            Self::NotActive => Refused::not_active(peer),
        };
        let (method, target) = (request.method, request.target.as_str());
        debug!("{method} {target} by {}: {}", peer.url, refused.problem.detail());
        ControlFlow::Continue(before.or(refused))
    }
}

fn not_active() -> Response {
    Refused::because("this server is not the active one for now, and nothing was done")
        .problem
        .into()
}
