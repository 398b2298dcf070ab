//! Where requests come in: answered here, forwarded, or held until a server is active.

use std::net::Shutdown;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select};
use log::warn;

use super::forward::{self, Believed, Forwarding};
use super::framing::NOT_DONE;
use super::health::health;
use super::sent::{Answered, Sent, is_look, relay};
use super::trust::{Trust, TrustFiles};
use super::unavailable::{NOT_THE_ACTIVE_ONE, Unavailable};
use super::unreachable::Unreachable;
use super::upstream::Upstream;
use crate::client::raw::net::Names;
use crate::cluster::options::{Options, Standby};
use crate::cluster::role::{Peer, Role, View, Watch};
use crate::cluster::term::ActiveTerm;
use crate::doors::{AnsweredBy, ForwardedClient, Service};
use crate::http::certificates::CertificateFiles;
use crate::http::connection::{Exchange, Next};
use crate::http::departures::Client;
use crate::http::{Request, Response, Status, Target};

/// While a response takes longer, the client is watched.
const AT_ONCE: Duration = Duration::from_millis(20);

/// How soon an unreachable server is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a server that is shutting down holds requests.
const LEAVING: Duration = Duration::from_millis(700);

/// How long the active server may take to release a lock that was given back.
const TAKE_BACK: Duration = Duration::from_secs(5);

/// Takes the requests of all connections.
pub(crate) struct Proxy {
    role: Arc<Role>,
    standby: Standby,
    names: Names,
    /// For the other servers; `None`: without TLS, or there is no forwarding.
    pub(crate) trust: Option<Trust>,
    /// How many requests may be forwarded at a time that may wait: the connections of their clients
    /// are this server's.
    max_waiting: usize,
    forwarded: Arc<()>,
    pub(crate) unreachable: Unreachable,
}

impl Proxy {
    /// `own`: the certificate of this server. `max_waiting`: how many of its connections may wait.
    ///
    /// # Errors
    /// A file cannot be used; a sentence says which, and why.
    pub(crate) fn new(
        options: &Options,
        own: Option<CertificateFiles>,
        role: Arc<Role>,
        max_waiting: usize,
    ) -> Result<Self, String> {
        let speaks_tls = role.url.starts_with("https://") || options.advertise_ca.is_some();
        let trust = match options.standby {
            Standby::Forward if speaks_tls => {
                let files = TrustFiles { authority: options.advertise_ca.clone(), own };
                Some(files.load(&role.url)?)
            }
            Standby::Forward | Standby::Redirect => None,
        };
        Ok(Self {
            role,
            standby: options.standby,
            names: Names::default(),
            trust,
            max_waiting,
            forwarded: Arc::default(),
            unreachable: Unreachable::default(),
        })
    }

