//! What became of a request that was forwarded, and what follows from it.

use std::io;
use std::ops::ControlFlow;

use log::debug;

use super::framing::ResponseHead;
use super::unavailable::Unavailable;
use super::upstream::Upstream;
use crate::cluster::role::Peer;
use crate::doors::{ForwardedClient, Service};
use crate::http::connection::{Exchange, Next};
use crate::http::{Request, Response};

/// The result of a request.
pub enum Answered {
    /// This is the response.
    Response(Response),
    /// The first one is sent; the second must not be.
    Instead(Response, Response),
    /// The response has been sent.
    Passed(Next),
    /// The client has gone.
    Gone,
}

/// The result of an attempt to forward a request.
#[derive(Debug)]
pub(super) enum Sent {
    Passed(Next),
    /// It was not sent.
    NotReached,
    /// The server is not the active one, and has done nothing.
    NotActive,
    /// The outcome is unknown.
    Unanswered,
    /// It granted a lock, and the client had left by then.
    Departed,
    /// The response broke off, or the client did not take it.
    Broken,
}

impl Sent {
    /// The answer, or why the request is held; `before`: why it was held until this attempt.
    pub(super) fn settle(
        self,
        peer: &Peer,
        request: &Request<'_>,
        service: &Service,
        before: Unavailable,
    ) -> ControlFlow<Result<Answered, Unavailable>, Unavailable> {
        let refused = match self {
            Self::Passed(next) => return ControlFlow::Break(Ok(Answered::Passed(next))),
            Self::Departed => {
                // The active server has counted it as granted.
                let response = service.error_response(request, Unavailable::departed().problem);
                return ControlFlow::Break(Ok(Answered::Response(response)));
            }
            Self::Broken => return ControlFlow::Break(Ok(Answered::Gone)),
            Self::Unanswered if !service.handling(request).is_repeatable => {
                return ControlFlow::Break(Err(Unavailable::unknown()));
            }
            Self::Unanswered => Unavailable::unknown(),
            Self::NotReached => Unavailable::not_reached(peer),
            Self::NotActive => Unavailable::not_active(peer),
        };
        let (method, target) = (request.method, request.target.as_str());
        debug!("{method} {target} by {}: {}", peer.url, refused.problem.detail());
        ControlFlow::Continue(before.or(refused))
    }
}

/// Relays a response to the client.
pub(super) fn relay(
    upstream: &mut Upstream,
    head: &ResponseHead,
    exchange: &Exchange<'_>,
    forwarded_client: &ForwardedClient,
    is_stream: bool,
) -> Sent {
    let relayed = upstream.relay(head, |bytes| {
        // A client whose rights have changed has to ask again.
        if is_stream && !forwarded_client.is_current() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        exchange.pass(bytes)
    });
    relayed.map_or(Sent::Broken, Sent::Passed)
}

pub(super) fn is_look(request: &Request<'_>) -> bool {
    matches!(request.method, "GET" | "HEAD")
}