    /// Answers a request, or forwards it to the active server. `forwarding` belongs to the client's
    /// connection.
    pub(crate) fn answer(
        &self,
        exchange: &Exchange<'_>,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> Answered {
        let Exchange { request, client, .. } = exchange;
        match service.handling(request).answered_by {
            AnsweredBy::Role if is_look(request) => {
                return Answered::Response(health(&self.role, request));
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
        answered.unwrap_or_else(|Unavailable { reason, problem }| {
            service.count_refused(request, reason);
            Answered::Response(service.error_response(request, problem))
        })
    }

    /// Answers another server, which has forwarded the request.
    fn answer_server(&self, field: &str, exchange: &Exchange<'_>, service: &Service) -> Answered {
        let not_done = || Answered::Response(not_active().header(NOT_DONE, "1"));
        let View::Active(active) = self.role.view() else { return not_done() };
        match forward::believed(field, &active.term.secret) {
            Some(Believed::Request(client)) => {
                let answered = self.answer_as_active(&active, exchange, Some(&client), service);
                answered.unwrap_or_else(not_done)
            }
            Some(Believed::Undelivered) => {
                service.give_back(&exchange.request.target);
                match active.term.may_answer() {
                    true => Answered::Response(Response::no_content()),
                    false => not_done(),
                }
            }
            // From an earlier term, or a stranger.
            None => not_done(),
        }
    }

    /// Answers a client, here or by the active server, as soon as there is one.
    fn answer_client(
        &self,
        exchange: &Exchange<'_>,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> Result<Answered, Unavailable> {
        let Exchange { request, client, .. } = exchange;
        let arrived_at = Instant::now();
        let (mut known, mut refused) = (None, Unavailable::nobody());
        let mut is_disowned = false;
        loop {
            let (view, watch) = self.role.watch();
            let peer = match view {
                View::Active(active) => {
                    drop(watch);
                    match self.answer_as_active(&active, exchange, None, service) {
                        Some(answered) => return Ok(answered),
                        None if is_look(request)
                            && !matches!(self.role.view(), View::Active(_)) =>
                        {
                            continue;
                        }
                        None if refused.is_unknown() => return Err(refused),
                        None => return Err(Unavailable::this_one()),
                    }
                }
                View::DuplicateUrl => {
                    return Err(refused.or(Unavailable::duplicate_url(&self.role.url)));
                }
                View::Halted(_) => return Err(refused.or(Unavailable::halted())),
                View::Standby(peer) => peer,
            };
            if self.standby == Standby::Redirect
                && let Some(peer) = &peer
            {
                let refusal = service.answer_to_head(request, *client);
                return Ok(Answered::Response(refusal.unwrap_or_else(|| redirect(peer, request))));
            }
            let forwarded_client = match introduced(&mut known, exchange, service) {
                Ok(forwarded_client) => forwarded_client,
                Err(refusal) => return Ok(Answered::Response(refusal)),
            };
            if let Some(peer) = &peer {
                let (sent, undelivered) =
                    self.forward(peer, exchange, forwarded_client, forwarding, service);
                if let Some(lock) = undelivered {
                    self.give_back(&lock, service);
                }
                is_disowned = matches!(sent, Sent::NotActive);
                refused = match sent.settle(peer, request, service, refused) {
                    ControlFlow::Continue(refused) => refused,
                    ControlFlow::Break(answered) => return answered,
                };
            }
            if !client.may_wait() {
                return Err(refused);
            }
            match self.hold(&watch, arrived_at, peer.is_some(), *client) {
                Held::Again => {}
                Held::TooLong => {
                    if let Some(peer) = peer.filter(|_| is_disowned) {
                        self.unreachable.note(&peer.url, &NOT_THE_ACTIVE_ONE);
                    }
                    return Err(refused);
                }
                Held::Departed => return Err(refused.or(Unavailable::departed())),
            }
        }
    }

    /// Works out the answer first, and gives it only if no other server can be active by then.
    /// `None`: nothing was done, and the request goes to another server.
    fn answer_as_active(
        &self,
        active: &Arc<ActiveTerm>,
        exchange: &Exchange<'_>,
        forwarded_client: Option<&ForwardedClient>,
        service: &Service,
    ) -> Option<Answered> {
        let Exchange { request, client, .. } = exchange;
        let response = service.answer_for(request, *client, forwarded_client).wait();
        if active.term.may_show() {
            // A stream is produced while it is sent, so it is checked at its end, too.
            let term = Arc::clone(&active.term);
            return Some(Answered::Response(response.still_valid(move || term.may_show())));
        }
        let done = !is_look(request) && (200..300).contains(&response.status.code());
        if response.unknown || done && active.term.may_answer() {
            return Some(Answered::Response(response));
        }
        if done {
            service.count_withheld(request);
            return Some(Answered::Instead(Unavailable::unknown().problem.into(), response));
        }
        // A refusal without effect says nothing about the locks, so it may be given. But if this
        // server is not active any more, the next one answers a look.
        let is_ours = !is_look(request) || matches!(self.role.view(), View::Active(_));
        let is_refused =
            response.status == Status::ServiceUnavailable && forwarded_client.is_none();
        (is_refused && is_ours).then_some(Answered::Response(response))
    }

    /// Forwards a request. Beside the result: the lock to be given back, of which the client was not
    /// told.
    fn forward(
        &self,
        peer: &Arc<Peer>,
        exchange: &Exchange<'_>,
        forwarded_client: &ForwardedClient,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> (Sent, Option<String>) {
        let Exchange { request, client, .. } = exchange;
        let open = forwarding.0.take().filter(|kept| kept.url == peer.url && kept.is_open());
        let Some(mut upstream) = open.or_else(|| self.connect(peer)) else {
            return (Sent::NotReached, None);
        };
        let Some(registration) = self.role.register(peer, upstream.socket()) else {
            return (Sent::NotReached, None);
        };
        let forwarded = Arc::clone(&self.forwarded);
        // Beside this one and that of the proxy itself.
        let others = Arc::strong_count(&forwarded).saturating_sub(2);
        let is_crowded = others >= self.max_waiting;
        let restricted = is_crowded.then(|| forwarded_client.not_waiting());
        let sent_as = restricted.as_ref().unwrap_or(forwarded_client);
        let bytes = forward::bytes(request, &peer.secret, sent_as);
        if upstream.send(&bytes).is_err() {
            return (Sent::Unanswered, None);
        }
        let waits = !upstream.wait(AT_ONCE);
        let socket = upstream.socket();
        // A client that has ended its sending side may still read.
        let watch = waits.then(|| {
            client.watch(move || {
                // Fails if the connection has ended.
                let _ = socket.shutdown(Shutdown::Write);
            })
        });
        let Some(head) = upstream.response(request.method == "HEAD") else {
            return (Sent::Unanswered, None);
        };
        if head.not_done {
            // The rest of that response would be taken for the next one.
            return (Sent::NotActive, None);
        }
        self.unreachable.note_reached(&peer.url);
        // The active server checks its own clients in the same way.
        let handling = service.handling(request);
        let may_have_left = waits || handling.is_repeatable;
        let sent = if head.grant.is_some() && may_have_left && client.has_left() {
            Sent::Departed
        } else {
            relay(&mut upstream, &head, exchange, forwarded_client, handling.is_stream)
        };
        let goes_on = matches!(sent, Sent::Passed(Next::Request));
        drop((watch, registration, forwarded));
        // Or the active server has been told that this client has left.
        forwarding.0 = Some(upstream).filter(|_| goes_on && !(waits && client.has_left()));
        match sent {
            Sent::Passed(_) if !request.keep_alive => (Sent::Passed(Next::Close), None),
            Sent::Passed(_) => (sent, None),
            sent => (sent, head.grant.map(|grant| grant.lock)),
        }
    }

    /// Tells the server that is active by then that the client was not told of its lock.
    fn give_back(&self, lock: &str, service: &Service) {
        let arrived_at = Instant::now();
        loop {
            let (view, watch) = self.role.watch();
            let is_told = match view {
                View::Active(_) => {
                    service.give_back(&Target::parse(lock));
                    true
                }
                View::Standby(Some(peer)) => self.tell_undelivered(&peer, lock),
                View::Standby(None) | View::DuplicateUrl | View::Halted(_) => false,
            };
            if is_told {
                return;
            }
            if !self.pause(&watch, arrived_at, true) {
                return warn!("a client has left, and its lock could not be given back: {lock}");
            }
        }
    }

    /// Returns whether this was, or may have been, received. It must not be sent twice: the second
    /// could count for the answer to the client's next attempt.
    fn tell_undelivered(&self, peer: &Arc<Peer>, lock: &str) -> bool {
        let Some(mut upstream) = self.connect(peer) else { return false };
        let Some(_registration) = self.role.register(peer, upstream.socket()) else { return false };
        if upstream.send(&forward::undelivered(lock, &peer.secret)).is_err() {
            return false;
        }
        let answered = upstream.wait(TAKE_BACK);
        !answered || upstream.response(false).is_none_or(|head| !head.not_done)
    }

    fn connect(&self, peer: &Peer) -> Option<Upstream> {
        let connected = Upstream::connect(&peer.url, &self.names, self.trust.as_ref());
        connected.inspect_err(|error| self.unreachable.note(&peer.url, error)).ok()
    }

    /// Waits until a server may be tried (again).
    fn hold(
        &self,
        watch: &Watch<'_>,
        arrived_at: Instant,
        retry: bool,
        client: Client<'_>,
    ) -> Held {
        let waker = watch.waker();
        let _departure = client.watch(move || {
            if let Some(waker) = waker {
                // If it is full, a message is there already.
                let _ = waker.try_send(());
            }
        });
        let in_time = self.pause(watch, arrived_at, retry);
        match client.has_left() {
            true => Held::Departed,
            false if in_time => Held::Again,
            false => Held::TooLong,
        }
    }

    /// Waits for a change of the view, or a moment. `false`: a request that arrived then is not held
    /// any longer.
    fn pause(&self, watch: &Watch<'_>, arrived_at: Instant, retry: bool) -> bool {
        let mut until = arrived_at + self.role.pace.hold();
        if let Some(leaving_since) = self.role.leaving_since() {
            until = until.min(leaving_since + LEAVING);
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
}

enum Held {
    Again,
    TooLong,
    Departed,
}

/// Authenticates the client, once.
fn introduced<'k>(
    known: &'k mut Option<ForwardedClient>,
    exchange: &Exchange<'_>,
    service: &Service,
) -> Result<&'k ForwardedClient, Response> {
    let forwarded_client = match known.take() {
        Some(forwarded_client) => forwarded_client,
        None => service.introduce(&exchange.request, exchange.client)?,
    };
    Ok(known.insert(forwarded_client))
}

fn redirect(peer: &Peer, request: &Request<'_>) -> Response {
    Response::new(Status::TemporaryRedirect)
        .header("Location", format!("{}{}", peer.url, request.target.origin_form()))
        .header("Cache-Control", "no-store")
}

fn not_active() -> Response {
    Unavailable::this_one().problem.into()
}
